"""Which times an array is of: initial times, lead times, and the times at which it is valid.

Two of the three give the third, and files say any two of them, along one dimension or two, or as
single values. A name tells which it is, or an attribute after the CF conventions; a bare ``time``
is the initial time where there is a lead time, or a valid time, beside it.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from weathermixer.data.archives.coordinates import exact_lead_times, exact_times
from weathermixer.data.archives.names import LEAD, TIME, Unusable, role_of
from weathermixer.errors import UserError

_VALID_NAMES = ("valid_time",)
_INITIAL_NAMES = ("init_time", "initial_time", "forecast_reference_time", "reference_time")
_ZERO = np.timedelta64(0, "s")


@dataclass(frozen=True)
class TimeAxes:
    """The coordinates that tell an array's times; None for those that it does not have.

    ``source`` names the archive in messages. ``is_unclear`` where a file calls its ``time`` the
    valid one by its attributes, as many call any, and has lead times but no initial time that would
    confirm it.
    """

    source: str
    initial: xr.DataArray | None
    valid: xr.DataArray | None
    lead: xr.DataArray | None
    is_unclear: bool

    @classmethod
    def of(cls, array: xr.DataArray, dataset: xr.Dataset, source: str) -> TimeAxes:
        """Find the coordinates that tell the times of an array of a data set."""
        by_kind: dict[str, xr.DataArray] = {}
        for name in dict.fromkeys((*array.dims, *array.coords)):
            kind = _kind(name, dataset)
            if kind is not None and name in dataset.variables:
                by_kind.setdefault(kind, dataset[name])
        initial, valid, lead = (by_kind.get(kind) for kind in ("initial", "valid", "lead"))
        bare = by_kind.get("bare")
        is_unclear = False
        if bare is not None:
            if initial is None and (valid is not None or lead is not None):
                initial = bare
                is_unclear = valid is None and bare.attrs.get("standard_name") == "time"
            elif valid is None:
                valid = bare
        return cls(source, initial, valid, lead, is_unclear)

    def valid_times(self, along: Hashable | None) -> NDArray[np.datetime64]:
        """Times ``(time,)`` at which states are valid, along one of the array's dimensions.

        UserError where there are none, or where they cannot be told.
        """
        if self.valid is not None:
            return self._flat(exact_times(self.valid, self.source), along)
        if self.initial is None:
            raise UserError(f"{self.source} has no times: give it a coordinate 'time'")
        times = exact_times(self.initial, self.source)
        if self.lead is not None:
            leads = exact_lead_times(self.lead, self.source)
            if self.is_unclear and (leads != _ZERO).any():
                raise UserError(
                    f"{self.source} has times ({self.initial.name}) and lead times "
                    f"({self.lead.name}), and does not say whether the times are initial or valid "
                    "ones: name the valid ones 'valid_time'"
                )
            times = times + leads
        return self._flat(times, along)

    def initial_times(self, along: Hashable | None) -> NDArray[np.datetime64]:
        """Initial times ``(time,)`` of forecasts along one of the array's dimensions.

        Raises UserError where they cannot be told.
        """
        if self.initial is not None:
            return self._flat(exact_times(self.initial, self.source), along)
        assert self.valid is not None
        assert self.lead is not None
        leads = exact_lead_times(self.lead, self.source)
        return self._flat(exact_times(self.valid, self.source) - leads, along)

    def lead_times(self, along: Hashable | None) -> NDArray[np.timedelta64]:
        """Lead times ``(lead,)`` of forecasts along one of the array's dimensions.

        Raises UserError where they cannot be told.
        """
        if self.lead is not None:
            return self._flat(exact_lead_times(self.lead, self.source), along)
        assert self.valid is not None
        assert self.initial is not None
        initials = exact_times(self.initial, self.source)
        return self._flat(exact_times(self.valid, self.source) - initials, along)

    def dimensions(self, role: str, *, is_forecast: bool) -> tuple[Hashable, ...]:
        """Dimensions along which valid times, or a forecast's initial or lead times, vary.

        Raises Unusable where a forecast's cannot be told.
        """
        if not is_forecast:
            given, others = self.valid, (self.initial, self.lead)
        elif role == TIME:
            given, others = self.initial, (self.valid, self.lead)
        else:
            given, others = self.lead, (self.valid, self.initial)
        if is_forecast and given is None and any(term is None for term in others):
            missing = "prediction_timedelta" if self.lead is None else "time"
            raise Unusable(f"lacks the coordinate {missing}: add it")
        terms = others if given is None else (given,)
        return tuple(dict.fromkeys(dim for term in terms if term is not None for dim in term.dims))

    @staticmethod
    def _flat(instants: xr.DataArray, along: Hashable | None) -> NDArray[Any]:
        """Values along one dimension; the others have one element each."""
        first = instants.isel({dim: 0 for dim in instants.dims if dim != along})
        return np.atleast_1d(first.values)


def shared_dimension(
    role: str, varying: tuple[Hashable, ...], sizes: dict[Hashable, int]
) -> Hashable | None:
    """Choose of several dimensions the one along which times of a role vary; None if none is.

    Raises Unusable where more than one has several elements.
    """
    longer = [dim for dim in varying if sizes.get(dim, 1) > 1]
    if len(longer) > 1:
        what = "lead times" if role == LEAD else "times"
        raise Unusable(
            f"has {what} along {' × '.join(map(str, longer))}, as forecasts have: choose one lead "
            "time first"
        )
    present = [dim for dim in (*longer, *varying) if dim in sizes]
    return present[0] if present else None


def _kind(name: Hashable, dataset: xr.Dataset) -> str | None:
    """``initial``, ``valid``, ``lead``, or ``bare`` for what is called time and nothing else."""
    role = role_of(name, dataset)
    if role == LEAD:
        return "lead"
    if role != TIME:
        return None
    standard_name = dataset[name].attrs.get("standard_name") if name in dataset.variables else None
    if name in _VALID_NAMES:
        return "valid"
    if name in _INITIAL_NAMES or standard_name == "forecast_reference_time":
        return "initial"
    return "valid" if standard_name == "time" and str(name).lower() != "time" else "bare"

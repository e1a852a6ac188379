"""What an archive holds: its data sets taken apart into groups of fields that stand alone.

A file may hold several data sets, on other times, levels or grids. Each variable is looked at by
itself and put beside those that share its coordinates; what cannot be used is left out with the
reason, and spoils nothing else.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from weathermixer.data.archives.coordinates import grid_of, lead_times_of, levels_of, times_of
from weathermixer.data.archives.fields import ArchivedVariable, FieldGroup
from weathermixer.data.archives.formats import OpenedDataset, naming_errors, open_datasets
from weathermixer.data.archives.names import (
    DAY_OF_YEAR,
    HOUR,
    LATITUDE,
    LEAD,
    LEVEL,
    LONGITUDE,
    MEMBER,
    TIME,
    Unusable,
    meaning_of,
    role_of,
)
from weathermixer.data.channels import PROGNOSTIC_VARIABLES, VARIABLES
from weathermixer.errors import UserError

ANALYSIS = (TIME,)
FORECAST = (TIME, LEAD)
CLIMATOLOGY = (HOUR, DAY_OF_YEAR)
STATIC = ()
_KINDS = {ANALYSIS: "analysis", FORECAST: "forecast", CLIMATOLOGY: "climatology"}
_SHOWN_NAMES = 5


@dataclass(frozen=True)
class LeftOut:
    """A variable of an archive that is not used, under the archive's own name, and the reason.

    ``is_known`` tells a variable that this project knows, but cannot use as it is, from others.
    """

    name: str
    reason: str
    is_known: bool


@dataclass(frozen=True)
class Contents:
    """The groups of an archive's fields, with static fields in groups of their own.

    ``attributes`` are the archive's words about itself; ``is_partial`` tells whether parts of its
    fields can be read without the rest.
    """

    source: str
    groups: tuple[FieldGroup, ...]
    left_out: tuple[LeftOut, ...]
    attributes: Mapping[str, Any]
    is_partial: bool


def read_contents(source: str, leading: tuple[str, ...], *, member: int | None = None) -> Contents:
    """Open a path or address and find its fields with the dimensions ``leading``.

    ``member`` is the member of an ensemble to read. Raises UserError where nothing is there, or
    nothing that can be used, with the reasons.
    """
    groups: list[FieldGroup] = []
    left_out: list[LeftOut] = []
    opened = open_datasets(source)
    for each in opened:
        with naming_errors(source, "opened"):
            _Sorting(source, each, leading, member).into(groups, left_out)
    if not groups:
        raise UserError(_nothing_usable(source, leading, left_out))
    return Contents(
        source,
        tuple(groups),
        tuple(left_out),
        opened[0].dataset.attrs,
        all(each.is_partial for each in opened),
    )


class _Sorting:
    """Sorts the variables of one data set into groups."""

    def __init__(
        self, source: str, opened: OpenedDataset, leading: tuple[str, ...], member: int | None
    ) -> None:
        self._source, self._leading, self._member = source, leading, member
        self._dataset, self._storage = opened.dataset, opened.storage

    def into(self, groups: list[FieldGroup], left_out: list[LeftOut]) -> None:
        """Add the groups, and what is left out."""
        by_coordinates: dict[tuple[Any, ...], dict[str, ArchivedVariable]] = {}
        for name in sorted(map(str, self._dataset.data_vars), key=self._canonical_first):
            try:
                variable, archived = self._variable(name)
            except Unusable as error:
                left_out.append(LeftOut(name, str(error), error.is_known))
                continue
            leading = self._leading_of(variable)
            places = (archived.dimensions.get(r) for r in (*leading, LATITUDE, LONGITUDE))
            group = by_coordinates.setdefault((leading, *places), {})
            if variable in group:
                reason = f"is {variable} once more, which is read from {group[variable].own_name}"
                left_out.append(LeftOut(name, reason, is_known=True))
            else:
                group[variable] = archived
        for (leading, *_), variables in by_coordinates.items():
            try:
                groups.append(self._group(leading, variables))
            except UserError as error:
                reason = str(error).removeprefix(self._source).strip()
                left_out += [
                    LeftOut(each.own_name, reason, is_known=True) for each in variables.values()
                ]

    @staticmethod
    def _canonical_first(name: str) -> bool:
        return name not in VARIABLES

    def _leading_of(self, variable: str) -> tuple[str, ...]:
        return self._leading if variable in PROGNOSTIC_VARIABLES else STATIC

    def _variable(self, name: str) -> tuple[str, ArchivedVariable]:
        """A variable under its name here; Unusable where it cannot be used."""
        array = self._dataset[name]
        scalars = [own for own in array.coords if array.coords[own].ndim == 0]
        roles = {
            own: role
            for own in (*array.dims, *scalars)
            if (role := role_of(own, self._dataset)) is not None
        }
        meaning = meaning_of(name, array, roles)
        dimensions, fixed = self._dimensions(array, roles, meaning.variable)
        levels: tuple[int | None, ...] = (None,)
        if VARIABLES[meaning.variable].on_levels:
            own_level = next(own for own, role in roles.items() if role == LEVEL)
            if own_level not in self._dataset.variables:
                raise Unusable(f"has levels along {own_level} without values: state them")
            levels = levels_of(self._dataset[own_level])
        return meaning.variable, ArchivedVariable(
            name,
            array,
            self._storage,
            dimensions,
            fixed,
            levels,
            meaning.conversion,
            meaning.has_units,
        )

    def _dimensions(
        self, array: xr.DataArray, roles: Mapping[Hashable, str], variable: str
    ) -> tuple[dict[str, Hashable], dict[Hashable, int]]:
        """The array's own names of canonical dimensions, and where the others are held fixed."""
        leading = self._leading_of(variable)
        dimensions: dict[str, Hashable] = {}
        fixed: dict[Hashable, int] = {}
        times = [own for own in array.dims if roles.get(own) in (TIME, LEAD)]
        if (
            leading == ANALYSIS
            and len(longer := [own for own in times if array.sizes[own] > 1]) > 1
        ):
            raise Unusable(
                f"has times along {' × '.join(map(str, longer))}, as forecasts have: choose one "
                "lead time first"
            )
        for own, size in array.sizes.items():
            role = roles.get(own)
            if leading == ANALYSIS and role in (TIME, LEAD):
                # Of a time and a lead time, the longer one tells valid times apart.
                role = TIME if own == max(times, key=lambda each: array.sizes[each]) else None
            if role == LEVEL and not VARIABLES[variable].on_levels:
                role = None
            if role == MEMBER and size > 1:
                fixed[own] = self._member_of(own)
            elif role in (*leading, LEVEL, LATITUDE, LONGITUDE) and role not in dimensions:
                assert role is not None
                dimensions[role] = own
            elif size == 1 or (leading == STATIC and role == TIME):
                fixed[own] = 0  # of fields that do not change, the first time serves
            else:
                raise Unusable(
                    f"is on {' × '.join(map(str, array.dims))}: it must be on a grid of latitude × "
                    f"longitude, with {', '.join((*leading, LEVEL))} at most"
                )
        for role in (LATITUDE, LONGITUDE):
            if role not in dimensions:
                raise Unusable(f"is on {' × '.join(map(str, array.dims))}, without {role}s")
        return dimensions, fixed

    def _member_of(self, own: Hashable) -> int:
        values = np.asarray(self._dataset[own].values).tolist()
        if self._member in values:
            return int(values.index(self._member))
        said = "" if self._member is None else f"no member {self._member}, but "
        remedy = "choose one with --member" if self._leading == ANALYSIS else "choose one first"
        raise Unusable(
            f"holds {said}{len(values)} ensemble members, {', '.join(map(str, values))}: {remedy}"
        )

    def _group(
        self, leading: tuple[str, ...], variables: Mapping[str, ArchivedVariable]
    ) -> FieldGroup:
        """A group with its coordinates; UserError where they cannot be used."""
        first = next(iter(variables.values()))
        latitude, longitude = (self._coordinate(first.dimensions[r]) for r in (LATITUDE, LONGITUDE))
        coordinates: dict[str, NDArray[Any]] = {}
        for role in leading:
            if leading == ANALYSIS:
                coordinates[role] = self._valid_times(first)
            elif role == TIME:
                coordinates[role] = times_of(self._of_role(first, role), self._source)
            elif role == LEAD:
                coordinates[role] = lead_times_of(self._of_role(first, role), self._source)
            else:
                coordinates[role] = np.atleast_1d(self._of_role(first, role).values)
        grid = grid_of(latitude, longitude, self._source)
        return FieldGroup(self._source, leading, coordinates, grid, variables)

    def _coordinate(self, own: Hashable) -> xr.DataArray:
        if own not in self._dataset.variables:
            raise UserError(f"{self._source} has {own} without values: give it a coordinate")
        return self._dataset[own]

    def _of_role(self, archived: ArchivedVariable, role: str) -> xr.DataArray:
        """The coordinate of a leading dimension, or of a single element beside it."""
        own = archived.dimensions.get(role)
        if own is None:
            own = next(
                (name for name in archived.array.coords if role_of(name, self._dataset) == role),
                None,
            )
        if own is None:
            raise UserError(f"{self._source} lacks the coordinate {role}: add it")
        return self._coordinate(own)

    def _valid_times(self, archived: ArchivedVariable) -> NDArray[np.datetime64]:
        """The times that states are valid at: said so, or initial time plus lead time."""
        own = archived.dimensions.get(TIME)
        coordinates = archived.array.coords
        if "valid_time" in coordinates:
            valid = coordinates["valid_time"]
            others = [dim for dim in valid.dims if dim != own]
            return times_of(valid.isel(dict.fromkeys(others, 0)), self._source)
        by_role: dict[str, xr.DataArray] = {}
        for name, coordinate in coordinates.items():
            role = role_of(name, self._dataset)
            if role in (TIME, LEAD) and set(coordinate.dims) <= {own, *archived.fixed}:
                others = [dim for dim in coordinate.dims if dim != own]
                by_role.setdefault(role, coordinate.isel(dict.fromkeys(others, 0)))
        if TIME not in by_role:
            raise UserError(f"{self._source} has no times: give it a coordinate 'time'")
        if LEAD not in by_role:
            return times_of(by_role[TIME], self._source)
        return times_of(by_role[TIME], self._source) + lead_times_of(by_role[LEAD], self._source)


def left_out_in_words(source: str, left_out: Sequence[LeftOut]) -> str | None:
    """One line about what is left out of an archive, with the reasons; None where nothing is.

    Such as ``a.grib: left out z (has no level …); tp, sp (WeatherMixer does not use it)``.
    """
    return f"{source}: left out {_in_words(left_out)}" if left_out else None


def _in_words(left_out: Iterable[LeftOut]) -> str:
    reasons: dict[str, list[str]] = {}
    for each in left_out:
        reasons.setdefault(each.reason, []).append(each.name)
    return "; ".join(f"{_listed(names)} ({reason})" for reason, names in reasons.items())


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def _nothing_usable(source: str, leading: tuple[str, ...], left_out: Sequence[LeftOut]) -> str:
    known = [each for each in left_out if each.is_known]
    if not known:
        return (
            f"{source} holds none of the variables that WeatherMixer knows; it has "
            f"{_listed([each.name for each in left_out]) or 'none at all'}: choose another source"
        )
    reasons = list(dict.fromkeys(each.reason for each in known))
    if len(reasons) == 1 and len(known) > 1:
        return f"{source} {reasons[0]}"
    return f"{source} holds no {_KINDS[leading]} that can be used: {_in_words(known)}"

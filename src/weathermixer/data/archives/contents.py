"""What an archive holds: its data sets taken apart into groups of fields that stand alone.

A file may hold several data sets, on other times, levels or grids. Each variable is looked at by
itself and put beside those that share its coordinates; what cannot be used is left out with the
reason, and spoils nothing else.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from weathermixer.credentials import without_credentials
from weathermixer.data.archives.coordinates import grid_of, levels_of, refuse_repeated
from weathermixer.data.archives.fields import ArchivedVariable, FieldGroup
from weathermixer.data.archives.formats import OpenedDataset, naming_errors, open_datasets
from weathermixer.data.archives.left_out import LeftOut, nothing_usable
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
    canonical_name,
    meaning_of,
    role_of,
)
from weathermixer.data.archives.time_axes import TimeAxes, shared_dimension
from weathermixer.data.channels import PREDICTED_VARIABLES, VARIABLES
from weathermixer.errors import UserError

ANALYSIS = (TIME,)
FORECAST = (TIME, LEAD)
ENSEMBLE = (TIME, LEAD, MEMBER)
CLIMATOLOGY = (HOUR, DAY_OF_YEAR)
STATIC = ()
_KINDS = {ANALYSIS: "analysis", FORECAST: "forecast", CLIMATOLOGY: "climatology"}


@dataclass(frozen=True)
class Contents:
    """The groups of an archive's fields; an analysis has groups of static fields besides.

    ``source`` is the archive's path or address, and ``left_out`` what of it cannot be used.
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

    ``leading`` are those of an ``ANALYSIS``, a ``FORECAST`` or a ``CLIMATOLOGY``; fields of a
    forecast that has several members are those of an ``ENSEMBLE``. ``member`` is the member of an
    ensemble to read. Raises UserError where nothing is there, or nothing that can be used, with the
    reasons.
    """
    groups: list[FieldGroup] = []
    left_out: list[LeftOut] = []
    opened, name = open_datasets(source), without_credentials(source)
    for each in opened:
        with naming_errors(name, "opened"):
            _Sorting(name, each, leading, member).into(groups, left_out)
    if leading != ANALYSIS:
        groups = [group for group in groups if group.leading[: len(leading)] == leading]
    if not groups:
        raise UserError(nothing_usable(name, _KINDS[leading], left_out))
    return Contents(
        name,
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
        self._whole: set[Hashable] = set()  # coordinates

    def into(self, groups: list[FieldGroup], left_out: list[LeftOut]) -> None:
        """Add the data set's groups to ``groups``, and what cannot be used to ``left_out``."""
        by_coordinates: dict[tuple[Any, ...], dict[str, ArchivedVariable]] = {}
        for name in sorted(map(str, self._dataset.data_vars), key=self._canonical_first):
            if canonical_name(name) is None and self._is_no_field(name):
                continue
            try:
                variable, archived = self._variable(name)
            except Unusable as error:
                left_out.append(LeftOut(name, str(error), error.is_known))
                continue
            leading = self._leading_of(variable)
            if MEMBER in archived.dimensions:
                leading = ENSEMBLE
            places = (archived.dimensions.get(r) for r in (*leading, LATITUDE, LONGITUDE))
            times = frozenset(
                own for own in archived.array.coords if role_of(own, self._dataset) in (TIME, LEAD)
            )
            group = by_coordinates.setdefault((leading, *places, times), {})
            if variable in group:
                reason = (
                    f"is {variable} once more, which is read from {group[variable].name_in_archive}"
                )
                left_out.append(LeftOut(name, reason, is_known=True))
            else:
                group[variable] = archived
        for (leading, *_), variables in by_coordinates.items():
            try:
                groups.append(self._group(leading, variables))
            except UserError as error:
                reason = str(error).removeprefix(self._source).lstrip(": ")
                left_out += [
                    LeftOut(each.name_in_archive, reason, is_known=True)
                    for each in variables.values()
                ]

    @staticmethod
    def _canonical_first(name: str) -> bool:
        return name not in VARIABLES

    def _is_no_field(self, name: str) -> bool:
        """Whether a variable only describes others, as bounds of cells and projections do."""
        bounds = (each.attrs.get("bounds") for each in self._dataset.coords.values())
        return self._dataset[name].ndim < 2 or name in bounds

    def _leading_of(self, variable: str) -> tuple[str, ...]:
        return self._leading if variable in PREDICTED_VARIABLES else STATIC

    def _variable(self, name: str) -> tuple[str, ArchivedVariable]:
        """A variable under its canonical name; Unusable where it cannot be used."""
        array = self._dataset[name]
        scalars = [own for own in array.coords if array.coords[own].ndim == 0]
        roles = {
            own: role
            for own in (*array.dims, *scalars)
            if (role := role_of(own, self._dataset)) is not None
        }
        for own in scalars:
            if roles.get(own) == MEMBER:
                self._member_index(own, 1)
        for own in roles:
            self._refuse_unwritten_coordinate(own)
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

    def _refuse_unwritten_coordinate(self, own: Hashable) -> None:
        """Raises Unusable where values of a coordinate were never written.

        Those in order are not asked for: writers leave out chunks that hold the fill value alone,
        such as a first hour that is zero.
        """
        if own not in self._dataset.variables or own in self._whole:
            return
        values = self._dataset[own].values
        if values.ndim == 1 and values.dtype.kind in "iufmM":
            steps = np.sign(np.diff(values).astype(np.float64))
            is_ordered = bool(np.all(steps > 0) or np.all(steps < 0))
            if not is_ordered and not self._storage.is_whole(str(own)):
                raise Unusable(
                    f"has values of {own} that are repeated or out of order, and some of them were "
                    "never written: fetch it again, or drop what is repeated"
                )
        self._whole.add(own)

    def _dimensions(
        self, array: xr.DataArray, roles: Mapping[Hashable, str], variable: str
    ) -> tuple[dict[str, Hashable], dict[Hashable, int]]:
        """The array's own names of canonical dimensions, and where the others are held fixed."""
        leading = self._leading_of(variable)
        dimensions: dict[str, Hashable] = {}
        fixed: dict[Hashable, int] = {}
        times = self._time_dimensions(array, leading)
        for own, size in array.sizes.items():
            role = times.get(own, roles.get(own))
            if role in (TIME, LEAD) and own not in times:
                role = None
            if role == LEVEL and not VARIABLES[variable].on_levels:
                role = None
            is_member = roles.get(own) == MEMBER
            if is_member and leading == FORECAST and size > 1:
                dimensions[MEMBER] = own
            elif is_member and (index := self._member_index(own, size)) is not None:
                fixed[own] = index
            elif role in (*leading, LEVEL, LATITUDE, LONGITUDE) and role not in dimensions:
                assert role is not None
                dimensions[role] = own
            elif size == 1 or (leading == STATIC and roles.get(own) == TIME):
                fixed[own] = 0  # of fields that do not change, the first time serves
            elif own == "expver":
                raise Unusable(
                    "holds final and preliminary data side by side, along expver: merge them first"
                )
            elif roles.get(own) in (TIME, LEAD) and own not in self._dataset.variables:
                raise Unusable(f"has {own} without values: give it a coordinate")
            else:
                raise Unusable(
                    f"is on {' × '.join(map(str, array.dims))}: it must be on a grid of latitude × "
                    f"longitude, with {', '.join((*leading, LEVEL))} at most"
                )
        for role in (LATITUDE, LONGITUDE):
            if role not in dimensions:
                raise Unusable(f"is on {' × '.join(map(str, array.dims))}, without {role}s")
        return dimensions, fixed

    def _time_dimensions(
        self, array: xr.DataArray, leading: tuple[str, ...]
    ) -> dict[Hashable, str]:
        """Along which of an array's dimensions times and lead times vary."""
        axes = TimeAxes.of(array, self._dataset, self._source)
        by_dimension: dict[Hashable, str] = {}
        for role in leading:
            if role in (TIME, LEAD):
                varying = axes.dimensions(role, is_forecast=leading == FORECAST)
                own = shared_dimension(role, varying, dict(array.sizes))
                if own in by_dimension and array.sizes[own] > 1:
                    raise Unusable(
                        f"has initial times and lead times along {own} alone: put them along two "
                        "dimensions"
                    )
                if own is not None:
                    by_dimension.setdefault(own, role)
        return by_dimension

    def _member_index(self, own: Hashable, size: int) -> int | None:
        """The index of the wanted member; None where there is one alone, and not another's."""
        values = np.atleast_1d(self._dataset[own].values).tolist()
        if self._member in values:
            return int(values.index(self._member))
        # A single run is called member 0, and serves beside any.
        if size == 1 and (self._member is None or values == [0]):
            return None
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
        axes = TimeAxes.of(first.array, self._dataset, self._source)
        coordinates: dict[str, NDArray[Any]] = {}
        for role in leading:
            own = first.dimensions.get(role)
            if role not in (TIME, LEAD):
                coordinates[role] = np.atleast_1d(self._of_role(first, role).values)
                continue
            if leading == ANALYSIS:
                instants: NDArray[Any] = axes.valid_times(own)
            else:
                instants = axes.initial_times(own) if role == TIME else axes.lead_times(own)
            refuse_repeated(instants, self._source)
            size = 1 if own is None else first.array.sizes[own]
            if len(instants) != size:
                raise UserError(f"{self._source} has {own} without values: give it a coordinate")
            coordinates[role] = instants
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

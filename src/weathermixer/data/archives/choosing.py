"""Which channels, static fields and times to take from which of several analyses.

Nothing is read here but what tells where an analysis begins and ends; ``merging.py`` reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import Period
from weathermixer.data.archives.analyses import Analysis, StoreAnalysis
from weathermixer.data.archives.left_out import reasons_in_words
from weathermixer.data.channels import (
    DIAGNOSTIC_VARIABLES,
    LEVELS_HPA,
    PREDICTED_VARIABLES,
    STATIC_VARIABLES,
    Channel,
    names,
)
from weathermixer.errors import UserError

_NOWHERE = -1


@dataclass(frozen=True)
class ChosenTimes:
    """The ``times (time,)`` that have all the channels, and where each state is found.

    ``owner (channel, time)`` is the index of the analysis that has a channel at a time.
    ``num_incomplete`` times are left out, since they have some of the channels alone.
    """

    times: NDArray[np.datetime64]
    owner: NDArray[np.int16]
    num_incomplete: int


class Chooser:
    """Chooses channels, static fields and times from analyses.

    ``static_owner`` is the index of the first analysis that has each static field; ``remarks`` are
    sentences for the user about what was left out so far.
    """

    def __init__(self, analyses: Sequence[Analysis]) -> None:
        self.remarks: list[str] = []
        self._analyses = list(analyses)
        # A prepared store beside archives is there for its static fields; its times are not meant.
        lending = [isinstance(analysis, StoreAnalysis) for analysis in analyses]
        self._with_states = [
            index for index in range(len(analyses)) if not lending[index] or all(lending)
        ]
        self.static_owner: dict[str, int] = {}
        for index, analysis in enumerate(analyses):
            for name in analysis.static_channels:
                self.static_owner.setdefault(name, index)

    def channels(self, wanted: Sequence[Channel] | None) -> tuple[Channel, ...]:
        """The wanted channels; where that is None, all that any analysis has on the usual levels.

        Raises UserError naming those that no analysis has.
        """
        offered = {
            channel for index in self._with_states for channel in self._analyses[index].channels
        }
        if not offered:
            raise UserError(
                f"no source has states with a time ({self._names()}){self.left_out_reasons}: "
                "add one that has"
            )
        if wanted is None:
            diagnostic = {c for c in offered if c.variable in DIAGNOSTIC_VARIABLES}
            if diagnostic:
                self._remark(
                    f"{self._names()}: left out {channels_in_words(diagnostic)} "
                    "(data.diagnostic chooses)"
                )
                offered -= diagnostic
            usual = {c for c in offered if c.level_hpa in (None, *LEVELS_HPA)} or offered
            if usual != offered:
                other = {c.level_hpa for c in offered - usual}
                self._remark(
                    f"{self._names()}: left out {len(other)} levels that are not among the usual "
                    f"{len(LEVELS_HPA)} (data.levels chooses)"
                )
            offered = usual
            order = list(PREDICTED_VARIABLES)
            return tuple(sorted(offered, key=lambda c: (order.index(c.variable), c.level_hpa or 0)))
        lacking = [channel for channel in wanted if channel not in offered]
        if lacking:
            raise UserError(
                f"no source has {', '.join(names(lacking))}; {self._names()} offer "
                f"{channels_in_words(offered)}{self.left_out_reasons}: "
                "add a source, or change data.variables and data.levels"
            )
        return tuple(wanted)

    def static_channels(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """The wanted static fields; where that is None, all that any analysis has.

        Raises UserError naming those that no analysis has.
        """
        if wanted is None:
            return tuple(name for name in STATIC_VARIABLES if name in self.static_owner)
        lacking = [name for name in wanted if name not in self.static_owner]
        if lacking:
            raise UserError(
                f"no source has the static fields {', '.join(lacking)}; {self._names()} offer "
                f"{', '.join(self.static_owner) or 'none'}{self.left_out_reasons}: "
                "add a source that has them, or leave them out of data.static"
            )
        return tuple(wanted)

    def times(self, channels: Sequence[Channel], period: Period | None) -> ChosenTimes:
        """The times, in a period if one is wanted, at which there is every one of the channels.

        Times at the ends of an analysis at which nothing was written are left out. Raises UserError
        where no time is left, or where two analyses have the same channel at the same time.
        """
        times = np.unique(np.concatenate([self._analyses[i].times for i in self._with_states]))
        if period is not None:
            times = times[(times >= period[0]) & (times <= period[1])]
        owner = np.full((len(channels), len(times)), _NOWHERE, dtype=np.int16)
        for index in self._with_states:
            analysis = self._analyses[index]
            own = [channel for channel in channels if channel in analysis.channels]
            held = np.isin(times, self._written(analysis, own, period))
            for place in (channels.index(channel) for channel in own):
                twice = held & (owner[place] != _NOWHERE)
                if twice.any():
                    first = int(np.argmax(twice))
                    raise UserError(
                        f"{channels[place].name} at {times[first]} is both in "
                        f"{self._analyses[owner[place, first]].name} and in {analysis.name}: "
                        "leave one of them out"
                    )
                owner[place, held] = index
        whole = (owner != _NOWHERE).all(axis=0)
        if not whole.any():
            raise UserError(
                f"no time {'in the wanted period ' if period else ''}has all of "
                f"{channels_in_words(set(channels))} in {self._names()}: add sources of the same "
                "times, or prepare fewer variables"
            )
        num_incomplete = int(((owner != _NOWHERE).any(axis=0) & ~whole).sum())
        if num_incomplete:
            self._remark(
                f"{self._names()}: left out {num_incomplete} times that lack some of the channels"
            )
        return ChosenTimes(times[whole], owner[:, whole], num_incomplete)

    @property
    def left_out_reasons(self) -> str:
        """What is left out of the analyses though it is known, to follow what is missed.

        It stands in brackets after a space; empty where there is nothing of the kind.
        """
        by_name = {analysis.name: analysis.left_out for analysis in self._analyses}
        return "".join(reasons_in_words(name, left_out) for name, left_out in by_name.items())

    def _written(
        self, analysis: Analysis, channels: Sequence[Channel], period: Period | None
    ) -> NDArray[np.datetime64]:
        """The times at which an analysis may hold states, without empty ones at their ends."""
        times = analysis.times
        inside = (0, len(times))
        if period is not None:
            inside = (
                int(np.searchsorted(times, period[0])),
                int(np.searchsorted(times, period[1], side="right")),
            )
        written = analysis.written_range(channels, range(*inside))
        if len(written) and written.start > inside[0]:
            before = times[written.start]
            self._remark(f"{analysis.name}: times before {before} hold nothing and are left out")
        if len(written) and written.stop < inside[1]:
            after = times[written.stop - 1]
            self._remark(f"{analysis.name}: times after {after} hold nothing and are left out")
        return times[written.start : written.stop]

    def _remark(self, sentence: str) -> None:
        if sentence not in self.remarks:
            self.remarks.append(sentence)

    def _names(self) -> str:
        return ", ".join(dict.fromkeys(analysis.name for analysis in self._analyses))


def channels_in_words(channels: set[Channel]) -> str:
    """Channels as variables with their levels in hPa, shorter than a list of names."""
    by_levels: dict[str, list[str]] = {}
    for variable in PREDICTED_VARIABLES:
        levels = sorted(c.level_hpa or 0 for c in channels if c.variable == variable)
        if levels:
            place = f" at {', '.join(map(str, levels))} hPa" if levels[0] else ""
            by_levels.setdefault(place, []).append(variable)
    return "; ".join(f"{', '.join(variables)}{place}" for place, variables in by_levels.items())

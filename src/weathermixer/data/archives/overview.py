"""What an archive holds that can be used, and what is left out: for people, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from weathermixer.credentials import without_credentials
from weathermixer.data.archives.analyses import open_analyses
from weathermixer.data.archives.choosing import channels_in_words
from weathermixer.data.archives.coordinates import covers_globe
from weathermixer.data.archives.merging import MergedAnalyses
from weathermixer.data.channels import LEVELS_HPA, PREDICTED_VARIABLES, channels_of, names
from weathermixer.data.store.inspection import (
    Extent,
    collect_errors,
    damage_in_words,
    spacing_of,
)

_SHARED_BY = (2, 8, 64)
_WORTH_SAYING = 1.02


@dataclass(frozen=True)
class ArchiveOverview(Extent):
    """What can be used of an archive that others wrote, as ``data prepare`` would take it.

    ``variables`` are the ``channels`` in words. ``amplification`` tells, by how many ranks share a
    state along longitudes, how many bytes each fetches for each that it owns, since chunks come
    whole. ``remarks`` are sentences about what is left out. ``damaged`` names what could not be
    read; None where it was not looked for.
    """

    channels: tuple[str, ...]
    variables: str
    static_channels: tuple[str, ...]
    amplification: dict[int, float]
    remarks: tuple[str, ...]
    damaged: tuple[str, ...] | None

    def render(self) -> str:
        """The overview as a few lines of plain text for a terminal."""
        lines = [
            *self._heading(),
            f"  variables   {self.variables}",
            f"  static      {', '.join(self.static_channels) or 'none'}",
            f"  chunks      {_amplification_in_words(self.amplification)}",
        ]
        if self.damaged is not None:
            whole = "every state and static field was read"
            lines.append(f"  integrity   {damage_in_words(self.damaged) or whole}")
        return "\n".join([*lines, *self.remarks])


def inspect_archive(
    source: str,
    *,
    member: int | None = None,
    full: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ArchiveOverview:
    """Look into an archive at a path or address; with ``full``, read every state of it.

    Raises UserError where there is none that can be used.
    """
    analyses = open_analyses(source, member)
    levels = {c.level_hpa for each in analyses for c in each.channels if c.level_hpa is not None}
    held = {channel for each in analyses for channel in each.channels}
    ordered = channels_of(PREDICTED_VARIABLES, sorted(levels | set(LEVELS_HPA)))
    first = analyses[0].grid
    merged = MergedAnalyses(
        analyses,
        [channel for channel in ordered if channel in held],
        grid=None if covers_globe(first) else first,
    )
    usual, gaps = spacing_of(merged.times)
    reads: list[Callable[[], object]] = [
        partial(merged.read, index, index + 1) for index in range(len(merged.times))
    ]
    return ArchiveOverview(
        path=without_credentials(source),
        grid=merged.grid,
        latitude=(float(merged.latitude[0]), float(merged.latitude[-1])),
        longitude=(float(merged.longitude[0]), float(merged.longitude[-1])),
        dropped_row="latitude -90" if merged.dropped_row else None,
        num_times=len(merged.times),
        first_time=str(merged.times[0]),
        last_time=str(merged.times[-1]),
        usual_spacing_hours=usual,
        gaps=gaps,
        channels=names(merged.channels),
        variables=channels_in_words(set(merged.channels)),
        static_channels=merged.static_channels,
        amplification={
            ranks: _amplification(merged, ranks) for ranks in _SHARED_BY if ranks <= merged.grid[1]
        },
        remarks=merged.remarks,
        damaged=collect_errors([*reads, merged.read_static], progress) if full else None,
    )


def _amplification(merged: MergedAnalyses, ranks: int) -> float:
    """Bytes that the first of some ranks along longitudes fetches for each that it owns."""
    columns = slice(0, merged.grid[1] // ranks)
    return merged.reading_cost(longitudes=columns).amplification


def _amplification_in_words(amplification: Mapping[int, float]) -> str:
    beyond = [
        f"{factor:.3g} times its share with {ranks}"
        for ranks, factor in amplification.items()
        if factor > _WORTH_SAYING
    ]
    if not beyond:
        return "ranks that share a state along longitudes fetch their shares of it"
    return (
        f"of ranks that share a state along longitudes, each fetches {', '.join(beyond)}: "
        "'weathermixer data prepare' makes a store with chunks for them"
    )

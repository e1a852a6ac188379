"""What a store holds, and whether it is sound: for people, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weathermixer.console import Progress, size_text
from weathermixer.data.channels import parse_channel
from weathermixer.data.store.store import Store
from weathermixer.data.store.typical import typical
from weathermixer.data.time_steps import to_hours, to_timedelta
from weathermixer.errors import UserError

_SHOWN_GAPS = 3
_SHOWN_DAMAGED = 10


@dataclass(frozen=True)
class ChannelSummary:
    """A channel's statistics over the training period, and what is typical of ERA5.

    ``mean``, ``std`` and ``step_std`` (the standard deviation of the change over a step) are in the
    channel's ``units``, and so are ``typical_mean`` and ``typical_std``. The first three are None
    in a store of a single time.
    """

    name: str
    units: str
    mean: float | None
    std: float | None
    step_std: float | None
    typical_mean: float
    typical_std: float


@dataclass(frozen=True)
class Gap:
    """Two neighbouring times, ``after`` and ``before``, further apart than is usual in the store.

    ``hours`` lie between them.
    """

    after: str
    before: str
    hours: float


@dataclass(frozen=True)
class Extent:
    """Where and when states are known.

    ``grid`` is the numbers of latitudes and longitudes, ``latitude`` and ``longitude`` are the
    first and last of each in degrees, and ``dropped_row`` names a row that is left out.
    ``usual_spacing_hours`` is the commonest interval between neighbouring times, and ``gaps`` are
    where it is longer.
    """

    path: str
    grid: tuple[int, int]
    latitude: tuple[float, float]
    longitude: tuple[float, float]
    dropped_row: str | None
    num_times: int
    first_time: str
    last_time: str
    usual_spacing_hours: float | None
    gaps: tuple[Gap, ...]

    def to_json(self) -> dict[str, Any]:
        """All fields as an object of JSON."""
        return asdict(self)

    def _heading(self) -> list[str]:
        """The extent as the first lines of a page of plain text."""
        rows, columns = self.grid
        spacing = self.usual_spacing_hours
        usual = "" if spacing is None else f", mostly {spacing:g} h apart"
        return [
            f"{self.path}",
            f"  grid        {rows} × {columns}, latitude {self.latitude[0]:g} to "
            f"{self.latitude[1]:g}, longitude {self.longitude[0]:g} to {self.longitude[1]:g}"
            + (f" (without {self.dropped_row})" if self.dropped_row else ""),
            f"  times       {self.num_times}, {self.first_time} to {self.last_time}{usual}",
            f"  gaps        {gaps_in_words(self.gaps)}",
        ]


@dataclass(frozen=True)
class Inspection(Extent):
    """Everything worth knowing about a store.

    ``step_pairs`` counts pairs of times exactly ``step_hours`` apart, of which training samples are
    made. ``training_period`` is that of the statistics of ``channels``. ``climatology`` has the
    numbers of its hours and days, None where there is none. ``chunks`` and ``shards`` are the
    shapes of what is read at once and of a file of states. ``attributes`` are what else the store
    says of itself. ``damaged`` names what could not be read; None where it was not looked for.
    """

    step_hours: float
    step_pairs: int
    training_period: tuple[str, str] | None
    channels: tuple[ChannelSummary, ...]
    static_channels: tuple[str, ...]
    climatology: dict[str, int] | None
    chunks: tuple[int, ...]
    shards: tuple[int, ...]
    bytes_on_disk: int
    attributes: dict[str, Any]
    damaged: tuple[str, ...] | None

    def render(self) -> str:
        """The inspection as a page of plain text for a terminal."""
        lines = [
            *self._heading(),
            f"  steps       {self.step_pairs} pairs exactly {self.step_hours:g} h apart",
            f"  training    {' to '.join(self.training_period or ('none: a single time',))}",
            f"  static      {', '.join(self.static_channels) or 'none'}",
            f"  climatology {self._climatology_text()}",
            f"  on disk     {size_text(self.bytes_on_disk)}, chunks {_by(self.chunks)} in files "
            f"of {_by(self.shards)} (time × channel × latitude × longitude)",
        ]
        lines += [f"  {key:11} {value}" for key, value in self.attributes.items()]
        if self.damaged is not None:
            whole = "every state, static field and climatology was read"
            lines.append(f"  integrity   {damage_in_words(self.damaged) or whole}")
        return "\n".join([*lines, "", *self._channel_table()])

    def _climatology_text(self) -> str:
        if self.climatology is None:
            return "none"
        return f"{self.climatology['hours']} hours × {self.climatology['days']} days"

    def _channel_table(self) -> list[str]:
        width = max(len(channel.name) for channel in self.channels)
        head = f"  {'channel':{width}} {'units':>8} {'mean':>11} {'std':>11} {'step std':>11}"
        lines = [f"{head}   typical mean, std"]
        for channel in self.channels:
            numbers = (channel.mean, channel.std, channel.step_std)
            measured = " ".join(
                f"{'—':>11}" if number is None else f"{number:11.4g}" for number in numbers
            )
            lines.append(
                f"  {channel.name:{width}} {channel.units:>8} {measured}   "
                f"{channel.typical_mean:.3g}, {channel.typical_std:.3g}"
            )
        return lines


def inspect_store(
    path: Path | str, *, full: bool = False, progress: Progress | None = None
) -> Inspection:
    """Look into a store; with ``full``, read every state to find damaged ones.

    Raises UserError where there is no whole store at ``path``.
    """
    store = Store.open(path)
    times = store.times
    usual, gaps = spacing_of(times)
    state: Any = store.group["state"]
    known = ("weathermixer_store", "step_hours", "Conventions", "dropped_row", "training_period")
    return Inspection(
        path=str(store.path),
        grid=store.grid,
        latitude=(float(store.latitude[0]), float(store.latitude[-1])),
        longitude=(float(store.longitude[0]), float(store.longitude[-1])),
        dropped_row=store.attributes.get("dropped_row"),
        num_times=len(times),
        first_time=str(times[0]),
        last_time=str(times[-1]),
        usual_spacing_hours=usual,
        gaps=gaps,
        step_hours=to_hours(store.step),
        step_pairs=int(np.isin(times + store.step, times).sum()),
        training_period=_period_text(store),
        channels=_channel_summaries(store),
        static_channels=store.static_channels,
        climatology=_climatology_size(store),
        chunks=state.chunks,
        shards=state.shards or state.chunks,
        bytes_on_disk=store.bytes_on_disk,
        attributes={key: value for key, value in store.attributes.items() if key not in known},
        damaged=_damaged(store, progress) if full else None,
    )


def spacing_of(times: NDArray[np.datetime64]) -> tuple[float | None, tuple[Gap, ...]]:
    """The commonest interval between neighbouring times in hours, and the gaps that are longer.

    The interval is None where there are no two times.
    """
    spacing = to_hours(np.diff(times))
    if not len(spacing):
        return None, ()
    distinct, counts = np.unique(spacing, return_counts=True)
    usual = float(distinct[np.argmax(counts)])
    gaps = (
        Gap(str(times[index]), str(times[index + 1]), float(spacing[index]))
        for index in np.flatnonzero(spacing > usual)
    )
    return usual, tuple(gaps)


def gaps_in_words(gaps: Sequence[Gap]) -> str:
    """A phrase on how many gaps there are, with the longest of them; ``none`` without any."""
    if not gaps:
        return "none"
    longest = sorted(gaps, key=lambda gap: -gap.hours)[:_SHOWN_GAPS]
    shown = ", ".join(f"{gap.hours:g} h after {gap.after}" for gap in longest)
    more = len(gaps) - len(longest)
    return f"{len(gaps)}: {shown}" + (f" and {more} more" if more else "")


def damage_in_words(damaged: Sequence[str]) -> str:
    """A phrase on how much could not be read, with the first errors; empty where all was."""
    if not damaged:
        return ""
    more = len(damaged) - _SHOWN_DAMAGED
    shown = "; ".join(damaged[:_SHOWN_DAMAGED]) + (f"; {more} more" if more > 0 else "")
    return f"{len(damaged)} damaged: {shown}"


def collect_errors(
    reads: Sequence[Callable[[], object]], progress: Callable[[int, int], None] | None
) -> tuple[str, ...]:
    """Call all ``reads``, and collect the sentences of the UserErrors that some of them raise."""
    errors = []
    for done, read in enumerate(reads, start=1):
        try:
            read()
        except UserError as error:
            errors.append(str(error))
        if progress is not None:
            progress(done, len(reads))
    return tuple(errors)


def _channel_summaries(store: Store) -> tuple[ChannelSummary, ...]:
    summaries = []
    for index, name in enumerate(store.channels):
        channel = parse_channel(name)
        mean = std = step_std = None
        if store.has_statistics:
            statistics = store.statistics
            mean = float(statistics.mean[index])
            std = float(statistics.std[index])
            step_std = float(statistics.step_std[index])
        summaries.append(
            ChannelSummary(name, channel.units, mean, std, step_std, *typical(channel))
        )
    return tuple(summaries)


def _damaged(store: Store, progress: Progress | None) -> tuple[str, ...]:
    """What of the store cannot be read, in the words of the error that says so."""
    reads: list[Callable[[], object]] = [
        lambda index=index: store.read(index)  # type: ignore[misc]
        for index in range(len(store.times))
    ]
    reads.append(lambda: store.read_static(store.static_channels))
    if store.has_climatology:
        year = np.datetime64("2001-01-01", "s")  # of 365 days, as the climatology's
        reads += [
            lambda day=day, hour=hour: store.climatology_at(  # type: ignore[misc]
                year + np.timedelta64(int(day) - 1, "D") + to_timedelta(int(hour))
            )
            for hour in store.array("hour")
            for day in store.array("dayofyear")
        ]
    return collect_errors(reads, progress)


def _climatology_size(store: Store) -> dict[str, int] | None:
    if not store.has_climatology:
        return None
    return {"hours": len(store.array("hour")), "days": len(store.array("dayofyear"))}


def _period_text(store: Store) -> tuple[str, str] | None:
    if not store.has_statistics:
        return None
    start, stop = store.training_period
    return str(start), str(stop)


def _by(sizes: tuple[int, ...]) -> str:
    return " × ".join(map(str, sizes))

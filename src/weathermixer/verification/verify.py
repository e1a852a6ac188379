"""From a forecast and the truth to scores, a table and pictures. Joins the parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weathermixer.data.statistics import cell_area_weights
from weathermixer.data.store import write_error
from weathermixer.verification.comparison import Comparison
from weathermixer.verification.headline import MAP_HOURS, headline_leads
from weathermixer.verification.metrics import AreaMean, Sums, statistics
from weathermixer.verification.scores import (
    CLIMATOLOGY,
    MODEL,
    PERSISTENCE,
    Scores,
    write_csv,
)
from weathermixer.verification.tables import render

if TYPE_CHECKING:
    from weathermixer.verification.maps import Example

Progress = Callable[[int, int], None]

_CHANNELS_ON_MAPS = ("geopotential_500", "2m_temperature")


@dataclass(frozen=True)
class Verification:
    """Scores of a forecast beside its baselines.

    ``initial_times (time,)`` are those of which at least one lead time was scored;
    ``num_unscored`` pairs were not, for lack of truth. ``warnings`` are sentences for the user.
    """

    scores: Scores
    initial_times: tuple[np.datetime64, ...]
    num_unscored: int
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            **self.scores.to_json(),
            "initial_times": [str(time) for time in self.initial_times],
            "unscored_pairs": self.num_unscored,
            "warnings": list(self.warnings),
        }

    def render(self) -> str:
        """The headline numbers, as text for a terminal."""
        times = self.initial_times
        title = f"{len(times)} initial times, {times[0]} to {times[-1]}"
        return "\n".join([render(self.scores, title), *(f"Note: {one}." for one in self.warnings)])


def verify(
    forecast: Path, truth: Path, *, out: Path | None = None, progress: Progress | None = None
) -> Verification:
    """Score a forecast against a store, beside persistence and climatology over the same pairs.

    A pair of initial and lead time is scored where the truth has a state at both its valid time
    and its initial time, which persistence forecasts from. ``out`` is a folder for ``scores.json``,
    ``scores.csv`` and pictures. Raises UserError where forecast and truth do not fit together.
    """
    comparison = Comparison.open(Path(forecast), Path(truth))
    result = Verification(
        Scores.from_sums(
            _sum_up(comparison, progress),
            comparison.forecast.channels,
            comparison.forecast.lead_hours,
            with_climatology=comparison.truth.has_climatology,
        ),
        tuple(comparison.forecast.initial_times[comparison.times]),
        int((~comparison.pairs).sum()),
        _warnings(comparison),
    )
    if out is not None:
        _write(result, comparison, Path(out))
    return result


def _sum_up(comparison: Comparison, progress: Progress | None) -> dict[str, Sums]:
    """Sums over all pairs, of the model and of each baseline."""
    truth, pairs = comparison.truth, comparison.pairs
    area_mean = AreaMean(cell_area_weights(truth.latitude))
    sources = (MODEL, PERSISTENCE, *((CLIMATOLOGY,) if truth.has_climatology else ()))
    num_channels = len(comparison.forecast.channels)
    sums = {source: Sums.zero(pairs.shape[1], num_channels) for source in sources}
    done, total = 0, int(pairs.sum())
    for time in comparison.times:
        persistence = truth.at(comparison.forecast.initial_times[time])
        for lead, state in comparison.states(time):
            valid_time = comparison.valid_time(time, lead)
            happened = truth.at(valid_time)
            candidates = {MODEL: state, PERSISTENCE: persistence}
            expected = None
            if truth.has_climatology:
                expected = candidates[CLIMATOLOGY] = truth.climatology_at(valid_time)
            for source, candidate in candidates.items():
                sums[source].add(lead, statistics(candidate, happened, expected, area_mean))
            done += 1
            if progress is not None:
                progress(done, total)
    return sums


def _warnings(comparison: Comparison) -> tuple[str, ...]:
    warnings = []
    if comparison.forecast.unknown_variables:
        names = ", ".join(comparison.forecast.unknown_variables)
        warnings.append(f"{names}: not scored, since WeatherMixer knows no such variable")
    num_unscored = int((~comparison.pairs).sum())
    if num_unscored:
        warnings.append(
            f"{num_unscored} of {comparison.pairs.size} pairs of initial and lead time were left "
            f"out: {comparison.truth.path} has no state at their valid or initial time"
        )
    if not comparison.truth.has_climatology:
        warnings.append(
            f"{comparison.truth.path} has no climatology: acc, activity and the climatology "
            "baseline are left out"
        )
    return tuple(warnings)


def _write(result: Verification, comparison: Comparison, out: Path) -> None:
    # matplotlib takes a second to import, and is needed here alone.
    from weathermixer.verification.maps import draw_example
    from weathermixer.verification.pictures import draw_scores

    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "scores.json").write_text(json.dumps(result.to_json(), indent=1) + "\n")
        write_csv(result.scores, out / "scores.csv")
        draw_scores(result.scores, out)
        for example in _examples(comparison):
            draw_example(example, out)
    except OSError as error:
        raise write_error(out, error) from error


def _examples(comparison: Comparison) -> Iterator[Example]:
    """Fields for maps: a few channels, from the initial time with the most lead times."""
    from weathermixer.verification.maps import Example

    forecast, truth = comparison.forecast, comparison.truth
    time = int(comparison.pairs.sum(axis=1).argmax())
    scored = np.flatnonzero(comparison.pairs[time])
    hours = [forecast.lead_hours[lead] for lead in scored]
    leads = [int(scored[index]) for index in headline_leads(hours, MAP_HOURS)]
    states = {lead: comparison.state(time, lead) for lead in leads}
    present = [name for name in _CHANNELS_ON_MAPS if name in forecast.channels]
    for channel in present or forecast.channels[:1]:
        index = forecast.channels.index(channel)
        yield Example(
            channel,
            forecast.initial_times[time],
            truth.latitude,
            truth.longitude,
            {
                forecast.lead_hours[lead]: (
                    states[lead][index],
                    truth.at(comparison.valid_time(time, lead))[index],
                )
                for lead in leads
            },
        )

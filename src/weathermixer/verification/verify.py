"""From a forecast and the truth to scores, a table and pictures. Joins the parts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weathermixer.console import Progress
from weathermixer.data.store.store import write_error
from weathermixer.verification.accumulate import sum_up
from weathermixer.verification.comparison import Comparison
from weathermixer.verification.headline import MAP_HOURS, headline_leads
from weathermixer.verification.metrics import Sums
from weathermixer.verification.regions import GLOBAL, Regions
from weathermixer.verification.scores import (
    CLIMATOLOGY,
    MODEL,
    PERSISTENCE,
    TRUTH,
    Scores,
    write_csv,
)
from weathermixer.verification.spectrum import Spectra
from weathermixer.verification.tables import render

if TYPE_CHECKING:
    from weathermixer.verification.maps import Example

_CHANNELS_ON_MAPS = ("geopotential_500", "2m_temperature")


@dataclass(frozen=True)
class Verification:
    """Scores of a forecast beside others and baselines, by region, and its spectra.

    ``initial_times (time,)`` are those of which at least one lead time was scored;
    ``num_unscored`` pairs were not, for lack of truth. ``forecasts`` are the paths by name, the
    model's first. ``warnings`` are sentences for the user.
    """

    regions: Mapping[str, Scores]
    spectra: Spectra
    initial_times: tuple[np.datetime64, ...]
    num_unscored: int
    forecasts: Mapping[str, str]
    truth: str
    warnings: tuple[str, ...]

    @property
    def scores(self) -> Scores:
        """Over the globe."""
        return self.regions[GLOBAL]

    def to_json(self) -> dict[str, Any]:
        return {
            **self.scores.to_json(),
            "regions": {
                name: {**scores.by_channel(MODEL), **scores.by_source()}
                for name, scores in self.regions.items()
            },
            "spectrum": self._spectrum_json(),
            "initial_times": [str(time) for time in self.initial_times],
            "unscored_pairs": self.num_unscored,
            "forecast": self.forecasts[MODEL],
            "truth": self.truth,
            "forecasts_beside": {n: path for n, path in self.forecasts.items() if n != MODEL},
            "warnings": list(self.warnings),
        }

    def _spectrum_json(self) -> dict[str, Any]:
        """Over the globe; every region's are in ``spectrum.nc``."""
        by_source = {one: self.spectra.by_channel(one, GLOBAL) for one in self.spectra.values}
        return {
            "wavenumber": list(range(self.spectra.num_wavenumbers)),
            "forecast": by_source.pop(MODEL),
            "truth": by_source.pop(TRUTH),
            "beside": by_source,
        }

    def render(self) -> str:
        """The headline numbers, as text for a terminal."""
        times = self.initial_times
        title = f"{len(times)} initial times, {times[0]} to {times[-1]}"
        return "\n".join([render(self.scores, title), *(f"Note: {one}." for one in self.warnings)])


def verify(
    forecast: Path | str,
    truth: Path | str,
    *,
    beside: Sequence[str] = (),
    climatology: str | None = None,
    out: Path | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Score a forecast against a store, beside persistence and climatology over the same pairs.

    A pair of initial and lead time is scored where the truth has a state at both its valid time
    and its initial time, which persistence forecasts from. Other forecasts ``beside`` it are scored
    on what all of them have in common. ``climatology`` is an archive in the place of the truth's
    own. ``out`` is a folder for ``scores.json``, ``scores.csv``, ``spectrum.nc`` and pictures.
    Raises UserError where forecasts and truth do not fit together.
    """
    comparison = Comparison.open(forecast, truth, beside=beside, climatology=climatology)
    sums = sum_up(comparison, processes=processes, progress=progress)
    regions, spectra = _scores(comparison, sums)
    result = Verification(
        regions,
        spectra,
        tuple(comparison.initial_times[comparison.times]),
        int((~comparison.pairs).sum()),
        {name: one.path for name, one in comparison.forecasts.items()},
        comparison.truth.path,
        tuple(_warnings(comparison)),
    )
    if out is not None:
        _write(result, comparison, Path(out))
    return result


def _scores(comparison: Comparison, sums: Sums) -> tuple[dict[str, Scores], Spectra]:
    """Scores by region, and spectra, at the lead times that any pair has."""
    scored = sums.counts > 0
    means, energy = (each[scored] for each in sums.means())
    leads = tuple(np.array(comparison.lead_hours)[scored].tolist())
    pairs = tuple(sums.counts[scored].tolist())
    forecasts = tuple(comparison.forecasts)
    climatology = (CLIMATOLOGY,) if comparison.truth.has_climatology else ()
    sources = (*forecasts, PERSISTENCE, *climatology)
    names = Regions.of(comparison.grid.latitude).names
    regions = {
        name: Scores.from_means(means[..., index, :], sources, comparison.channels, leads, pairs)
        for index, name in enumerate(names)
    }
    by_source = np.moveaxis(energy, 1, 0)
    spectra = dict(zip((*forecasts, TRUTH), by_source, strict=True))
    return regions, Spectra(comparison.channels, leads, names, spectra)


def _warnings(comparison: Comparison) -> Iterator[str]:
    for forecast in comparison.forecasts.values():
        if forecast.remark is not None:
            yield forecast.remark
    yield from comparison.truth.remarks
    forecast = comparison.forecast
    others = [name for name in forecast.channels if name not in comparison.channels]
    if others:
        yield f"{', '.join(others)}: not scored, since not every forecast has them"
    sizes = len(comparison.initial_times), len(comparison.lead_times)
    own_sizes = len(forecast.initial_times), len(forecast.lead_times)
    if sizes != own_sizes:
        yield (
            f"all forecasts have {sizes[0]} initial times and {sizes[1]} lead times in common, of "
            f"the model's {own_sizes[0]} and {own_sizes[1]}"
        )
    num_unscored = int((~comparison.pairs).sum())
    if num_unscored:
        yield (
            f"{num_unscored} of {comparison.pairs.size} pairs of initial and lead time were left "
            f"out: {comparison.truth.path} has no state at their valid or initial time"
        )
    if not comparison.truth.has_climatology:
        yield (
            f"{comparison.truth.path} has no climatology: acc, activity and the climatology "
            "baseline are left out"
        )
    if not comparison.grid.has_even_columns:
        yield "the grid's longitudes are not evenly spaced: spectra are left out"


def _write(result: Verification, comparison: Comparison, out: Path) -> None:
    # matplotlib takes a second to import, and is needed here alone.
    from weathermixer.verification.maps import draw_example
    from weathermixer.verification.parts_pictures import draw_regions, draw_spectra
    from weathermixer.verification.pictures import draw_scores

    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "scores.json").write_text(json.dumps(result.to_json()) + "\n", encoding="utf-8")
        write_csv(result.regions, out / "scores.csv")
        draw_scores(result.scores, out)
        draw_regions(result.regions, out)
        if result.spectra.num_wavenumbers:
            result.spectra.write(out / "spectrum.nc")
            draw_spectra(result.spectra, out)
        for example in _examples(comparison):
            draw_example(example, out)
    except OSError as error:
        raise write_error(out, error) from error


def _examples(comparison: Comparison) -> Iterator[Example]:
    """Fields for maps: a few channels, from the initial time with the most lead times."""
    from weathermixer.verification.maps import Example

    time = int(comparison.pairs.sum(axis=1).argmax())
    scored = np.flatnonzero(comparison.pairs[time])
    hours = [comparison.lead_hours[lead] for lead in scored]
    leads = [int(scored[index]) for index in headline_leads(hours, MAP_HOURS)]
    present = [name for name in _CHANNELS_ON_MAPS if name in comparison.channels]
    for channel in present or comparison.channels[:1]:
        yield Example(
            channel,
            comparison.initial_times[time],
            comparison.grid.latitude,
            comparison.grid.longitude,
            {comparison.lead_hours[lead]: comparison.fields(time, lead, channel) for lead in leads},
        )

"""From a forecast and the truth to scores, a table and figures. Joins the parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from weathermixer.console import Progress
from weathermixer.credentials import without_credentials
from weathermixer.data.grid import area_name
from weathermixer.data.partial_files import write_error
from weathermixer.errors import UserError
from weathermixer.verification.accumulate import sum_up
from weathermixer.verification.comparison import Comparison
from weathermixer.verification.figures.attempt import attempt
from weathermixer.verification.metrics import METRICS, RMSE, Metric, statistics_of, usable_metrics
from weathermixer.verification.regions import Regions
from weathermixer.verification.scores import (
    CLIMATOLOGY,
    PERSISTENCE,
    TRUTH,
    Scores,
    write_csv,
)
from weathermixer.verification.spectrum import Spectra
from weathermixer.verification.sums import Sums
from weathermixer.verification.verification_record import SCORES_FILE, MetricLabel, Verification


def verify(
    forecast: Path | str,
    truth: Path | str,
    *,
    beside: Sequence[str] = (),
    climatology: str | None = None,
    metrics: Sequence[Metric] = METRICS,
    out: Path | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Score a forecast against a store, beside persistence and climatology over the same pairs.

    A pair of initial and lead time is scored where the truth has a state at both its valid time
    and its initial time, which persistence forecasts from. Other forecasts ``beside`` it are scored
    on what all of them have in common. ``climatology`` is an archive in the place of the truth's
    own. ``metrics`` are those of the package, RMSE at least, and any others. Data of a part of the
    globe are scored over that part. ``out`` is a folder for ``scores.json``, ``scores.csv``,
    ``spectrum.nc`` and pictures; a picture that cannot be drawn costs a warning alone. Raises
    UserError where forecasts and truth do not fit together, or numbers cannot be written.
    """
    if RMSE not in metrics:
        raise UserError("tables and figures show the metric rmse: keep RMSE among the metrics")
    comparison = Comparison.open(forecast, truth, beside=beside, climatology=climatology)
    metrics = usable_metrics(metrics, has_climatology=comparison.truth.has_climatology)
    statistics_of(metrics)  # raises where two of a kind have one name
    if out is not None:
        _make_folder(Path(out))  # before the work: it may be impossible
    sums = sum_up(comparison, metrics, processes=processes, progress=progress)
    regions, spectra = _scores(comparison, metrics, sums)
    result = Verification(
        regions,
        spectra,
        {metric.name: MetricLabel.of(metric) for metric in metrics},
        tuple(comparison.initial_times[comparison.times]),
        int((~comparison.pairs).sum()),
        {name: without_credentials(each.path) for name, each in comparison.forecasts.items()},
        without_credentials(comparison.truth.path),
        tuple(map(without_credentials, _warnings(comparison))),
    )
    if out is not None:
        failures = _write(result, comparison, Path(out))
        result = replace(result, warnings=(*result.warnings, *failures))
    return result


def _scores(
    comparison: Comparison, metrics: Sequence[Metric], sums: Sums
) -> tuple[dict[str, Scores], Spectra]:
    """Scores by region, and spectra, at the lead times that any pair has."""
    scored = sums.counts > 0
    means, energy = (each[scored] for each in sums.means())
    leads = tuple(np.array(comparison.lead_hours)[scored].tolist())
    pairs = tuple(sums.counts[scored].tolist())
    forecasts = tuple(comparison.forecasts)
    climatology = (CLIMATOLOGY,) if comparison.truth.has_climatology else ()
    sources = (*forecasts, PERSISTENCE, *climatology)
    names = Regions.of(comparison.grid).names
    regions = {
        name: Scores.from_means(
            means[..., index, :], metrics, sources, comparison.channels, leads, pairs
        )
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
    grid = comparison.grid
    if not grid.is_global:
        yield (f"the data cover {area_name(grid)}, not the globe: all scores are of that region")
    if not grid.has_area:
        yield (
            f"the grid has {grid.shape[0]} × {grid.shape[1]} points (latitude × longitude), a "
            "single row or column, whose width is not known: scores are means along it, and there "
            "are no maps"
        )
    if not grid.goes_round:
        yield "longitudes do not go all round the globe: spectra are left out"
    elif not grid.has_even_columns:
        yield "the grid's longitudes are not evenly spaced: spectra are left out"


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(out, error) from error


def _write(result: Verification, comparison: Comparison, out: Path) -> list[str]:
    """Write the numbers, then the pictures; returns a sentence for each that failed."""
    try:
        text = json.dumps(result.to_json()) + "\n"
        (out / SCORES_FILE).write_text(text, encoding="utf-8")
        write_csv(result.regions, out / "scores.csv")
    except OSError as error:
        raise write_error(out, error) from error
    attempts = (attempt(draw, name) for name, draw in _figures(result, comparison, out))
    return [sentence for _, sentence in attempts if sentence is not None]


def _figures(
    result: Verification, comparison: Comparison, out: Path
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every further file to write, by name, and the function that writes it."""

    def scores() -> None:
        # matplotlib takes a second to import, and is needed for pictures alone.
        from weathermixer.verification.figures.score_curves import draw_scores

        draw_scores(result.scores, result.region, out)

    def scorecard() -> None:
        from weathermixer.verification.figures.scorecard import draw_scorecard

        draw_scorecard(result.scores, result.region, out)

    def regions() -> None:
        from weathermixer.verification.figures.region_curves import draw_regions

        draw_regions(result.regions, out)

    def spectra() -> None:
        from weathermixer.verification.figures.spectrum_curves import draw_spectra

        draw_spectra(result.spectra, result.region, out)

    def maps() -> None:
        from weathermixer.verification.figures.forecast_maps import draw_maps

        draw_maps(comparison, out)

    yield "the curves of scores", scores
    yield "scorecard.png", scorecard
    yield "regions.png", regions
    if result.spectra.num_wavenumbers:
        yield "spectrum.nc", lambda: result.spectra.write(out / "spectrum.nc")
        yield "spectrum.png", spectra
    if comparison.grid.has_area:
        yield "the maps", maps

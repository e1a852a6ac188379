"""What follows from the sums of a verification: scores, and the folder that they are written to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from weathermixer.credentials import without_credentials
from weathermixer.data.partial_files import write_error
from weathermixer.verification.comparison import Comparison
from weathermixer.verification.figures.attempt import attempt
from weathermixer.verification.metrics import Metric
from weathermixer.verification.pairing import Pairing
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


def verification_of(
    pairing: Pairing,
    metrics: Sequence[Metric],
    sums: Sums,
    forecasts: Mapping[str, str],
    *,
    made_by: Mapping[str, Any] | None = None,
) -> Verification:
    """The scores that follow from sums over all pairs, of the pairing's channels in their order.

    ``forecasts`` are paths of forecasts by name, of those that are on disk; ``made_by`` says what
    made the model's, where it was scored while it was made.
    """
    regions, spectra = _scores(pairing, metrics, sums)
    return Verification(
        regions,
        spectra,
        {metric.name: MetricLabel.of(metric) for metric in metrics},
        tuple(pairing.initial_times[pairing.times]),
        pairing.num_unscored,
        {name: without_credentials(path) for name, path in forecasts.items()},
        without_credentials(pairing.truth.path),
        tuple(map(without_credentials, pairing.warnings())),
        made_by or {},
    )


def _scores(
    pairing: Pairing, metrics: Sequence[Metric], sums: Sums
) -> tuple[dict[str, Scores], Spectra]:
    """Scores by region, and spectra, at the lead times that any pair has."""
    scored = sums.counts > 0
    means, energy = (each[scored] for each in sums.means())
    leads = tuple(np.array(pairing.lead_hours)[scored].tolist())
    pairs = tuple(sums.counts[scored].tolist())
    forecasts = pairing.forecast_names
    climatology = (CLIMATOLOGY,) if pairing.truth.has_climatology else ()
    sources = (*forecasts, PERSISTENCE, *climatology)
    names = Regions.of(pairing.grid).names
    regions = {
        name: Scores.from_means(
            means[..., index, :], metrics, sources, pairing.channels, leads, pairs
        )
        for index, name in enumerate(names)
    }
    by_source = np.moveaxis(energy, 1, 0)
    spectra = dict(zip((*forecasts, TRUTH), by_source, strict=True))
    return regions, Spectra(pairing.channels, leads, names, spectra)


def make_folder(out: Path) -> None:
    """Make the folder of results, which is done before the work; UserError if impossible."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(out, error) from error


def write_results(
    result: Verification, out: Path, fields: Callable[[], Comparison] | None
) -> Verification:
    """Write the numbers, then the pictures, of which each that fails is added to the warnings.

    ``fields`` opens the forecast that maps are drawn of, where it is on disk. Raises UserError
    where the numbers cannot be written.
    """
    try:
        text = json.dumps(result.to_json()) + "\n"
        (out / SCORES_FILE).write_text(text, encoding="utf-8")
        write_csv(result.regions, out / "scores.csv")
        if result.differences is not None:
            result.differences.write_csv(out / "differences.csv")
    except OSError as error:
        raise write_error(out, error) from error
    attempts = (attempt(draw, name) for name, draw in _figures(result, fields, out))
    failures = [sentence for _, sentence in attempts if sentence is not None]
    return replace(result, warnings=(*result.warnings, *failures))


def _figures(
    result: Verification, fields: Callable[[], Comparison] | None, out: Path
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every further file to write, by name, and the function that writes it."""

    def scores() -> None:
        # matplotlib takes a second to import, and is needed for pictures alone.
        from weathermixer.verification.figures.score_curves import draw_scores

        draw_scores(result.scores, result.region, out)

    def scorecard() -> None:
        from weathermixer.verification.figures.scorecard import draw_scorecard

        draw_scorecard(result.scores, result.region, out)

    def difference_scorecard() -> None:
        from weathermixer.verification.figures.difference_scorecard import (
            draw_difference_scorecard,
        )

        assert result.differences is not None
        draw_difference_scorecard(result.differences, result.scores, result.region, out)

    def regions() -> None:
        from weathermixer.verification.figures.region_curves import draw_regions

        draw_regions(result.regions, out)

    def spectra() -> None:
        from weathermixer.verification.figures.spectrum_curves import draw_spectra

        draw_spectra(result.spectra, result.region, out)

    def maps() -> None:
        from weathermixer.verification.figures.forecast_maps import draw_maps

        assert fields is not None
        draw_maps(fields(), out)

    yield "the curves of scores", scores
    yield "scorecard.png", scorecard
    if result.differences is not None:
        yield "scorecard_beside.png", difference_scorecard
    yield "regions.png", regions
    if result.spectra.num_wavenumbers:
        yield "spectrum.nc", lambda: result.spectra.write(out / "spectrum.nc")
        yield "spectrum.png", spectra
    if fields is not None:
        yield "the maps", maps

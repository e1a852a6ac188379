"""From a forecast and the truth to scores, a table and figures. Joins the parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weathermixer.console import Progress
from weathermixer.errors import UserError
from weathermixer.verification.accumulate import sum_up
from weathermixer.verification.comparison import Comparison
from weathermixer.verification.differences import Differences
from weathermixer.verification.ensembles import metrics_of
from weathermixer.verification.metrics import METRICS, RMSE, Metric, statistics_of, usable_metrics
from weathermixer.verification.results import make_folder, verification_of, write_results
from weathermixer.verification.verification_record import Verification


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
    on what all of them have in common, and differences from them are given with intervals.
    ``climatology`` is an archive in the place of the truth's own. ``metrics`` are those of the
    package, RMSE at least, and any others; where a forecast is an ensemble, they are computed of
    its mean, and those of ``ensembles`` besides. Data of a part of
    the globe are scored over that part. ``out`` is a folder for ``scores.json``, ``scores.csv``,
    ``spectrum.nc`` and pictures; a picture that cannot be drawn costs a warning alone. Raises
    UserError where forecasts and truth do not fit together, or numbers cannot be written.
    """
    if RMSE not in metrics:
        raise UserError("tables and figures show the metric rmse: keep RMSE among the metrics")
    comparison = Comparison.open(forecast, truth, beside=beside, climatology=climatology)
    metrics = usable_metrics(metrics, has_climatology=comparison.truth.has_climatology)
    metrics = (*metrics, *metrics_of(comparison))
    statistics_of(metrics)  # raises where two of a kind have one name
    if out is not None:
        make_folder(Path(out))
    sums, series = sum_up(comparison, metrics, processes=processes, progress=progress)
    paths = {name: each.path for name, each in comparison.forecasts.items()}
    result = verification_of(comparison, metrics, sums, paths).with_ranks_apart()
    if series is not None:
        result = result.with_differences(Differences.of(series, comparison))
    if out is not None:
        fields = (lambda: comparison) if comparison.grid.has_area else None
        result = write_results(result, Path(out), fields)
    return result

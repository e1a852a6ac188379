"""A metric from outside of the package is scored, written and shown like those within."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from oracles import scores as oracle
from support.areas import CHANNEL, write_area
from support.mean_absolute_error import MAE
from support.noise import LEADS, noisy
from support.planets import CHANNELS, Planet, write_forecast
from weathermixer.errors import UserError
from weathermixer.report.make_report import make_report
from weathermixer.verification import accumulate
from weathermixer.verification.metrics import METRICS, Metric, Statistic
from weathermixer.verification.verify import verify


@pytest.mark.exhaustive
def test_mean_absolute_error_is_scored_in_several_processes(
    make_planet: Callable[..., Planet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planet = make_planet()
    inits = planet.times[:6]
    states = noisy(planet, inits)
    write_forecast(tmp_path / "f.zarr", planet, states, inits, LEADS)
    monkeypatch.setattr(accumulate, "_LEAST_BATCH_BYTES", 1000)  # several batches
    result = verify(
        tmp_path / "f.zarr",
        planet.truth,
        metrics=(*METRICS, MAE),
        out=tmp_path / "out",
        processes=2,
    )
    rows = np.array(oracle.cell_weights(planet.latitude)) / len(planet.latitude)
    for channel, name in enumerate(CHANNELS):
        for j, lead in enumerate(LEADS):
            truth = np.stack([planet.at(start + lead)[channel] for start in inits])
            error = np.abs(states[:, j, channel].astype(np.float64) - truth)
            expected = (error.mean(axis=(0, 2)) * rows).sum()
            assert result.scores.series("model", "mae", name)[j] == pytest.approx(expected)

    record = json.loads((tmp_path / "out" / "scores.json").read_text("utf-8"))
    assert record["scores"].keys() == {"rmse", "acc", "bias", "activity", "mae"}
    assert record["regions"]["tropics"]["mae"].keys() == set(CHANNELS)
    assert record["baselines"]["persistence"]["mae"].keys() == set(CHANNELS)
    assert record["metrics"]["mae"] == {"title": "MAE", "units": "channel"}
    with (tmp_path / "out" / "scores.csv").open(encoding="utf-8") as file:
        in_table = {
            (row["channel"], float(row["lead_hours"])): float(row["value"])
            for row in csv.DictReader(file)
            if (row["region"], row["source"], row["metric"]) == ("global", "model", "mae")
        }
    for index, name in enumerate(CHANNELS):
        for lead, hours in enumerate(result.scores.lead_hours):
            value = result.scores.values["model"]["mae"][lead, index]
            assert in_table[name, hours] == value
    page = make_report(tmp_path / "out").path.read_text("utf-8")
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["scores"]["metrics"]["mae"] == {"label": "MAE", "hasUnits": True, "limit": None}
    (shown, *_) = data["scores"]["regions"]["Globe"]["model"]["mae"]
    assert shown == pytest.approx(
        result.scores.series("model", "mae", CHANNELS[0]).tolist(), rel=1e-3
    )


def test_other_metrics_stay_as_they_are_beside_a_new_one(
    make_planet: Callable[..., Planet], tmp_path: Path
) -> None:
    planet = make_planet()
    inits = planet.times[:3]
    write_forecast(tmp_path / "f.zarr", planet, noisy(planet, inits), inits, LEADS)
    alone = verify(tmp_path / "f.zarr", planet.truth, processes=1)
    together = verify(tmp_path / "f.zarr", planet.truth, processes=1, metrics=(MAE, *METRICS))
    for region, scores in alone.regions.items():
        for source, by_metric in scores.values.items():
            for metric, values in by_metric.items():
                got = together.regions[region].values[source][metric]
                np.testing.assert_array_equal(got, values)


def test_a_new_metric_of_a_region_uses_its_areas(tmp_path: Path) -> None:
    latitude, longitude = [10.0, 12.0, 20.0, 35.0], [0.0, 10.0, 30.0]
    area = write_area(tmp_path, latitude, longitude)
    result = verify(area.forecast, area.truth, metrics=(*METRICS, MAE), processes=1)
    weights = oracle.area_weights_of_region(latitude, longitude)
    expected = oracle.region_mean_absolute_error(area.forecasts[0], area.expected[0], weights)
    assert result.scores.series("model", "mae", CHANNEL)[0] == pytest.approx(expected, rel=1e-9)


def test_metrics_that_cannot_be_used_are_refused_in_a_sentence(tmp_path: Path) -> None:
    area = write_area(tmp_path, [10.0, 20.0], [0.0, 10.0])
    local = Metric("local", "Local", (Statistic("local", lambda pair: pair.error),), np.positive)
    with pytest.raises(UserError, match="keep RMSE among the metrics"):
        verify(area.forecast, area.truth, metrics=(MAE,))
    with pytest.raises(UserError, match="local cannot be sent to other processes"):
        verify(area.forecast, area.truth, metrics=(*METRICS, local), processes=2)

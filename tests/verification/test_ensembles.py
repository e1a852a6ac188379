"""Ensembles are scored as their definitions say, beside single forecasts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from oracles import ensembles as oracle
from oracles import scores as of_means
from support.members import write_members
from support.noise import LEADS, noisy
from support.planets import CHANNELS, Planet, write_forecast
from weathermixer.errors import UserError
from weathermixer.verification import accumulate
from weathermixer.verification.verification_record import Verification
from weathermixer.verification.verify import verify

MEMBERS = 5


@pytest.fixture
def ensemble(make_planet: Callable[..., Planet], tmp_path: Path) -> tuple[Planet, Any, Any]:
    """Five members of forecasts from three times, of which two share some values with the truth."""
    planet = make_planet()
    inits = planet.times[:6:2]
    members = np.stack([noisy(planet, inits, seed=seed) for seed in range(MEMBERS)])
    truth = noisy(planet, inits, 0.0)
    members[1:3, ..., ::2] = truth[..., ::2]
    write_members(tmp_path / "ensemble.zarr", planet, inits, members, "realization")
    write_forecast(tmp_path / "single.zarr", planet, members[0], inits, LEADS)
    return planet, inits, members


def test_scores_of_an_ensemble_equal_their_definitions(
    ensemble: tuple[Planet, Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planet, inits, members = ensemble
    monkeypatch.setattr(accumulate, "_LEAST_BATCH_BYTES", 10_000)  # several batches
    verification = verify(
        tmp_path / "ensemble.zarr",
        planet.truth,
        beside=[str(tmp_path / "single.zarr")],
        out=tmp_path / "out",
    )
    result = verification.to_json()
    expected_names = {"rmse", "acc", "bias", "activity", "crps", "spread", "spread_skill"}
    assert result["scores"].keys() == result["metrics"].keys() == expected_names
    latitude = planet.latitude
    for channel, name in enumerate(CHANNELS):
        for j, lead in enumerate(LEADS):
            hours = f"{6 * (j + 1)}"
            o = np.stack([planet.at(start + lead)[channel] for start in inits])
            c = np.stack([planet.climatology_at(start + lead)[channel] for start in inits])
            x = members[:, :, j, channel].swapaxes(0, 1).astype(np.float64)
            mean = x.mean(axis=1)
            expected = {
                "rmse": of_means.rmse(mean, o, latitude),
                "bias": of_means.bias(mean, o, latitude),
                "acc": of_means.acc(mean, o, c, latitude),
                "activity": of_means.activity(mean, c, latitude),
                "crps": oracle.fair_crps(x, o, latitude),
                "spread": oracle.spread(x, latitude),
                "spread_skill": oracle.spread_skill(x, o, latitude),
            }
            for metric, value in expected.items():
                assert result["scores"][metric][name][hours] == pytest.approx(value, rel=1e-9)
            shares = result["rank_histogram"][name][hours]
            assert shares == pytest.approx(oracle.rank_histogram(x, o, latitude), abs=1e-12)
            assert sum(shares) == pytest.approx(1.0)
            # Of a single forecast, the mean absolute error.
            absolute = np.mean([of_means.area_mean(abs(a - b), latitude)
                                for a, b in zip(x[:, 0], o, strict=True)])  # fmt: skip
            single = result["beside"]["single"]
            assert single["crps"][name][hours] == pytest.approx(absolute, rel=1e-9)
            assert single["spread_skill"][name][hours] is None
    spectra = result["spectrum"]["forecast"][CHANNELS[0]]["6"]
    x = members[:, :, 0, 0].reshape(-1, *members.shape[-2:])
    assert spectra == pytest.approx(of_means.spectrum(x, latitude), rel=1e-6)
    assert "CRPS of single" in verification.render()
    again = Verification.read(tmp_path / "out").to_json()
    assert json.loads(json.dumps(again))["rank_histogram"] == result["rank_histogram"]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written >= {"scores.json", "scores.csv", "differences.csv", "scorecard_beside.png"}
    assert f"map_{CHANNELS[0]}.png" in written
    assert result["warnings"][-1].startswith("whether differences from single are significant")


def test_a_single_forecast_is_scored_beside_an_ensemble_of_others(
    ensemble: tuple[Planet, Any, Any], tmp_path: Path
) -> None:
    planet, inits, members = ensemble
    write_members(tmp_path / "theirs.zarr", planet, inits, members[:3], "number")
    single, ensembles = str(tmp_path / "single.zarr"), [str(tmp_path / "theirs.zarr")]
    result = verify(single, planet.truth, beside=ensembles).to_json()
    own = verify(tmp_path / "theirs.zarr", planet.truth).to_json()["scores"]
    assert result["beside"]["theirs"]["crps"] == own["crps"]
    assert "rank_histogram" not in result


def test_variables_of_different_members_are_refused(
    ensemble: tuple[Planet, Any, Any], tmp_path: Path
) -> None:
    planet, *_ = ensemble
    both = xr.open_zarr(tmp_path / "ensemble.zarr")
    both["2m_temperature"] = both["2m_temperature"].isel(realization=0, drop=True)
    both.drop_encoding().to_zarr(tmp_path / "mixed.zarr", zarr_format=2)
    with pytest.raises(UserError, match=r"holds .* of other members than .*: make a file of each"):
        verify(tmp_path / "mixed.zarr", planet.truth)

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from oracles import scores as oracle
from support.noise import LEADS, noisy
from support.planets import CHANNELS, LATITUDES, Planet, write_forecast, write_planet
from weathermixer.errors import UserError
from weathermixer.verification.scores import MODEL, PERSISTENCE, Scores
from weathermixer.verification.verify import verify

MakePlanet = Callable[..., Planet]


@pytest.mark.parametrize("latitude", LATITUDES.values(), ids=LATITUDES)
def test_scores_and_baselines_equal_their_definitions(
    make_planet: MakePlanet, tmp_path: Path, latitude: Any
) -> None:
    planet = make_planet(latitude)
    inits = planet.times[:6:2]
    states = noisy(planet, inits)
    write_forecast(tmp_path / "f.zarr", planet, states, inits, LEADS)
    result = verify(tmp_path / "f.zarr", planet.truth).to_json()

    assert result["initial_times"] == [str(time) for time in inits]
    assert result["scores"].keys() == {"rmse", "acc", "bias", "activity"}
    for channel, name in enumerate(CHANNELS):
        for j, lead in enumerate(LEADS):
            o = np.stack([planet.at(start + lead)[channel] for start in inits])
            c = np.stack([planet.climatology_at(start + lead)[channel] for start in inits])
            candidates = {
                "model": states[:, j, channel],
                "persistence": np.stack([planet.at(start)[channel] for start in inits]),
                "climatology": c,
            }
            for source, f in candidates.items():
                scores = result["baselines"].get(source, result["scores"])
                expected = {
                    "rmse": oracle.rmse(f, o, latitude),
                    "bias": oracle.bias(f, o, latitude),
                    "activity": oracle.activity(f, c, latitude),
                }
                if source != "climatology":
                    expected["acc"] = oracle.acc(f, o, c, latitude)
                for metric, value in expected.items():
                    got = scores[metric][name][f"{6 * (j + 1)}"]
                    assert got == pytest.approx(value, rel=1e-6, abs=1e-9), (source, metric)
    # The correlation of an anomaly that is zero everywhere is not defined.
    assert result["baselines"]["climatology"]["acc"][CHANNELS[0]]["6"] is None
    json.dumps(result, allow_nan=False)


def test_rmse_relative_to_a_baseline_is_the_mean_ratio_over_channels(
    make_planet: MakePlanet, tmp_path: Path
) -> None:
    planet = make_planet()
    inits = planet.times[:4]
    write_forecast(tmp_path / "f.zarr", planet, noisy(planet, inits), inits, LEADS)
    result = verify(tmp_path / "f.zarr", planet.truth).to_json()
    for source in ("persistence", "climatology"):
        for lead in ("6", "12", "18"):
            ratios = [
                result["scores"]["rmse"][name][lead]
                / result["baselines"][source]["rmse"][name][lead]
                for name in CHANNELS
            ]
            assert result["rmse_relative_to"][source][lead] == pytest.approx(sum(ratios) / 3)


def test_persistence_of_a_constant_truth_is_perfect(
    make_planet: MakePlanet, tmp_path: Path
) -> None:
    planet = make_planet(constant=True)
    inits = planet.times[:3]
    write_forecast(tmp_path / "f.zarr", planet, noisy(planet, inits), inits, LEADS)
    result = verify(tmp_path / "f.zarr", planet.truth).to_json()
    rmse = result["baselines"]["persistence"]["rmse"]
    assert {value for by_lead in rmse.values() for value in by_lead.values()} == {0.0}
    assert result["rmse_relative_to"]["persistence"] == {"6": None, "12": None, "18": None}


def test_the_truth_as_forecast_has_rmse_zero_and_acc_one(
    make_planet: MakePlanet, tmp_path: Path
) -> None:
    planet = make_planet()
    inits = planet.times[:3]
    write_forecast(tmp_path / "f.zarr", planet, noisy(planet, inits, 0.0), inits, LEADS)
    scores = verify(tmp_path / "f.zarr", planet.truth).to_json()["scores"]
    for name in CHANNELS:
        assert set(scores["rmse"][name].values()) == {0.0}
        assert all(value == pytest.approx(1.0) for value in scores["acc"][name].values())


def test_pairs_without_truth_are_left_out_and_counted(
    make_planet: MakePlanet, tmp_path: Path
) -> None:
    planet = make_planet(num_times=6)
    inits = planet.times[3:] + np.timedelta64(0, "s")  # the last has no valid time at all
    write_forecast(tmp_path / "f.zarr", planet, noisy(planet, inits), inits, LEADS)
    verification = verify(tmp_path / "f.zarr", planet.truth)
    assert verification.to_json()["pairs"] == {"6": 2, "12": 1}
    assert verification.to_json()["unscored_pairs"] == 6
    assert verification.initial_times == tuple(inits[:2])
    assert "6 of 9 pairs" in verification.render()


def test_a_forecast_without_any_truth_is_refused(make_planet: MakePlanet, tmp_path: Path) -> None:
    planet = make_planet()
    inits = planet.times[:2] + np.timedelta64(365, "D")
    write_forecast(tmp_path / "f.zarr", planet, noisy(planet, planet.times[:2]), inits, LEADS)
    with pytest.raises(UserError, match="no pair of initial and valid time"):
        verify(tmp_path / "f.zarr", planet.truth)


def test_without_a_climatology_it_warns_and_leaves_out_what_needs_one(
    make_planet: MakePlanet, tmp_path: Path
) -> None:
    planet = make_planet(climatology=False)
    inits = planet.times[:2]
    write_forecast(tmp_path / "f.zarr", planet, noisy(planet, inits), inits, LEADS)
    verification = verify(tmp_path / "f.zarr", planet.truth, out=tmp_path / "out")
    result = verification.to_json()
    assert result["scores"].keys() == {"rmse", "bias"}
    assert result["baselines"].keys() == {"persistence"}
    assert "has no climatology" in result["warnings"][0]
    assert not (tmp_path / "out" / "acc.png").exists()


def test_another_grid_is_refused(make_planet: MakePlanet, tmp_path: Path) -> None:
    planet = make_planet()
    inits = planet.times[:2]
    dataset = write_forecast(tmp_path / "f.zarr", planet, noisy(planet, inits), inits, LEADS)
    moved = dataset.assign_coords(latitude=dataset.latitude + 0.5)
    coarser = dataset.isel(longitude=slice(None, None, 2))
    for count, other in enumerate((moved, coarser)):
        path = tmp_path / f"other{count}.zarr"
        other.drop_encoding().to_zarr(path, zarr_format=2, consolidated=True)
        with pytest.raises(UserError, match="another grid"):
            verify(path, planet.truth)


def test_a_variable_that_the_truth_lacks_is_named(make_planet: MakePlanet, tmp_path: Path) -> None:
    planet = make_planet()
    inits = planet.times[:2]
    write_forecast(tmp_path / "f.zarr", planet, noisy(planet, inits), inits, LEADS)
    poorer = write_planet(tmp_path / "poorer.zarr", channels=CHANNELS[:2])
    with pytest.raises(UserError, match=r"lacks 2m_temperature"):
        verify(tmp_path / "f.zarr", poorer.truth)


def test_a_variable_that_nobody_knows_is_left_out_and_said(
    make_planet: MakePlanet, tmp_path: Path
) -> None:
    planet = make_planet()
    inits = planet.times[:2]
    dataset = write_forecast(tmp_path / "a.zarr", planet, noisy(planet, inits), inits, LEADS)
    dataset["total_cloud_cover"] = dataset["2m_temperature"]
    dataset.to_zarr(tmp_path / "f.zarr", zarr_format=2, consolidated=True)
    verification = verify(tmp_path / "f.zarr", planet.truth)
    assert verification.scores.channels == CHANNELS
    assert "left out total_cloud_cover (WeatherMixer does not use" in verification.warnings[0]


def test_missing_values_are_named(make_planet: MakePlanet, tmp_path: Path) -> None:
    planet = make_planet()
    inits = planet.times[:2]
    states = noisy(planet, inits)
    states[1, 2, 1, 0, 0] = np.nan
    write_forecast(tmp_path / "f.zarr", planet, states, inits, LEADS)
    with pytest.raises(UserError, match=r"2001-03-01T06:00:00 at lead 18 h .* geopotential_850"):
        verify(tmp_path / "f.zarr", planet.truth)


def test_paths_that_hold_no_forecast_are_refused(make_planet: MakePlanet, tmp_path: Path) -> None:
    planet = make_planet()
    with pytest.raises(UserError, match=r"there is nothing at .*nothing\.zarr"):
        verify(tmp_path / "nothing.zarr", planet.truth)
    (tmp_path / "text.zarr").write_text("not a forecast")
    with pytest.raises(UserError, match="is none of Zarr, NetCDF"):
        verify(tmp_path / "text.zarr", planet.truth)
    with pytest.raises(UserError, match=r"truth\.zarr is a prepared store, not a forecast"):
        verify(planet.truth, planet.truth)
    undated = xr.Dataset(
        {"2m_temperature": (("time", "prediction_timedelta", "latitude", "longitude"), _ZEROS)},
        {
            "time": planet.times[:1].astype("datetime64[ns]"),
            "prediction_timedelta": [6],
            "latitude": planet.latitude,
            "longitude": np.arange(6.0) * 60.0,
        },
    )
    undated.to_zarr(tmp_path / "undated.zarr", zarr_format=2, consolidated=True)
    with pytest.raises(UserError, match="is not a duration"):
        verify(tmp_path / "undated.zarr", planet.truth)


_ZEROS = np.zeros((1, 1, 5, 6), dtype=np.float32)


def test_an_unfinished_forecast_is_refused(make_planet: MakePlanet, tmp_path: Path) -> None:
    planet = make_planet()
    inits = planet.times[:2]
    write_forecast(tmp_path / "f.zarr.partial", planet, noisy(planet, inits), inits, LEADS)
    for name in ("f.zarr", "f.zarr.partial"):
        with pytest.raises(UserError, match="is unfinished: run the command that writes it again"):
            verify(tmp_path / name, planet.truth)


def test_a_damaged_forecast_is_named(make_planet: MakePlanet, tmp_path: Path) -> None:
    planet = make_planet()
    inits = planet.times[:2]
    write_forecast(tmp_path / "f.zarr", planet, noisy(planet, inits), inits, LEADS)
    chunk = tmp_path / "f.zarr" / "2m_temperature" / "0.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(
        UserError, match=r"2m_temperature from 2001-03-01T00.* at lead 6 h .* corrupt"
    ):
        verify(tmp_path / "f.zarr", planet.truth)


def test_everything_is_written_to_the_folder(make_planet: MakePlanet, tmp_path: Path) -> None:
    planet = make_planet()
    inits = planet.times[:3]
    write_forecast(tmp_path / "f.zarr", planet, noisy(planet, inits), inits, LEADS)
    out = tmp_path / "scores" / "run"
    calls: list[tuple[int, int]] = []
    verification = verify(
        tmp_path / "f.zarr", planet.truth, out=out, progress=lambda *call: calls.append(call)
    )
    assert calls == [(count, 9) for count in range(1, 10)]
    assert json.loads((out / "scores.json").read_text()) == verification.to_json()
    with (out / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 3 * 4 * 3 * 3  # regions, sources, metrics, channels, lead times
    for row in rows:
        scores = verification.regions[row["region"]]
        series = scores.series(row["source"], row["metric"], row["channel"])
        value = series[int(row["lead_hours"]) // 6 - 1]
        assert math.isnan(value) if row["value"] == "" else float(row["value"]) == value
    pictures = ("rmse", "acc", "scorecard", "regions", "spectrum")
    for name in (*pictures, "map_geopotential_500", "map_2m_temperature"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_written_is_named(make_planet: MakePlanet, tmp_path: Path) -> None:
    planet = make_planet()
    inits = planet.times[:2]
    write_forecast(tmp_path / "f.zarr", planet, noisy(planet, inits), inits, LEADS)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        verify(tmp_path / "f.zarr", planet.truth, out=tmp_path / "file" / "out")


def test_the_table_shows_the_model_beside_its_baselines(
    make_planet: MakePlanet, tmp_path: Path
) -> None:
    planet = make_planet()
    inits = planet.times[:3]
    write_forecast(tmp_path / "f.zarr", planet, noisy(planet, inits), inits, LEADS)
    verification = verify(tmp_path / "f.zarr", planet.truth)
    table = verification.render()
    assert "3 initial times, 2001-03-01T00:00:00 to 2001-03-01T12:00:00" in table
    lines = [line.split() for line in table.splitlines()]
    first = next(line for line in lines if line[:1] == ["z500"])
    expected = verification.scores.series("model", "rmse", "geopotential_500")
    assert first[1:4] == ["m²", "s⁻²", "model"]
    assert [float(number) for number in first[4:]] == pytest.approx(expected, rel=5e-3)
    following = lines[lines.index(first) + 1 :]
    assert [line[0] for line in following[:3]] == ["persistence", "climatology", "ACC"]


def test_times_without_hours_between_them_are_exact(
    make_planet: MakePlanet, tmp_path: Path
) -> None:
    """A truth with a gap scores what it has, and never a neighbouring time."""
    planet = make_planet()
    inits = planet.times[:1]
    write_forecast(tmp_path / "f.zarr", planet, noisy(planet, inits), inits, LEADS)
    dataset = xr.open_zarr(tmp_path / "f.zarr", decode_timedelta=True).load()
    late = dataset.assign_coords(
        prediction_timedelta=dataset.prediction_timedelta + np.timedelta64(1, "h")
    )
    shutil.rmtree(tmp_path / "f.zarr")
    late.drop_encoding().to_zarr(tmp_path / "f.zarr", zarr_format=2, consolidated=True)
    with pytest.raises(UserError, match="no pair"):
        verify(tmp_path / "f.zarr", planet.truth)


def test_a_channel_that_exploded_is_not_left_out_of_the_mean_ratio() -> None:
    """Only a channel that persistence forecasts perfectly is left out, here the third."""
    ours, theirs = np.array([[np.inf, 1.0, 1.0], [3.0, 1.0, 1.0]]), np.array([[2.0, 2.0, 0.0]] * 2)
    values = {MODEL: {"rmse": ours}, PERSISTENCE: {"rmse": theirs}}
    scores = Scores(("a", "b", "c"), (6.0, 12.0), (1, 1), values)
    np.testing.assert_array_equal(scores.relative_rmse(PERSISTENCE), [np.nan, 1.0])

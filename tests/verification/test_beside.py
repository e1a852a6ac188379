"""Several forecasts beside each other, on what all of them have in common."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from support.noise import LEADS, noisy
from support.planets import CHANNELS, Planet, write_forecast
from weathermixer.errors import UserError
from weathermixer.verification.verification_record import Verification
from weathermixer.verification.verify import verify

MakePlanet = Callable[..., Planet]


def _write(dataset: xr.Dataset, path: Path) -> str:
    dataset.drop_encoding().to_zarr(path, zarr_format=2, consolidated=True)
    return str(path)


def _assert_same_source(got: Verification, source: str, expected: Verification) -> None:
    for region, scores in expected.regions.items():
        for metric in scores.metrics:
            np.testing.assert_allclose(
                got.regions[region].values[source][metric],
                scores.values["model"][metric],
                rtol=1e-12,
            )
    np.testing.assert_allclose(
        got.spectra.values[source], expected.spectra.values["model"], rtol=1e-12
    )


def test_each_forecast_scores_as_if_alone_on_what_all_have_in_common(
    make_planet: MakePlanet, tmp_path: Path
) -> None:
    planet = make_planet()
    inits = planet.times[:5]
    ours, theirs = (
        write_forecast(tmp_path / f"{n}.zarr", planet, noisy(planet, inits, seed=n), inits, LEADS)
        for n in (1, 2)
    )
    model = _write(ours.isel(time=[0, 1, 2, 3]), tmp_path / "model.zarr")
    other = theirs.isel(time=[4, 3, 1], prediction_timedelta=[2, 0]).drop_vars("2m_temperature")
    other = other.isel(level=slice(None, None, -1)).transpose(..., "longitude", "latitude")
    graphcast = _write(other, tmp_path / "graphcast.zarr")

    result = verify(model, planet.truth, beside=[graphcast], out=tmp_path / "out")
    assert result.initial_times == tuple(inits[[1, 3]])
    assert result.scores.lead_hours == (6.0, 18.0)
    assert result.scores.channels == CHANNELS[:2]
    assert result.scores.beside == ("graphcast",)
    assert any("2m_temperature: not scored" in one for one in result.warnings)
    assert any("2 initial times and 2 lead times in common" in one for one in result.warnings)
    assert any("not known at 2 of 2 lead times" in one for one in result.warnings)

    common: dict[str, Any] = {"time": [1, 3], "prediction_timedelta": [0, 2]}
    for name, source, dataset in (("a", "model", ours), ("b", "graphcast", theirs)):
        alone = _write(dataset.isel(common).drop_vars("2m_temperature"), tmp_path / f"{name}.zarr")
        _assert_same_source(result, source, verify(alone, planet.truth))

    record = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert record["forecasts_beside"] == {"graphcast": graphcast}
    assert record["beside"]["graphcast"].keys() == record["scores"].keys()
    assert record["baselines"].keys() == {"persistence", "climatology"}
    assert record["regions"]["tropics"]["beside"]["graphcast"].keys() == record["scores"].keys()
    assert record["spectrum"]["beside"]["graphcast"].keys() == set(CHANNELS[:2])
    assert record["rmse_relative_to"].keys() == {"graphcast", "persistence", "climatology"}
    table = result.render()
    assert "ACC of graphcast" in table
    assert "÷ graphcast" in table


def test_forecasts_of_one_name_are_told_apart_by_their_paths(
    make_planet: MakePlanet, tmp_path: Path
) -> None:
    planet = make_planet()
    inits = planet.times[:2]
    paths = [tmp_path / folder / "model.zarr" for folder in "abc"]
    for path in paths:
        write_forecast(path, planet, noisy(planet, inits), inits, LEADS)
    result = verify(paths[0], planet.truth, beside=[str(path) for path in paths[1:]])
    assert result.scores.beside == (str(paths[1]), str(paths[2]))
    with pytest.raises(UserError, match=r"c/model\.zarr is put beside the forecast twice"):
        verify(paths[0], planet.truth, beside=[str(paths[2])] * 2)


def test_forecasts_with_nothing_in_common_are_refused(
    make_planet: MakePlanet, tmp_path: Path
) -> None:
    planet = make_planet()
    inits = planet.times[:2]
    dataset = write_forecast(tmp_path / "f.zarr", planet, noisy(planet, inits), inits, LEADS)
    hour = np.timedelta64(1, "h")
    others = {
        "no initial times in common": dataset.assign_coords(time=dataset.time + hour),
        "no lead times in common": dataset.assign_coords(
            prediction_timedelta=dataset.prediction_timedelta + hour
        ),
        "another grid": dataset.isel(longitude=slice(None, None, 2)),
    }
    for number, (reason, other) in enumerate(others.items()):
        path = _write(other, tmp_path / f"{number}.zarr")
        with pytest.raises(UserError, match=reason) as caught:
            verify(tmp_path / "f.zarr", planet.truth, beside=[path])
        assert path in str(caught.value)
    levels = _write(dataset[["geopotential"]], tmp_path / "levels.zarr")
    surface = _write(dataset[["2m_temperature"]], tmp_path / "surface.zarr")
    with pytest.raises(UserError, match="no channels in common"):
        verify(levels, planet.truth, beside=[surface])


def test_regions_and_spectra_equal_their_definitions(
    make_planet: MakePlanet, tmp_path: Path
) -> None:
    from oracles import scores as oracle
    from weathermixer.verification.regions import BOUNDS

    planet = make_planet()
    inits = planet.times[:6:2]
    states = noisy(planet, inits)
    write_forecast(tmp_path / "f.zarr", planet, states, inits, LEADS)
    result = verify(tmp_path / "f.zarr", planet.truth)
    record = result.to_json()
    assert record["regions"].keys() == BOUNDS.keys()
    assert record["spectrum"]["wavenumber"] == [0, 1, 2, 3]
    assert record["regions"]["global"] == {
        **record["scores"],
        "baselines": record["baselines"],
    }
    for channel, name in enumerate(CHANNELS):
        for j, lead in enumerate(LEADS):
            hours = f"{6 * (j + 1)}"
            f = states[:, j, channel]
            o = np.stack([planet.at(start + lead)[channel] for start in inits])
            c = np.stack([planet.climatology_at(start + lead)[channel] for start in inits])
            for region, bounds in BOUNDS.items():
                scores = record["regions"][region]
                expected = {
                    "rmse": oracle.rmse(f, o, planet.latitude, bounds),
                    "bias": oracle.bias(f, o, planet.latitude, bounds),
                    "activity": oracle.activity(f, c, planet.latitude, bounds),
                    "acc": oracle.acc(f, o, c, planet.latitude, bounds),
                }
                for metric, value in expected.items():
                    got = scores[metric][name][hours]
                    assert got == pytest.approx(value, rel=1e-9, abs=1e-9), (region, metric)
            for source, fields in (("forecast", f), ("truth", o)):
                spectrum = oracle.spectrum(fields, planet.latitude)
                assert record["spectrum"][source][name][hours] == pytest.approx(spectrum, rel=1e-8)


@pytest.mark.exhaustive
def test_every_regions_spectra_are_in_the_file_that_is_written(
    make_planet: MakePlanet, tmp_path: Path
) -> None:
    planet = make_planet()
    inits = planet.times[:3]
    write_forecast(tmp_path / "f.zarr", planet, noisy(planet, inits), inits, LEADS)
    result = verify(tmp_path / "f.zarr", planet.truth, out=tmp_path / "out")
    with xr.open_dataset(tmp_path / "out" / "spectrum.nc") as dataset:
        assert dataset.source.values.tolist() == ["model", "truth"]
        assert dataset.region.values.tolist() == list(result.regions)
        for source in ("model", "truth"):
            for region in result.regions:
                np.testing.assert_array_equal(
                    dataset.energy.sel(source=source, region=region, channel=CHANNELS[1]),
                    result.spectra.series(source, region, CHANNELS[1]),
                )

"""NetCDF and GRIB come in and go out by anemoi-inference's own means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml

from support.anemois import (
    CHANNELS,
    INIT,
    ROOT,
    STEPS,
    WET,
    field,
    fields,
    messages_of,
    ours,
    require_equal,
    run_of,
    theirs,
    write_initial_grib,
    write_states,
)
from support.waves import write_waves


def test_grib_comes_in_and_goes_out(folder: Path, tmp_path: Path) -> None:
    decoded = write_initial_grib(folder, tmp_path / "states.grib")
    out = tmp_path / "out.grib"
    made = theirs(tmp_path, input={"grib": str(tmp_path / "states.grib")}, grib=str(out))
    decoded.to_netcdf(tmp_path / "decoded.nc")
    require_equal(made, ours(folder / "model", tmp_path, store=str(tmp_path / "decoded.nc")))
    written = messages_of(out)
    assert len(written) == len(CHANNELS) * (1 + STEPS)
    for (name, step), values in written.items():
        precise = made[name].values[int(step) // 6]
        np.testing.assert_allclose(values, precise, rtol=0, atol=2e-3 * precise.std())


def test_what_is_only_predicted_is_an_accumulation(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_waves(tmp_path / "planet.zarr", levels=(500, 850), diagnostic=(WET,))
    run_of(tmp_path, data={"diagnostic": [WET]})
    write_states()
    write_initial_grib(tmp_path, tmp_path / "states.grib")
    grib = {"path": "out.grib", "templates": [{"input": {"tp": "2t"}}]}
    theirs(tmp_path, input={"grib": "states.grib"}, grib=grib)
    made = theirs(tmp_path)
    expected = ours(tmp_path / "model", tmp_path)
    require_equal(made, expected)
    np.testing.assert_array_equal(fields(made, WET)[1:], field(expected, WET))
    assert np.isnan(fields(made, WET)[0]).all()
    rain = {
        steps: values
        for (name, steps), values in messages_of(Path("out.grib")).items()
        if name == "tp"
    }
    assert list(rain) == ["0-6", "6-12", "12-18", "18-24"]
    for values, precise in zip(rain.values(), fields(made, WET)[1:], strict=True):
        np.testing.assert_allclose(values, precise.ravel(), rtol=0, atol=2e-3 * precise.std())


def test_grib_goes_out_of_netcdf_by_templates(folder: Path, tmp_path: Path) -> None:
    write_initial_grib(folder, tmp_path / "states.grib")
    template = {"path": str(tmp_path / "states.grib"), "mode": "auto"}
    grib = {"path": str(tmp_path / "out.grib"), "templates": [{"file": template}]}
    made = theirs(tmp_path, grib=grib)
    written = messages_of(tmp_path / "out.grib")
    assert len(written) == len(CHANNELS) * (1 + STEPS)
    for (name, step), values in written.items():
        precise = made[name].values[int(step) // 6]
        np.testing.assert_allclose(values, precise, rtol=0, atol=2e-3 * precise.std())


@pytest.mark.parametrize(
    ("renamed", "has_namer", "checks"),
    [
        ({"t": "temperature", "2t": "2m_temperature"}, True, {}),
        ({"pressure": "level"}, False, {"ignore_type_of_level": True}),
    ],
    ids=["long names", "level"],
)
def test_other_names_are_read_as_the_document_says(
    folder: Path, tmp_path: Path, renamed: dict[str, str], has_namer: bool, checks: dict[str, bool]
) -> None:
    with xr.open_dataset("states.nc") as states:
        states.rename(renamed).to_netcdf(tmp_path / "named.nc")
    shown = (ROOT / "docs/anemoi.md").read_text(encoding="utf-8")
    source: dict[str, Any] = {"path": str(tmp_path / "named.nc")}
    if has_namer:
        (namer,) = re.findall(r"`netcdf: {path: states.nc, (namer: .*})}`", shown)
        source |= yaml.safe_load(namer)
    made = theirs(tmp_path, input={"netcdf": source}, check_variables_compatibility=checks)
    xr.testing.assert_equal(made, theirs(tmp_path))


def rolled(states: xr.Dataset) -> xr.Dataset:
    west = states.assign_coords(longitude=(states["longitude"] + 180.0) % 360.0 - 180.0)
    return west.sortby("longitude")


def southern(states: xr.Dataset) -> xr.Dataset:
    return states.isel(latitude=slice(None, None, -1))


def coarse(states: xr.Dataset) -> xr.Dataset:
    return states.isel(longitude=slice(None, None, 2))


def incomplete(states: xr.Dataset) -> xr.Dataset:
    return states.drop_vars("2t")


def short(states: xr.Dataset) -> xr.Dataset:
    return states.sel(time=slice(INIT, None))


def imperial(states: xr.Dataset) -> xr.Dataset:
    states["2t"].attrs["units"] = "degF"
    return states


def celsius(states: xr.Dataset) -> xr.Dataset:
    states["t"] = states["t"] - 273.15
    return states


def gappy(states: xr.Dataset) -> xr.Dataset:
    states["2t"][:, 3, 4] = np.nan
    return states


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (rolled, "^Longitudes in the input state do not match"),
        (southern, "^Latitudes in the input state do not match"),
        (coarse, "^Size mismatch latitudes=64, number_of_grid_points=128"),
        (incomplete, "^Expected .* = 6 fields, got 4"),
        (short, "^Expected .* = 6 fields, got 3"),
        (imperial, "2t: Units are not compatible: degF vs K"),
        (celsius, r"^t_500 of the forecasts from 2001-01-10T00:00:00 on .*are they in K\?\)"),
        (gappy, r"^2t of .* \(1 of 128 values are NaN or infinite\): give states in SI units"),
    ],
)
def test_inputs_that_the_network_does_not_take_are_refused(
    folder: Path, tmp_path: Path, spoil: Any, sentence: str
) -> None:
    with xr.open_dataset("states.nc") as states:
        spoil(states.load()).to_netcdf(tmp_path / "bad.nc")
    with pytest.raises(ValueError, match=sentence):
        theirs(tmp_path, input={"netcdf": str(tmp_path / "bad.nc")})

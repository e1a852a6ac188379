"""Forecasts and truth of a part of the globe are scored as that part, and called so."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles import scores as oracle
from support.areas import CHANNEL, write_area
from weathermixer.cli import main
from weathermixer.data.grid import Grid
from weathermixer.report.make_report import make_report
from weathermixer.verification.regions import Regions, over_region, region_title
from weathermixer.verification.verify import verify

ROUND = np.arange(12.0) * 30.0
PARTS: dict[str, tuple[Any, Any]] = {
    "15N-75N 0E-45E": (np.arange(75.0, 14.0, -5.0), np.arange(0.0, 46.0, 5.0)),
    "30S-30N": (np.arange(-30.0, 31.0, 10.0), ROUND),
    "90S-90N 0E-45E": (np.linspace(-90.0, 90.0, 13), np.arange(0.0, 46.0, 15.0)),
    "40N-60N 20W-15E": (np.arange(40.0, 61.0, 5.0), np.arange(-20.0, 16.0, 5.0) % 360.0),
    "40S-0N 160E-150W": (np.arange(-40.0, 1.0, 5.0), np.arange(160.0, 211.0, 10.0)),
    "60N-90N": (np.arange(60.0, 91.0, 5.0), ROUND),
    "10N-50N 0E-70E": ([10.0, 12.0, 20.0, 35.0, 50.0], [0.0, 10.0, 30.0, 70.0]),
    "20N-40N 10E": (np.arange(20.0, 41.0, 5.0), [10.0]),
    "45N 0E-40E": ([45.0], np.arange(0.0, 41.0, 10.0)),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_the_globe_is_scored_by_the_areas_of_its_own_cells(
    name: str, tmp_path: Path
) -> None:
    latitude, longitude = PARTS[name]
    area = write_area(tmp_path, latitude, longitude)
    result = verify(area.forecast, area.truth)
    assert result.region == name
    assert list(result.regions) == [name]
    weights = oracle.area_weights_of_region(latitude, np.unwrap(longitude, period=360.0))
    for lead, (forecasts, expected) in enumerate(zip(area.forecasts, area.expected, strict=True)):
        rmse = result.scores.series("model", "rmse", CHANNEL)[lead]
        assert rmse == pytest.approx(oracle.region_rmse(forecasts, expected, weights), rel=1e-9)
        bias = result.scores.series("model", "bias", CHANNEL)[lead]
        assert bias == pytest.approx(oracle.region_bias(forecasts, expected, weights), rel=1e-6)


def test_the_scores_of_the_halves_of_the_globe_make_up_the_global_score(tmp_path: Path) -> None:
    """Also on Gaussian rows, of which the outermost are further than half a spacing from a pole."""
    latitude = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(8)[0]))
    whole = write_area(tmp_path / "whole", latitude, ROUND)
    squares = []
    for half in (slice(None, 6), slice(6, None)):
        folder = tmp_path / str(half.start)
        for name in ("forecast.zarr", "truth.zarr"):
            part = _open(tmp_path / "whole" / name).isel(longitude=half)
            part.drop_encoding().to_zarr(folder / name, zarr_format=2, consolidated=True)
        result = verify(folder / "forecast.zarr", folder / "truth.zarr")
        assert result.region != "global"
        squares.append(result.scores.values["model"]["rmse"] ** 2)
    result = verify(whole.forecast, whole.truth)
    assert result.region == "global"
    np.testing.assert_allclose(
        np.sqrt(np.mean(squares, axis=0)), result.scores.values["model"]["rmse"], rtol=1e-12
    )


def _open(path: Path) -> Any:
    import xarray as xr

    return xr.open_zarr(path, decode_timedelta=True)


def test_a_region_is_named_in_all_that_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "15N-75N 0E-45E"
    area, out = write_area(tmp_path, *PARTS[name]), tmp_path / "out"
    main(["verify", str(area.forecast), "--truth", str(area.truth), "--out", str(out)])
    table = capsys.readouterr().out
    assert "over 15°N to 75°N, 0°E to 45°E" in table
    assert "the data cover 15N-75N 0E-45E, not the globe" in table
    assert "lobal" not in table.replace("not the globe", "")
    record = json.loads((out / "scores.json").read_text("utf-8"))
    assert record["region"] == name
    assert record["regions"].keys() == {name}
    assert record["regions"][name]["rmse"] == record["scores"]["rmse"]
    assert record["spectrum"]["wavenumber"] == []
    with (out / "scores.csv").open(encoding="utf-8") as file:
        assert {row["region"] for row in csv.DictReader(file)} == {name}
    assert not (out / "spectrum.png").exists()
    for picture in ("rmse", "scorecard", "regions", f"map_{CHANNEL}"):
        assert (out / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    written = make_report(out)
    page = written.path.read_text("utf-8")
    assert "15°N to 75°N, 0°E to 45°E" in page
    assert not any("maps" in note for note in written.notes)
    assert '<section id="maps"' in page
    assert "the globe" not in page.replace("not the globe", "").replace("round the globe", "")


def test_a_row_is_scored_and_has_no_maps(tmp_path: Path) -> None:
    area, out = write_area(tmp_path, *PARTS["45N 0E-40E"]), tmp_path / "out"
    result = verify(area.forecast, area.truth, out=out)
    assert any("a single row or column" in warning for warning in result.warnings)
    assert not list(out.glob("map_*"))
    assert any("single row or column" in note for note in make_report(out).notes)


def test_a_global_grid_has_the_regions_of_weatherbench_whatever_its_columns() -> None:
    latitude = np.linspace(-87.5, 87.5, 36)
    for longitude in (ROUND, ROUND - 180.0, ROUND[::-1], np.append(ROUND, 360.0)):
        names = Regions.of(Grid(latitude, longitude)).names
        assert names == ("global", "tropics", "extratropics_north", "extratropics_south")


def test_a_meridian_that_is_there_twice_counts_once() -> None:
    latitude = np.linspace(-85.0, 85.0, 18)
    field = np.random.default_rng(0).normal(size=(1, 18, 12))
    twice = np.concatenate([field, field[..., :1]], axis=-1)
    expected = Regions.of(Grid(latitude, ROUND)).mean(field)
    got = Regions.of(Grid(latitude, np.append(ROUND, 360.0))).mean(twice)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_regions_have_titles() -> None:
    assert region_title("extratropics_north") == "Northern extratropics"
    assert over_region("global") == "over the globe"
    assert over_region("30S-30N") == "over 30°S to 30°N"
    assert region_title("45N 12.5W-0E") == "45°N, 12.5°W to 0°E"
    assert region_title("north_america") == "north america"

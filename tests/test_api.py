"""WeatherMixer from Python is what the commands do, between data sets."""

from __future__ import annotations

import contextlib
import datetime
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from torch import nn

import weathermixer as wm
from support.forecast_runs import write_run
from support.ranks import Pool
from support.waves import wave_config, write_waves
from weathermixer.data.archives.lent import is_lent, lent
from weathermixer.forecast.forecast import forecast
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture
from weathermixer.planning.choosing import make_planner
from weathermixer.verification.verify import verify

INIT, STEPS = "2001-01-05T06", 3
DATA: dict[str, Any] = {"levels": [500, 850], "input_times": 2}


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_waves(tmp_path_factory.mktemp("waves") / "waves.zarr", levels=(500, 850))


@pytest.fixture(scope="module")
def run(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run", waves, scale=0.05, **DATA)


@pytest.fixture
def analysis(waves: Path) -> xr.Dataset:
    """Two states, six hours apart, the last of them at INIT."""
    return wm.open_store(waves).sel(time=["2001-01-05T00", "2001-01-05T06"]).load()


def test_a_store_is_shown_a_variable_each_with_levels(waves: Path) -> None:
    shown, stored = wm.open_store(waves), xr.open_zarr(waves)
    assert shown["temperature"].dims == ("time", "level", "latitude", "longitude")
    assert shown["2m_temperature"].dims == ("time", "latitude", "longitude")
    assert shown["temperature"].chunks is not None, "nothing is read before it is looked at"
    assert list(shown.level) == [500, 850]
    state = stored["state"]
    for name, field in (
        ("temperature_500", shown["temperature"].sel(level=500)),
        ("temperature_850", shown["temperature"].sel(level=850)),
        ("2m_temperature", shown["2m_temperature"]),
    ):
        place = list(stored["channel"].values).index(name)
        np.testing.assert_array_equal(field, state.isel(channel=place))
        assert field.attrs["units"] == "K"
    np.testing.assert_array_equal(shown["land_sea_mask"], stored["static"][0])


def test_a_forecast_from_a_data_set_is_that_of_the_command(
    run: Path, waves: Path, analysis: xr.Dataset, tmp_path: Path
) -> None:
    forecast(run, waves, INIT, STEPS, tmp_path / "command.zarr")
    theirs = xr.open_zarr(tmp_path / "command.zarr", decode_timedelta=True)
    ours = wm.open_model(run).forecast(analysis, STEPS)
    xr.testing.assert_equal(ours, theirs)
    assert ours["temperature"].chunks is None, "it is in memory"
    assert ours.attrs["initial_conditions"] == "the analysis"
    lazy = wm.open_model(run).forecast(waves, STEPS, init=INIT, out=tmp_path / "ours.zarr")
    xr.testing.assert_equal(lazy, theirs)
    assert lazy["temperature"].chunks is not None
    in_one_file = wm.open_model(run).forecast(waves, STEPS, init=INIT, out=tmp_path / "ours.nc")
    xr.testing.assert_equal(in_one_file, theirs)
    assert not is_lent("the analysis")


def _as_archives_have_it(analysis: xr.Dataset) -> xr.Dataset:
    """Other names, units and order, north to south and levels from below, in dask's pieces."""
    other = analysis.rename({"temperature": "t", "2m_temperature": "t2m", "level": "plev"})
    other = other.isel(latitude=slice(None, None, -1), plev=slice(None, None, -1))
    other["plev"] = ("plev", other["plev"].values * 100.0, {"units": "Pa"})
    other["t2m"] = other["t2m"].astype(np.float64) - 273.15
    other["t2m"].attrs["units"] = "degC"
    return other.chunk({"longitude": 5}).transpose("longitude", ...)


def test_names_units_and_order_of_an_analysis_are_put_right(
    run: Path, analysis: xr.Dataset
) -> None:
    model = wm.open_model(run)
    expected = model.forecast(analysis, STEPS)
    found = model.forecast(_as_archives_have_it(analysis), STEPS)
    found = found.sel(latitude=expected.latitude)
    for name in expected.data_vars:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-3, err_msg=str(name))


def test_several_initial_times_are_forecast_together(run: Path, waves: Path) -> None:
    model, store = wm.open_model(run), wm.open_store(waves)
    assert model.input_times == (np.timedelta64(-6, "h"), np.timedelta64(0, "h"))
    times = store.time[[9, 5]]
    both = model.forecast(store, STEPS, init=times)
    assert list(both.time.values) == list(np.sort(times.values))
    for time in times:
        one = model.forecast(store, STEPS, init=time)
        xr.testing.assert_equal(one, both.sel(time=[time.values]))
    for source in (store, waves, store.rename(time="valid_time")):
        last = model.forecast(source, STEPS)
        assert last.time.item() == store.time[-1].item()


def test_scores_of_data_sets_are_those_of_the_command(
    run: Path, waves: Path, tmp_path: Path
) -> None:
    init = "2001-01-02/2001-01-10/6h"
    forecast(run, waves, init, STEPS, tmp_path / "forecast.zarr")
    expected = verify(tmp_path / "forecast.zarr", waves)
    made = xr.open_zarr(tmp_path / "forecast.zarr", decode_timedelta=True)
    found = wm.score(made, wm.open_store(waves))
    assert list(found.metric.values) == list(expected.scores.metrics)
    for region, scores in expected.regions.items():
        for source, metric, channel, hours, value in scores.rows():
            name, _, level = channel.rpartition("_")
            field = found[name].sel(level=int(level)) if level.isdecimal() else found[channel]
            at = {"region": region, "source": source, "metric": metric}
            lead = np.timedelta64(round(hours * 3600), "s")
            got = field.sel({**at, "prediction_timedelta": lead}).item()
            assert got == pytest.approx(value, rel=1e-12, nan_ok=True)
    assert list(found.pairs.values) == list(expected.scores.pairs)
    xr.testing.assert_equal(found, wm.score(tmp_path / "forecast.zarr", str(waves)))


def test_a_training_from_python_leaves_a_run_to_open(waves: Path, tmp_path: Path) -> None:
    config = wave_config(waves, training={"steps": 3, "warmup_steps": 1}, data=DATA)
    result = wm.train(config, tmp_path / "run")
    assert len(result.loss) == 3
    model = wm.open_model(tmp_path / "run")
    assert model.config.training.steps == 3
    assert model.channels == ("temperature_500", "temperature_850", "2m_temperature")
    np.testing.assert_array_equal(model.latitude, wm.open_store(waves).latitude)


def tiny_network(sizes: Architecture) -> nn.Module:
    return nn.Conv2d(sizes.inputs, sizes.predicted, 3, padding=1)


def test_another_network_is_trained_and_forecasts(
    waves: Path, analysis: xr.Dataset, tmp_path: Path
) -> None:
    config = wave_config(waves, training={"steps": 3, "warmup_steps": 1}, data=DATA)
    wm.train(config, tmp_path / "run", network=tiny_network)
    made = wm.open_model(tmp_path / "run", network=tiny_network).forecast(analysis, STEPS)
    forecast(tmp_path / "run", waves, INIT, STEPS, tmp_path / "expected.zarr", network=tiny_network)
    expected = xr.open_zarr(tmp_path / "expected.zarr", decode_timedelta=True)
    xr.testing.assert_equal(made, expected)
    with pytest.raises(wm.UserError):
        wm.open_model(tmp_path / "run").forecast(analysis, STEPS)


def test_refusals_name_arguments_and_not_options(
    run: Path, waves: Path, analysis: xr.Dataset, tmp_path: Path
) -> None:
    model = wm.open_model(run)
    for arguments, sentence in (
        ({"steps": 0}, "steps 0 is impossible: forecast at least one step"),
        ({"steps": 1, "members": 1}, "members 1 is no ensemble: give 2 or more, or leave it out"),
        ({"steps": 1, "init": "2001-01-32"}, "init '2001-01-32': '2001-01-32' is not a time"),
    ):
        with pytest.raises(wm.UserError) as refused:
            model.forecast(analysis, **arguments)
        assert str(refused.value).startswith(sentence)
    with pytest.raises(wm.UserError, match=r"continue it with resume=True, or choose another out$"):
        wm.train(model.config, run)
    with pytest.raises(wm.UserError, match=r"give the folder that 'weathermixer train --out' wr"):
        wm.open_model(tmp_path)
    with pytest.raises(wm.UserError, match=r"says the grid .*: give grid, such as 720x1440"):
        wm.plan(wave_config(tmp_path / "nothing.zarr"), 2)


def test_a_plan_is_that_of_the_command(waves: Path) -> None:
    config = wave_config(waves)
    expected = make_planner(config, machine="h100").plan(2)
    assert wm.plan(config, 2, machine="h100").to_json() == expected.to_json()


BAD: dict[str, tuple[Any, str]] = {
    "a level": (lambda a: a.sel(level=[850]), "the analysis lacks temperature_500"),
    "a variable": (lambda a: a.drop_vars("2m_temperature"), "the analysis lacks 2m_temperature"),
    "a time": (lambda a: a.isel(time=[1]), "takes the states of 2 times.*the analysis has no"),
    "the time": (lambda a: a.isel(time=1, drop=True), "has no times: give it a coordinate 'time'"),
    "another grid": (lambda a: a.isel(longitude=slice(None, None, 2)), "the analysis.*grid"),
    "other units": (lambda a: a - 273.15, "temperature_500 at 2001.*are they in K"),
    "missing values": (lambda a: a.where(a.longitude > 30.0), "the analysis.*NaN"),
    "nothing": (lambda a: xr.Dataset(coords=a.coords), "the analysis (holds|has) no"),
}


@pytest.mark.parametrize("lack", BAD)
def test_an_analysis_that_does_not_fit_is_refused_in_a_sentence(
    run: Path, analysis: xr.Dataset, lack: str
) -> None:
    change, message = BAD[lack]
    with pytest.raises(wm.UserError, match=message) as refused:
        wm.open_model(run).forecast(change(analysis), STEPS)
    assert "\n" not in str(refused.value)
    assert not is_lent("the analysis")


def _forecast_without_out(mesh: Mesh, run: Path, waves: Path) -> str:
    with pytest.raises(wm.UserError) as refused:
        wm.open_model(run).forecast(waves, STEPS, init=INIT)
    return str(refused.value)


def test_on_several_ranks_a_forecast_needs_a_place(pool: Pool, run: Path, waves: Path) -> None:
    said = pool.run(_forecast_without_out, wm.Layout(domain=2), run, waves)
    assert set(said) == {"a forecast on several ranks has parts on each: give out, a Zarr"}


def test_data_sets_of_one_kind_are_lent_under_names_of_their_own(analysis: xr.Dataset) -> None:
    with lent("the analysis", analysis) as first, lent("the analysis", analysis) as second:
        assert first != second
        assert is_lent(first) and is_lent(second)
    assert not is_lent(first) and not is_lent(second)


def test_importing_the_package_loads_nothing_that_takes_time() -> None:
    script = (
        "import sys, weathermixer as wm; assert 'open_model' in dir(wm); "
        "print(sorted({'torch', 'xarray', 'zarr', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        wm.nothing  # noqa: B018


def _truth(waves: Path) -> xr.Dataset:
    return wm.open_store(waves).sel(time=slice("2001-01-05", "2001-01-07")).load()


MISFITS: dict[str, tuple[Any, str]] = {
    "a level": (lambda t: t.sel(level=[850]), "the truth lacks temperature_500: it holds"),
    "another grid": (lambda t: t.isel(longitude=slice(None, None, 2)), "the truth"),
    "other times": (lambda t: t.assign_coords(time=t.time + np.timedelta64(900, "D")), "the truth"),
    "other units": (lambda t: t - 273.15, "the truth.*are they in K"),
    "missing values": (lambda t: t.where(t.longitude > 30.0), "the truth.*NaN"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_truth_that_does_not_fit_is_refused_in_a_sentence(
    run: Path, waves: Path, analysis: xr.Dataset, misfit: str
) -> None:
    change, message = MISFITS[misfit]
    made = wm.open_model(run).forecast(analysis, STEPS)
    with pytest.raises(wm.UserError, match=message) as refused:
        wm.score(made, change(_truth(waves)))
    assert "\n" not in str(refused.value)


def test_a_climatology_may_be_a_data_set(run: Path, waves: Path, analysis: xr.Dataset) -> None:
    made, truth = wm.open_model(run).forecast(analysis, STEPS), _truth(waves)
    mean = truth.drop_vars("land_sea_mask").mean("time")
    expected = mean.expand_dims(hour=[0, 6, 12, 18], dayofyear=np.arange(1, 367))
    for name in ("temperature", "2m_temperature"):
        expected[name].attrs["units"] = "K"
    scores = wm.score(made, truth, climatology=expected)
    rmse = scores["2m_temperature"].sel(source="climatology", metric="rmse", region="global")
    valid = truth["2m_temperature"].sel(time="2001-01-05T12")
    edges = np.deg2rad(np.concatenate([[90.0], np.arange(67.5, -68, -22.5), [-90.0]]))
    area = -np.diff(np.sin(edges))
    square = ((mean["2m_temperature"] - valid) ** 2).mean("longitude").values
    assert rmse[0].item() == pytest.approx(np.sqrt((square * area).sum() / area.sum()), rel=1e-5)


def _forecast_on_ranks(mesh: Mesh, run: Path, waves: Path, out: Path) -> None:
    store = wm.open_store(waves)
    wm.open_model(run).forecast(store, STEPS, init=INIT, out=out)


def test_ranks_forecast_from_a_data_set_together(
    pool: Pool, run: Path, waves: Path, tmp_path: Path
) -> None:
    pool.run(_forecast_on_ranks, wm.Layout(domain=2), run, waves, tmp_path / "f.zarr")
    alone = wm.open_model(run).forecast(waves, STEPS, init=INIT)
    together = xr.open_zarr(tmp_path / "f.zarr", decode_timedelta=True)
    xr.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.parametrize("init", ["yesterday", ["2001-01-05", "soon"], 5])
def test_what_is_no_time_is_refused_in_a_sentence(
    run: Path, analysis: xr.Dataset, init: Any
) -> None:
    with pytest.raises(wm.UserError, match="is not a time: write it as 2020-01-31T12"):
        wm.open_model(run).forecast(analysis, STEPS, init=init)


def test_times_of_other_kinds_are_taken(run: Path, analysis: xr.Dataset) -> None:
    model = wm.open_model(run)
    expected = model.forecast(analysis, STEPS, init=INIT)
    moment = datetime.datetime(2001, 1, 5, 6)
    for init in (moment, [moment], np.datetime64(moment)):
        xr.testing.assert_equal(model.forecast(analysis, STEPS, init=init), expected)


def test_what_is_said_to_be_there_is_there() -> None:
    from weathermixer import api

    assert wm.__all__ == api.__all__
    assert all(getattr(wm, name) is getattr(api, name) for name in wm.__all__)


def test_a_notebook_shows_a_mistake_as_a_sentence() -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        shell.run_cell("import weathermixer as wm\nwm.open_model('nowhere')")
    InteractiveShell.clear_instance()
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue())
    assert text.strip().startswith("Error: nowhere is not a run")
    assert "Traceback" not in text

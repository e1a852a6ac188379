from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import xarray as xr

from support.forecast_runs import write_run
from support.waves import START, write_waves
from weathermixer.data.forcings import Forcings, forcing_fields
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError
from weathermixer.forecast.forecast import forecast
from weathermixer.forecast.rollout import rollout
from weathermixer.runs.run import Run

INITS = "2001-01-02/2001-01-04T12/6h"
NUM_INITS = 11  # more than one batch


class Killed(BaseException):
    """Stops a forecast where nothing in it can catch it, as a kill would."""


def _values(path: Path) -> xr.Dataset:
    return xr.open_zarr(path).load()


@pytest.mark.parametrize(
    ("names", "times", "latent"),
    [((), 1, 1), (("toa_solar_radiation", "hour_of_day"), 3, 1), (("hour_of_day",), 1, 2)],
)
def test_it_is_the_model_applied_to_normalised_states_and_restored(
    waves: Path, tmp_path: Path, names: tuple[str, ...], times: int, latent: int
) -> None:
    """In float64, step by step, one initial time at a time, with the oracle's own arithmetic."""
    training = {"dtype": "float64", "latent_rollout": f"{latent}-3" if latent > 1 else 1}
    run_path = write_run(
        tmp_path / "run", waves, scale=0.05, training=training, forcings=names, input_times=times
    )
    result = forecast(run_path, waves, "2001-01-03T06,2001-01-05", 4, tmp_path / "f.zarr")
    assert result.lead_hours == {1: (6.0, 12.0, 18.0, 24.0), 2: (12.0, 24.0)}[latent]
    dataset = _values(tmp_path / "f.zarr")

    run, store = Run.open(run_path), Store.open(waves)
    model, n = run.load_model(), run.normalisation
    static = torch.from_numpy(n.static).double()
    forcings = Forcings(forcing_fields(names), store.latitude, store.longitude, 6.0)
    for time, start in enumerate(("2001-01-03T06", "2001-01-05T00")):
        index = store.index_of(np.datetime64(start))
        states = [store.read(index - back).astype(np.float64) for back in range(times)]
        for lead in range(4 // latent):
            standard = [
                torch.from_numpy((state - n.mean[:, None, None]) / n.std[:, None, None])[None]
                for state in states[:times]
            ]
            fields = np.empty(forcings.shape)
            begins = np.datetime64(start, "s") + np.timedelta64(6 * latent * lead, "h")
            forcings.fill(fields, begins)
            given = (static, torch.from_numpy(fields)[None])
            with torch.no_grad():
                later = model(*standard, *given, applications=latent)[0].numpy()
            state = later * n.std[:, None, None] + n.mean[:, None, None]
            states.insert(0, state)
            got = dataset.isel(time=time, prediction_timedelta=lead)
            np.testing.assert_allclose(got["temperature"].sel(level=850), state[0], rtol=1e-6)
            np.testing.assert_allclose(got["2m_temperature"], state[1], rtol=1e-6)


def test_a_forecast_of_a_latent_rollout_is_made_of_whole_ones(
    waves: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_path = write_run(tmp_path / "run", waves, scale=0.05, training={"latent_rollout": 2})
    with pytest.raises(UserError, match=r"--steps 3 is impossible.*by 2 steps at a time"):
        forecast(run_path, waves, "2001-01-03", 3, tmp_path / "f.zarr")
    override = "--training.latent_rollout=3"
    result = forecast(run_path, waves, "2001-01-03", 3, tmp_path / "f.zarr", overrides=[override])
    assert result.lead_hours == (18.0,)
    assert "by 3 steps at a time, and the run was trained with" in capsys.readouterr().err


def test_a_state_before_the_initial_time_that_is_lacking_is_named(
    waves: Path, tmp_path: Path
) -> None:
    run_path = write_run(tmp_path / "run", waves, scale=0.05, input_times=3)
    with pytest.raises(
        UserError,
        match=r"a forecast from 2001-01-01T06:00:00 takes the states of 3 times, 6 h apart, and "
        r".* has no state at 2000-12-31T18:00:00",
    ):
        forecast(run_path, waves, "2001-01-01T06", 2, tmp_path / "f.zarr")


def test_a_hole_at_the_last_initial_time_is_known_before_anything_is_written(
    waves: Path, tmp_path: Path
) -> None:
    run_path = write_run(tmp_path / "run", waves, scale=0.05)
    store = tmp_path / "waves.zarr"
    shutil.copytree(waves, store)
    shutil.rmtree(store / "state" / "c" / "14")
    with pytest.raises(UserError, match="the state at 2001-01-04T12:00:00 has missing chunks"):
        forecast(run_path, store, INITS, 2, tmp_path / "f.zarr")
    assert not (tmp_path / "f.zarr.partial").exists()


def test_an_untrained_increment_is_persistence(waves: Path, tmp_path: Path) -> None:
    run_path = write_run(tmp_path / "run", waves, scale=0.0)
    forecast(run_path, waves, "2001-01-03", 3, tmp_path / "f.zarr")
    dataset = _values(tmp_path / "f.zarr")
    store = Store.open(waves)
    start = store.read(store.index_of(np.datetime64("2001-01-03T00")))
    for lead in range(3):
        np.testing.assert_allclose(
            dataset["2m_temperature"].isel(time=0, prediction_timedelta=lead), start[1], rtol=1e-6
        )


def test_what_made_it_is_written_into_it(waves: Path, random_run: Path, tmp_path: Path) -> None:
    forecast(random_run, waves, "2001-01-03", 1, tmp_path / "f.zarr")
    attributes = _values(tmp_path / "f.zarr").attrs
    assert attributes["source"].startswith("WeatherMixer ")
    assert attributes["run"] == str(random_run)
    assert attributes["checkpoint"] == "step-00000007"
    assert attributes["initial_conditions"] == str(waves)


def test_progress_counts_steps_of_all_initial_times(
    waves: Path, random_run: Path, tmp_path: Path
) -> None:
    calls: list[tuple[int, int]] = []
    result = forecast(
        random_run, waves, INITS, 2, tmp_path / "f.zarr", progress=lambda *c: calls.append(c)
    )
    assert len(result.initial_times) == NUM_INITS
    assert [done for done, _ in calls] == [8, 16, 19, 22]
    assert {total for _, total in calls} == {22}


def test_killed_and_run_again_it_equals_one_never_interrupted(
    waves: Path, random_run: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole.zarr", tmp_path / "killed.zarr"
    forecast(random_run, waves, INITS, 5, whole)

    def kill_in_second_batch(done: int, _: int) -> None:
        if done > 8 * 5 + 3:
            raise Killed

    with pytest.raises(Killed):
        forecast(random_run, waves, INITS, 5, killed, progress=kill_in_second_batch)
    assert not killed.exists()
    calls: list[int] = []
    forecast(random_run, waves, INITS, 5, killed, progress=lambda done, _: calls.append(done))
    assert calls[0] == 8 * 5  # the first batch is not computed again
    xr.testing.assert_identical(_values(killed), _values(whole))
    assert not list(tmp_path.glob("*.partial"))


def test_a_forecast_goes_on_only_with_the_checkpoint_it_began_with(
    waves: Path, tmp_path: Path
) -> None:
    run_path = write_run(tmp_path / "run", waves, scale=0.05)

    def kill(*_: object) -> None:
        raise Killed

    with pytest.raises(Killed):
        forecast(run_path, waves, INITS, 2, tmp_path / "f.zarr", progress=kill)
    checkpoints = Run.open(run_path).checkpoints
    shutil.copytree(checkpoints / "step-00000007", checkpoints / "step-00000008")
    with pytest.raises(UserError, match="unfinished forecast of another model"):
        forecast(run_path, waves, INITS, 2, tmp_path / "f.zarr")
    # That one is what it can be told to take.
    forecast(run_path, waves, INITS, 2, tmp_path / "f.zarr", checkpoint="7")
    assert xr.open_zarr(tmp_path / "f.zarr").attrs["checkpoint"] == "step-00000007"
    with pytest.raises(UserError, match="has no checkpoint after step 9: there are 7, 8"):
        forecast(run_path, waves, INITS, 2, tmp_path / "g.zarr", checkpoint="9")


def test_a_forecast_that_blows_up_is_stopped_and_named(waves: Path, tmp_path: Path) -> None:
    run_path = write_run(tmp_path / "run", waves, scale=1e12)
    with pytest.raises(
        UserError, match=r"from 2001-01-03T00:00:00 is NaN or infinite at \d+ h, first in "
    ):
        forecast(run_path, waves, "2001-01-03", 60, tmp_path / "f.zarr")
    assert not (tmp_path / "f.zarr").exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"init": "2001-01-03T01"}, "no state at 2001-01-03T01:00:00; the nearest is 2001-01-03T0"),
        ({"init": "soon"}, "'soon' is not a time"),
        ({"overrides": ["--model.channels=32"]}, "--model.channels=32 cannot change a forecast"),
        ({"overrides": ["training.dtype=int8"]}, "training.dtype"),
        ({"steps": 0}, "--steps 0 is impossible"),
        ({"store": Path("nowhere.zarr")}, "there is no store"),
        ({"run": Path("nowhere")}, "is not a run"),
    ],
)
def test_what_cannot_be_forecast_is_refused(
    waves: Path, random_run: Path, tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    asked: dict[str, Any] = {"run": random_run, "store": waves, "init": "2001-01-03", "steps": 2}
    with pytest.raises(UserError, match=complaint):
        forecast(**{**asked, **change}, out=tmp_path / "f.zarr")
    assert not list(tmp_path.glob("f.zarr*"))


def test_a_finished_forecast_is_not_overwritten(
    waves: Path, random_run: Path, tmp_path: Path
) -> None:
    forecast(random_run, waves, "2001-01-03", 1, tmp_path / "f.zarr")
    with pytest.raises(UserError, match="exists already"):
        forecast(random_run, waves, "2001-01-03", 1, tmp_path / "f.zarr")


def test_a_store_without_the_channels_or_on_another_grid_is_refused(
    random_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("support.waves.CHANNELS", ("temperature_850", "10m_u_component_of_wind"))
    poorer = write_waves(tmp_path / "poorer.zarr", times=10)
    with pytest.raises(UserError, match="lacks"):
        forecast(random_run, poorer, str(START), 1, tmp_path / "f.zarr")
    monkeypatch.undo()
    monkeypatch.setattr("support.waves.LATITUDE", np.linspace(80.0, -80.0, 8))
    elsewhere = write_waves(tmp_path / "elsewhere.zarr", times=10)
    with pytest.raises(UserError, match="grid"):
        forecast(random_run, elsewhere, str(START), 1, tmp_path / "f.zarr")


def test_a_run_without_a_checkpoint_is_refused(
    waves: Path, random_run: Path, tmp_path: Path
) -> None:
    run_path = tmp_path / "run"
    shutil.copytree(random_run, run_path)
    shutil.rmtree(run_path / "checkpoints" / "step-00000007")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        forecast(run_path, waves, "2001-01-03", 1, tmp_path / "f.zarr")


def test_overrides_reach_the_model(waves: Path, random_run: Path, tmp_path: Path) -> None:
    forecast(random_run, waves, "2001-01-03", 2, tmp_path / "a.zarr")
    forecast(
        random_run, waves, "2001-01-03", 2, tmp_path / "b.zarr",
        overrides=["--training.dtype=bfloat16"],
    )  # fmt: skip
    exact, rounded = (_values(tmp_path / name)["2m_temperature"] for name in ("a.zarr", "b.zarr"))
    assert not np.array_equal(exact, rounded)
    np.testing.assert_allclose(exact, rounded, atol=2.0)


def test_a_forecast_in_tf32_sets_its_products_and_leaves_those_of_others(
    waves: Path, random_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def noting(*arguments: Any) -> Iterator[torch.Tensor]:
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        return rollout(*arguments)

    with mock.patch("weathermixer.forecast.forecaster.rollout", noting):
        for name, dtype in (("a", "float32"), ("b", "tf32")):
            forecast(
                random_run,
                waves,
                "2001-01-03",
                1,
                tmp_path / f"{name}.zarr",
                overrides=[f"training.dtype={dtype}"],
            )
    assert seen == [False, True]
    assert not torch.backends.cuda.matmul.allow_tf32
    assert "tf32, which this device (cpu) does not have" in capsys.readouterr().err

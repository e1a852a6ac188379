"""anemoi-inference runs exports by a runner of ours, and forecasts the same."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from anemoi.inference.mid_processors import mid_processor_registry
from anemoi.inference.processor import Processor

from support.anemois import (
    CHANNELS,
    INIT,
    SHOWN,
    STEPS,
    WET,
    field,
    fields,
    initial,
    ours,
    require_equal,
    run_of,
    run_of_store,
    runner_of,
    theirs,
)
from support.waves import LATITUDE, LONGITUDE, write_waves
from weathermixer.anemoi import WeatherMixerRunner, anemoi_name
from weathermixer.anemoi.names import described
from weathermixer.data.channels import PREDICTED_VARIABLES
from weathermixer.errors import UserError
from weathermixer.forecast.forecast import forecast


def test_every_channel_has_ecmwfs_name_and_units() -> None:
    for name, variable in PREDICTED_VARIABLES.items():
        kind, channel = ("pl", f"{name}_500") if variable.on_levels else ("sfc", name)
        about = described(channel)
        assert about["mars"]["levtype"] == kind
        assert anemoi_name(channel) == about["mars"]["param"] + ("_500" if kind == "pl" else "")
        handle = eccodes.codes_grib_new_from_samples(f"regular_ll_{kind}_grib1")
        eccodes.codes_set(handle, "shortName", about["mars"]["param"])
        assert eccodes.codes_get(handle, "units") == about["units"]
        words = eccodes.codes_get(handle, "name").lower().replace(" ", "_")
        words = words.replace("_metre", "m").replace("wind_component", "component_of_wind")
        length = f"_{about['period'][1]}hr" if "process" in about else ""
        assert name == words + length


def test_the_configuration_of_the_document_makes_our_forecast(folder: Path, tmp_path: Path) -> None:
    runner = runner_of(output=yaml.safe_load(SHOWN["yaml"][0])["output"])
    assert isinstance(runner, WeatherMixerRunner)
    runner.execute()
    made = xr.open_dataset("forecast.nc")
    hours = (made["time"].values - np.datetime64(INIT)) / np.timedelta64(1, "h")
    assert hours.tolist() == [0, 6, 12, 18, 24]
    np.testing.assert_array_equal(made["latitude"][:17], [78.75] * 16 + [56.25])
    for channel in CHANNELS:
        np.testing.assert_array_equal(fields(made, channel)[0], initial(folder, channel))
    require_equal(made, ours(folder / "model.safetensors", tmp_path))


class Warms(Processor):
    """Changes states between steps."""

    def process(self, state: dict[str, Any]) -> dict[str, Any]:
        state["fields"] = {name: field + 0.5 for name, field in state["fields"].items()}
        return state


class Nudges(Processor):
    """Changes states between steps by less than matters."""

    def process(self, state: dict[str, Any]) -> dict[str, Any]:
        state["fields"] = {
            name: field.nextafter(torch.tensor(1e9)) for name, field in state["fields"].items()
        }
        return state


mid_processor_registry.register("warms", Warms)
mid_processor_registry.register("nudges", Nudges)


@pytest.mark.parametrize(("member", "processors"), [(0, []), (2, ["nudges"])])
def test_a_member_is_that_of_our_ensemble(
    folder: Path, tmp_path: Path, member: int, processors: list[str]
) -> None:
    runner = {"weathermixer": {"member": member}}
    made = theirs(tmp_path, checkpoint="model", runner=runner, mid_processors=processors)
    expected = ours(folder / "model", tmp_path, members=3)
    single = theirs(tmp_path)
    for channel in CHANNELS:
        of_member = field(expected.isel(realization=member), channel)
        # Another number of forecasts is computed together.
        np.testing.assert_allclose(
            fields(made, channel)[1:], of_member, rtol=0, atol=2e-5 * of_member.std()
        )
    assert np.abs(fields(made, CHANNELS[0]) - fields(single, CHANNELS[0])).max() > 0.01


def test_members_that_are_equal_are_remarked_on(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_of_store(folder, tmp_path)
    changes = {"checkpoint": str(tmp_path / "plain"), "lead_time": 6}
    theirs(tmp_path, runner={"weathermixer": {"member": 1}}, **changes)
    assert "all members will be equal, since the network has no noise" in caplog.text


@pytest.mark.parametrize(
    ("training", "data"),
    [
        ({"dtype": "bfloat16"}, {"forcings": ["toa_solar_radiation", "hour_of_day"]}),
        ({"latent_rollout": 2}, {"input_times": 1, "forcings": ["day_of_year"]}),
        pytest.param({"dtype": "float64"}, {}, marks=pytest.mark.exhaustive),
    ],
    ids=["bfloat16 and forcings", "latent rollout", "float64"],
)
def test_steps_are_those_of_our_forecast(
    folder: Path, tmp_path: Path, training: dict[str, Any], data: dict[str, Any]
) -> None:
    run = run_of_store(folder, tmp_path, training=training, data=data)
    made = theirs(tmp_path, checkpoint=str(run.with_suffix(".safetensors")))
    assert made.sizes["time"] == 1 + STEPS // training.get("latent_rollout", 1)
    require_equal(made, ours(run, tmp_path))


def test_overrides_are_those_of_our_forecast(folder: Path, tmp_path: Path) -> None:
    run = run_of_store(folder, tmp_path, data={"input_times": 1})
    overrides = ["training.latent_rollout=2", "training.dtype=bfloat16"]
    made = theirs(tmp_path, checkpoint=str(run), runner={"weathermixer": {"overrides": overrides}})
    assert made.sizes["time"] == 1 + STEPS // 2
    forecast(run, folder / "planet.zarr", INIT, STEPS, tmp_path / "o.zarr", overrides=overrides)
    expected = xr.open_zarr(tmp_path / "o.zarr", decode_timedelta=True).isel(time=0)
    require_equal(made, expected)


def test_precipitation_of_two_lengths_is_refused(tmp_path: Path) -> None:
    both = (WET, "total_precipitation_24hr")
    write_waves(tmp_path / "planet.zarr", levels=(500, 850), diagnostic=both)
    run = run_of(tmp_path, data={"diagnostic": list(both)})
    with pytest.raises(UserError, match=r"^\S+_6hr and \S+_24hr are both tp for ECMWF"):
        runner_of(checkpoint=str(run))


def test_a_mid_processor_changes_what_a_step_is_given(folder: Path, tmp_path: Path) -> None:
    made = theirs(tmp_path, mid_processors=["warms"])
    window = [np.stack([initial(folder, name, back) for name in CHANNELS]) for back in (1, 0)]
    date = datetime.fromisoformat(INIT)
    runner = runner_of()
    for step in range(STEPS):
        state = {
            "date": date,
            "latitudes": np.repeat(LATITUDE, LONGITUDE.size),
            "longitudes": np.tile(LONGITUDE, LATITUDE.size),
            "fields": {
                anemoi_name(name): np.stack([each[place].ravel() for each in window])
                for place, name in enumerate(CHANNELS)
            },
        }
        (result,) = runner.run(input_states={"data": state}, lead_time=6)
        found = [result["data"]["fields"][anemoi_name(name)] for name in CHANNELS]
        newest = np.stack(found).reshape(window[1].shape) + np.float32(0.5)
        expected = np.stack([fields(made, name)[step + 1] for name in CHANNELS])
        np.testing.assert_array_equal(newest, expected)
        window, date = [window[1], newest], date + timedelta(hours=6)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"precision": "f16"}, "^precision: f16 does not reach the network: leave it out, or give"),
        ({"runner": {"weathermixer": {"member": -1}}}, "^member: -1 is none: members are counted"),
        (
            {"runner": {"weathermixer": {"overrides": ["model.blocks=3"]}}},
            r"^model\.blocks=3 cannot change a forecast",
        ),
        ({"checkpoint": "planet.zarr"}, "planet.zarr"),
    ],
)
def test_configurations_that_cannot_be_had_are_refused(
    folder: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        runner_of(**changes)


def test_a_forecast_that_becomes_unstable_is_refused(folder: Path, tmp_path: Path) -> None:
    runner = runner_of()
    with torch.no_grad():
        runner.model.get_parameter("stepper.network.encoder.bias").fill_(float("inf"))
    with pytest.raises(UserError, match=r"^the forecast from 2001-01-10T00:00:00 is NaN or .* 6 h"):
        runner.execute()

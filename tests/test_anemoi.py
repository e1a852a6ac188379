"""Exports are run by anemoi-inference's own inputs, outputs and ranks, and forecast the same."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from anemoi.inference.config.run import RunConfiguration
from anemoi.inference.mid_processors import mid_processor_registry
from anemoi.inference.processor import Processor
from anemoi.inference.runners import create_runner
from markdown_it import MarkdownIt
from numpy.typing import NDArray

from support.forecast_runs import write_run
from support.gribs import Message, write_grib
from support.processes import Processes
from support.waves import LATITUDE, LONGITUDE, write_waves
from weathermixer.anemoi import WeatherMixerRunner, anemoi_name
from weathermixer.anemoi.names import described
from weathermixer.data.channels import PREDICTED_VARIABLES
from weathermixer.errors import UserError
from weathermixer.export import export_run
from weathermixer.forecast.forecast import forecast

ROOT = Path(__file__).resolve().parents[1]
TOKENS = MarkdownIt().parse((ROOT / "docs/anemoi.md").read_text(encoding="utf-8"))
SHOWN = {
    language: [
        token.content for token in TOKENS if token.type == "fence" and token.info == language
    ]
    for language in ("python", "yaml")
}
INIT, STEPS = "2001-01-10T00", 4
CHANNELS = ("temperature_500", "temperature_850", "2m_temperature")
WET = "total_precipitation_6hr"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the document's files lie: a store, a run and its export, and states made of the store.

    The run takes two states and has noise.
    """
    path = tmp_path_factory.mktemp("anemoi")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        write_waves(path / "planet.zarr", levels=(500, 850))
        write_states()
        run_of(path, model={"noise": 3})
        yield path


def write_states() -> None:
    """The document's program, which makes ``states.nc`` of ``planet.zarr``."""
    (program,) = SHOWN["python"]
    exec(compile(program, "shown", "exec"), {"__name__": "shown"})


def run_of(path: Path, name: str = "model", **changes: Any) -> Path:
    """A run on the store in a folder, and its export beside it."""
    data = {"levels": [500, 850], "input_times": 2} | changes.pop("data", {})
    run = write_run(path / name, path / "planet.zarr", scale=0.05, **changes, **data)
    (run / "origin.json").unlink()  # an empty one
    export_run(run, path / f"{name}.safetensors")
    return run


def runner_of(**changes: Any) -> Any:
    """The runner that a configuration names, by default that of the document."""
    values = yaml.safe_load(SHOWN["yaml"][0]) | {"device": "cpu", "output": "none"}
    return create_runner(RunConfiguration(**(values | changes)))


def theirs(path: Path, *, grib: Any = None, **changes: Any) -> xr.Dataset:
    """What anemoi's loop writes to NetCDF, by default of the document's configuration.

    Where ``grib`` configures that output, it is written as well.
    """
    # It writes to no path twice.
    out = path / f"theirs-{len(list(path.glob('theirs-*')))}.nc"
    outputs = [{"netcdf": str(out)}, *([{"grib": grib}] if grib else [])]
    runner_of(output={"tee": {"outputs": outputs}}, **changes).execute()
    with xr.open_dataset(out) as made:
        return made.load()


def ours(
    model: Path, path: Path, *, steps: int = STEPS, members: int | None = None, store: str = ""
) -> xr.Dataset:
    """The same forecast, as the command makes it."""
    out = path / f"ours-{members}.zarr"
    source = Path(store) if store else model.parent / "planet.zarr"
    forecast(model, source, INIT, steps, out, members=members)
    return xr.open_zarr(out, decode_timedelta=True).isel(time=0)


def field(forecasts: xr.Dataset, channel: str) -> NDArray[np.float32]:
    """A channel ``(..., latitude, longitude)`` of ours."""
    variable, _, level = channel.rpartition("_")
    if variable in forecasts:
        return np.asarray(forecasts[variable].sel(level=int(level)))
    return np.asarray(forecasts[channel])


def fields(made: xr.Dataset, channel: str) -> NDArray[np.float32]:
    """A channel ``(time, latitude, longitude)`` of anemoi's."""
    return made[anemoi_name(channel)].values.reshape(-1, LATITUDE.size, LONGITUDE.size)


def require_equal(made: xr.Dataset, expected: xr.Dataset) -> None:
    """Compare what follows from the initial state, bit by bit."""
    for channel in CHANNELS:
        np.testing.assert_array_equal(fields(made, channel)[1:], field(expected, channel))


def initial(path: Path, channel: str, back: int = 0) -> NDArray[np.float32]:
    """A channel ``(latitude, longitude)`` of the store, so many steps before the initial time."""
    state = xr.open_zarr(path / "planet.zarr")["state"].sel(channel=channel)
    when = np.datetime64(INIT) - back * np.timedelta64(6, "h")
    return np.asarray(state.sel(time=when.astype("datetime64[ns]")))


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


def run_of_store(folder: Path, path: Path, **changes: Any) -> Path:
    """Another run on the store of a folder."""
    (path / "planet.zarr").symlink_to(folder / "planet.zarr")
    return run_of(path, "plain", **changes)


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


def write_initial_grib(folder: Path, path: Path) -> xr.Dataset:
    """The states that a forecast starts from, as GRIB; what is left of them in its 24 bits."""
    grid = {
        "latitudeOfFirstGridPointInDegrees": LATITUDE[0],
        "latitudeOfLastGridPointInDegrees": LATITUDE[-1],
        "jDirectionIncrementInDegrees": LATITUDE[0] - LATITUDE[1],
    }
    messages = []
    for back in (1, 0):
        time = np.datetime64(INIT) - back * np.timedelta64(6, "h")
        for channel in CHANNELS:
            variable, _, level = channel.rpartition("_")
            name, hpa = (variable, int(level)) if level.isdecimal() else (channel, None)
            values = initial(folder, channel, back)
            messages.append(Message(name, time, values, hpa, grid))
    write_grib(path, messages, edition=2)
    decoded = [
        xr.open_dataset(path, engine="cfgrib", filter_by_keys={"shortName": name})
        for name in ("t", "2t")
    ]
    return xr.merge(decoded, compat="override")


def messages_of(path: Path) -> dict[tuple[str, str], NDArray[np.float64]]:
    """The values in a GRIB file of a forecast, by channel in ECMWF's words and range of steps."""
    values = {}
    with path.open("rb") as file:
        while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
            keys = ("dataDate", "dataTime", "shortName", "level", "stepRange")
            date, time, name, level, steps = (eccodes.codes_get(handle, key) for key in keys)
            assert (date, time) == (20010110, 0)
            values[f"{name}_{level}" if name == "t" else name, steps] = eccodes.codes_get_values(
                handle
            )
    return values


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


@pytest.mark.parametrize("found", ["0.12.1", None])
def test_another_version_of_anemoi_is_refused(found: str | None) -> None:
    if found is None:
        # As where no distribution of that name is on the path.
        look_up = "def version(name): raise m.PackageNotFoundError(name)"
        told = "is not installed, and this needs its version 0.13"
    else:
        look_up = f"def version(name): return {found!r}"
        told = f"{found} is installed, and this was made for 0.13"
    program = f"from importlib import metadata as m\n{look_up}\nm.version = version\n"
    ended = subprocess.run(
        [sys.executable, "-c", f"{program}import weathermixer.anemoi"],
        capture_output=True,
        text=True,
    )
    assert ended.stderr.strip().splitlines()[-1] == (
        f"weathermixer.errors.UserError: anemoi-inference {told}: "
        "pip install 'weathermixer[anemoi]' has it"
    )


@pytest.mark.parametrize(
    ("ranks", "options"),
    [
        (2, {}),
        pytest.param(
            2,
            {"member": 2, "overrides": ["parallel.tensor=2"]},
            marks=pytest.mark.exhaustive,
        ),
        pytest.param(3, {"overrides": ["parallel.domain=3"]}, marks=pytest.mark.exhaustive),
        pytest.param(
            4,
            {"overrides": ["parallel.domain=2", "parallel.tensor=2"]},
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_ranks_of_anemois_make_our_forecast(
    folder: Path, tmp_path: Path, processes: Processes, ranks: int, options: dict[str, Any]
) -> None:
    config = yaml.safe_load(SHOWN["yaml"][1])
    config["runner"]["parallel"].update(options)
    config |= {"device": "cpu", "output": {"netcdf": str(tmp_path / "cut.nc")}}
    (tmp_path / "ranks.yaml").write_text(yaml.safe_dump(config))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    status, _, err = processes.run(
        *torchrun, "-m", "anemoi.inference", "run", tmp_path / "ranks.yaml"
    )
    assert status == 0, err
    member = options.get("member")
    expected = ours(folder / "model", tmp_path, members=None if member is None else 3)
    if member is not None:
        expected = expected.isel(realization=member)
    made = xr.open_dataset(tmp_path / "cut.nc")
    for channel in CHANNELS:
        np.testing.assert_array_equal(fields(made, channel)[0], initial(folder, channel))
        truth = field(expected, channel)
        np.testing.assert_allclose(
            fields(made, channel)[1:], truth, rtol=0, atol=2e-5 * truth.std()
        )

"""What tests of forecasts in anemoi-inference share: what its document shows, both forecasts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import eccodes
import numpy as np
import xarray as xr
import yaml
from anemoi.inference.config.run import RunConfiguration
from anemoi.inference.runners import create_runner
from markdown_it import MarkdownIt
from numpy.typing import NDArray

from support.forecast_runs import write_run
from support.gribs import Message, write_grib
from support.waves import LATITUDE, LONGITUDE
from weathermixer.anemoi import anemoi_name
from weathermixer.export import export_run
from weathermixer.forecast.forecast import forecast

ROOT = Path(__file__).resolve().parents[2]
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


def run_of_store(folder: Path, path: Path, **changes: Any) -> Path:
    """Another run on the store of a folder."""
    (path / "planet.zarr").symlink_to(folder / "planet.zarr")
    return run_of(path, "plain", **changes)


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

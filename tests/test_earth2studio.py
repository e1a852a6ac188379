"""Exports are run by Earth2Studio's own workflows, sources and writers, and forecast the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from markdown_it import MarkdownIt
from numpy.typing import NDArray

from support.earth2 import alternate, lead_workflow
from support.forecast_runs import write_run
from support.networks import mesh_name
from support.ranks import Pool
from support.selection import exhaustive
from support.waves import write_waves
from weathermixer.data.channels import PREDICTED_VARIABLES, parse_channel
from weathermixer.earth2studio import Earth2Model
from weathermixer.earth2studio.model import Coordinates
from weathermixer.earth2studio.names import earth2studio_name
from weathermixer.errors import UserError
from weathermixer.export import export_run
from weathermixer.forecast.forecast import forecast
from weathermixer.jigsaw.layout import Layout

ROOT = Path(__file__).resolve().parents[1]
TIMES, STEPS = ["2001-01-05T06", "2001-01-06T12"], 3
INIT = ",".join(TIMES)


def e2s_times() -> list[np.datetime64]:
    return [np.datetime64(time, "ns") for time in TIMES]


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_waves(tmp_path_factory.mktemp("waves") / "waves.zarr", levels=(500, 850))


@pytest.fixture(scope="module")
def source(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store as a file that Earth2Studio's own source reads."""
    state = xr.open_zarr(waves)["state"]
    names = [earth2studio_name(str(name)) for name in state.channel.values]
    path = tmp_path_factory.mktemp("source") / "states.nc"
    renamed = state.rename(channel="variable", latitude="lat", longitude="lon")
    renamed.assign_coords(variable=names).to_netcdf(path)
    return path


VARIABLES = ["t500", "t850", "t2m"]


def our_forecast(
    run: Path, waves: Path, folder: Path, *, steps: int = STEPS, members: int | None = None
) -> xr.Dataset:
    """The same forecasts, as the command makes them."""
    out = folder / f"ours-{members}.zarr"
    forecast(run, waves, INIT, steps, out, members=members)
    return xr.open_zarr(out, decode_timedelta=True)


def given(model: Earth2Model, source: Path) -> tuple[torch.Tensor, Coordinates]:
    """What a workflow would give to the model at the initial times."""
    coords = model.input_coords()
    del coords["batch"]
    coords["time"] = np.array(e2s_times())
    states = xr.open_dataarray(source)
    leads = [states.sel(time=coords["time"] + lead).values for lead in coords["lead_time"]]
    return torch.from_numpy(np.stack(leads, axis=1)), coords


def take(
    model: Earth2Model, x: torch.Tensor, coords: Coordinates, number: int
) -> list[tuple[torch.Tensor, Coordinates]]:
    """So many states of the iterator."""
    return [step for step, _ in zip(model.create_iterator(x, coords), range(number), strict=False)]


def require_members(made: Any, ours: xr.Dataset) -> None:
    """Compare ``(ensemble, time, lead time, ...)`` with an ensemble of ours, to rounding."""
    for name in VARIABLES:
        fields, expected = np.asarray(made[name])[:, :, 1:], np.moveaxis(field(ours, name), 1, 0)
        # Another number of forecasts is computed together.
        np.testing.assert_allclose(fields, expected, rtol=0, atol=2e-5 * expected.std())
        assert fields.std(axis=0).max() > 0.01, "members differ"


def run_of(waves: Path, folder: Path, **changes: Any) -> Path:
    data = {"levels": [500, 850], "input_times": 2} | changes.pop("data", {})
    run = write_run(folder / "run", waves, scale=0.05, **changes, **data)
    (run / "origin.json").unlink()  # an empty one
    return run


@pytest.fixture(scope="module")
def run(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(waves, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def noisy_run(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(waves, tmp_path_factory.mktemp("noisy"), model={"noise": 3})


def field(forecasts: xr.Dataset, name: str) -> np.ndarray:
    """A variable of ours under its name in Earth2Studio's vocabulary."""
    for variable, values in forecasts.data_vars.items():
        levels = values.level.values if "level" in values.dims else [None]
        for level in levels:
            channel = str(variable) if level is None else f"{variable}_{level}"
            if earth2studio_name(channel) == name:
                return np.asarray(values if level is None else values.sel(level=level))
    raise AssertionError(name)


def initial(source: Path, name: str) -> NDArray[np.float32]:
    """The states ``(time, 1, latitude, longitude)`` of a variable at the initial times."""
    states = xr.open_dataarray(source).sel(variable=name, time=e2s_times())
    return states.values[:, None]


def test_every_channel_has_the_name_of_earth2studios_vocabulary() -> None:
    from earth2studio.lexicon import WB2Lexicon
    from earth2studio.lexicon.base import E2STUDIO_VOCAB

    for name, variable in PREDICTED_VARIABLES.items():
        for channel in [f"{name}_500", f"{name}_1000"] if variable.on_levels else [name]:
            theirs = earth2studio_name(channel)
            key, _ = WB2Lexicon[theirs]
            parsed = parse_channel(channel)
            assert key == f"{parsed.variable}::{parsed.level_hpa or ''}"
            assert parsed.level_hpa or theirs in E2STUDIO_VOCAB


def test_the_deterministic_workflow_of_an_export_is_our_forecast(
    run: Path, waves: Path, source: Path, tmp_path: Path
) -> None:
    from earth2studio.data import DataArrayFile
    from earth2studio.io import ZarrBackend
    from earth2studio.models.px import PrognosticModel
    from earth2studio.run import deterministic

    export_run(run, tmp_path / "model.safetensors")
    model = Earth2Model(tmp_path / "model.safetensors")
    assert isinstance(model, PrognosticModel)
    assert str(model) == "weathermixer"
    writer = ZarrBackend(str(tmp_path / "theirs.zarr"))
    deterministic(e2s_times(), STEPS, model, DataArrayFile(str(source)), writer, verbose=False)
    ours = our_forecast(run, waves, tmp_path)
    theirs = xr.open_zarr(tmp_path / "theirs.zarr", consolidated=False, decode_timedelta=True)
    hours = theirs["lead_time"].values / np.timedelta64(1, "h")
    assert hours.tolist() == [0, 6, 12, 18]
    for name in VARIABLES:
        np.testing.assert_array_equal(theirs[name][:, :1], initial(source, name))
        np.testing.assert_array_equal(theirs[name][:, 1:], field(ours, name))


def test_the_ensemble_workflow_has_the_members_of_our_ensemble(
    noisy_run: Path, waves: Path, source: Path, tmp_path: Path
) -> None:
    from earth2studio.data import DataArrayFile
    from earth2studio.io import KVBackend
    from earth2studio.perturbation import Zero
    from earth2studio.run import deterministic, ensemble

    model, writer = Earth2Model(noisy_run), KVBackend()
    data = DataArrayFile(str(source))
    ensemble(e2s_times(), STEPS, 3, model, data, writer, Zero(), batch_size=2, verbose=False)
    require_members(writer.root, our_forecast(noisy_run, waves, tmp_path, members=3))
    singles = [KVBackend(), KVBackend()]
    deterministic(e2s_times(), STEPS, model, data, singles[0], verbose=False)
    deterministic(e2s_times(), STEPS, Earth2Model(noisy_run), data, singles[1], verbose=False)
    for name in VARIABLES:
        # What drew for members draws nothing afterwards.
        np.testing.assert_array_equal(singles[0].root[name], singles[1].root[name])


@pytest.mark.parametrize("level", [2, 1])
def test_a_workflow_goes_on_from_earth2studios_checkpoint(
    noisy_run: Path, source: Path, tmp_path: Path, level: int
) -> None:
    from earth2studio.data import DataArrayFile
    from earth2studio.io import KVBackend
    from earth2studio.perturbation import Zero
    from earth2studio.run import ensemble
    from earth2studio.utils.checkpoint import Checkpoint

    data = DataArrayFile(str(source))

    def go(writer: Any, **more: Any) -> None:
        # Five members in batches of two: it is stopped in the second, and two are to come.
        model = Earth2Model(noisy_run)
        ensemble(e2s_times(), STEPS, 5, model, data, writer, Zero(), 2, verbose=False, **more)

    class Stops(KVBackend):
        writes = 0

        def write(self, *arguments: Any) -> None:
            Stops.writes += 1
            if Stops.writes == STEPS + 4:
                raise InterruptedError
            super().write(*arguments)

    whole, stopped = KVBackend(), Stops()
    go(whole)
    place: dict[str, Any] = {"path": tmp_path / "kept", "level": level}
    with pytest.raises(InterruptedError):
        go(stopped, checkpoint=Checkpoint("test", **place))
    go(stopped, checkpoint=Checkpoint("test", **place).select(-1))
    for name in VARIABLES:
        expected = np.asarray(whole.root[name])
        tolerance = 2e-5 * expected.std()
        np.testing.assert_allclose(stopped.root[name], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("training", "data"),
    [
        ({"dtype": "float64"}, {}),
        ({"dtype": "bfloat16"}, {"forcings": ["toa_solar_radiation", "hour_of_day"]}),
        ({"latent_rollout": 2}, {"input_times": 1, "forcings": ["day_of_year"]}),
    ],
    ids=["float64", "forcings", "latent rollout"],
)
def test_steps_are_those_of_our_forecast(
    waves: Path, source: Path, tmp_path: Path, training: dict[str, Any], data: dict[str, Any]
) -> None:
    run = run_of(waves, tmp_path, training=training, data=data)
    advance = training.get("latent_rollout", 1)
    model = Earth2Model(run)
    x, coords = given(model, source)
    made = [state.numpy() for state, _ in take(model, x, coords, STEPS + 1)][1:]
    ours = our_forecast(run, waves, tmp_path, steps=STEPS * advance)
    for place, name in enumerate(VARIABLES):
        expected = np.moveaxis(field(ours, name), 1, 0)
        np.testing.assert_array_equal([state[:, 0, place] for state in made], expected)


def test_a_call_makes_what_the_iterator_makes(run: Path, source: Path) -> None:
    model = Earth2Model(run)
    x, coords = given(model, source)
    (newest, at), *steps = take(model, x, coords, STEPS + 1)
    torch.testing.assert_close(newest, x[:, -1:], rtol=0, atol=0)
    assert at["lead_time"] == [np.timedelta64(0)]
    for step, (expected, there) in enumerate(steps, start=1):
        made, coords_made = model(x, coords)
        assert list(coords_made) == ["time", "lead_time", "variable", "lat", "lon"]
        assert coords_made["lead_time"] == there["lead_time"] == [np.timedelta64(6 * step, "h")]
        assert made.shape == tuple(len(values) for values in coords_made.values())
        # Between calls states are rounded to float32 in SI units.
        torch.testing.assert_close(made, expected, rtol=0, atol=2e-4)
        assert (step == 1) == torch.equal(made, expected)
        x = torch.cat([x[:, 1:], made], dim=1)
        leads = np.concatenate([coords["lead_time"][1:], coords_made["lead_time"]])
        coords = coords_made.copy()
        coords["lead_time"] = leads


def test_hooks_change_what_a_step_is_given_and_what_it_made(run: Path, source: Path) -> None:
    model = Earth2Model(run)
    x, coords = given(model, source)
    expected, window = [], x
    at = coords
    for _ in range(STEPS):
        made, made_at = model(window + 0.5, at)
        expected.append(made * 1.01)
        window = torch.cat([window[:, 1:] + 0.5, expected[-1]], dim=1)
        at = made_at | {"lead_time": np.append(at["lead_time"][1:], made_at["lead_time"])}
    model.front_hook = lambda x, coords: (x + 0.5, coords)
    model.rear_hook = lambda x, coords: (x * 1.01, coords)
    hooked = [state for state, _ in take(model, x, coords, STEPS + 1)][1:]
    for one, other in zip(hooked, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_other_dimensions_may_stand_in_any_order_before_the_state(
    noisy_run: Path, source: Path
) -> None:
    model = Earth2Model(noisy_run)
    x, coords = given(model, source)
    many = x.expand(2, *x.shape).contiguous()
    ensemble_first = type(coords)(ensemble=np.array([4, 1])) | coords
    made, _ = model(many, ensemble_first)
    time_first = type(coords)(time=coords["time"], ensemble=np.array([4, 1])) | coords
    other, other_coords = model(many.transpose(0, 1).contiguous(), time_first)
    assert list(other_coords)[:2] == ["time", "ensemble"]
    torch.testing.assert_close(other.transpose(0, 1), made, rtol=0, atol=1e-3)
    alone, _ = model(many[:1], ensemble_first | {"ensemble": np.array([1])})
    torch.testing.assert_close(alone[0], made[1], rtol=0, atol=1e-3)
    assert (made[0] - made[1]).abs().max() > 0.01


def test_what_is_only_predicted_is_missing_at_first(tmp_path: Path, source: Path) -> None:
    name = "total_precipitation_6hr"
    wet = write_waves(tmp_path / "wet.zarr", levels=(500, 850), diagnostic=(name,))
    run = run_of(wet, tmp_path, data={"diagnostic": [name]})
    model = Earth2Model(run)
    assert list(model.input_coords()["variable"]) == VARIABLES
    x, coords = given(model, source)
    (first, at), (made, at_made) = take(model, x, coords, 2)
    assert list(at["variable"]) == list(at_made["variable"]) == [*VARIABLES, "tp06"]
    assert first[:, :, -1].isnan().all() and not first[:, :, :-1].isnan().any()
    ours = our_forecast(run, wet, tmp_path, steps=1)
    np.testing.assert_array_equal(made[:, :, -1], field(ours, "tp06"))


def other_grid(x: torch.Tensor, coords: Coordinates) -> None:
    coords["lat"] = coords["lat"] + 1.0


def other_variable(x: torch.Tensor, coords: Coordinates) -> None:
    coords["variable"] = np.array(["t500", "t700", "t2m"])


def other_order(x: torch.Tensor, coords: Coordinates) -> None:
    coords["variable"] = coords["variable"][::-1]


def other_leads(x: torch.Tensor, coords: Coordinates) -> None:
    coords["lead_time"] = coords["lead_time"] * 2


def no_time(x: torch.Tensor, coords: Coordinates) -> None:
    coords["batch"] = coords.pop("time")
    coords.move_to_end("batch", last=False)


def gap(x: torch.Tensor, coords: Coordinates) -> None:
    x[0, 1, 2, 3, 4] = float("nan")


def celsius(x: torch.Tensor, coords: Coordinates) -> None:
    x -= 273.15


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (other_grid, r"^lat is 79\.75, .* \(8\), and the network was trained on 78\.75, "),
        (other_variable, "^variable is t500, t700, t2m, .* missing are t850: map"),
        (other_order, "^variable is t2m, t850, t500, and .* t500, t850, t2m, in this order: map"),
        (other_leads, "^lead_time is .*: the model takes 2, 6 h apart$"),
        (no_time, "^the dimensions are batch, lead_time, .*: the model takes time, then lead_time"),
        (gap, r"^t2m of the forecasts from 2001-01-05T06:00:00 on .*1 of 128 values are NaN"),
        (celsius, r"^t500 of .* are they in K\?\): give states in SI units without gaps$"),
    ],
)
def test_what_the_network_does_not_take_is_refused(
    run: Path,
    source: Path,
    spoil: Callable[[torch.Tensor, Coordinates], None],
    sentence: str,
) -> None:
    model = Earth2Model(run)
    x, coords = given(model, source)
    spoil(x, coords)
    with pytest.raises(UserError, match=sentence):
        model(x, coords)
    with pytest.raises(UserError, match=sentence):
        take(model, x, coords, 2)


def test_a_gap_in_a_member_and_an_unstable_forecast_are_refused(
    noisy_run: Path, run: Path, source: Path
) -> None:
    model = Earth2Model(noisy_run)
    x, coords = given(model, source)
    x[0, 1, 2, 3, 4] = float("inf")
    members = type(coords)(ensemble=np.array([0])) | coords
    with pytest.raises(UserError, match=r"^t2m of .* \(1 values are NaN or infinite\)"):
        model(x[None], members)
    unstable = Earth2Model(run)
    with torch.no_grad():
        unstable.get_parameter("stepper.network.encoder.bias").fill_(float("inf"))
    with pytest.raises(UserError, match=r"^the forecast from 2001-01-05T06:00:00 is NaN or .* 6 h"):
        unstable(*given(unstable, source))


def test_the_programs_of_the_document_run_as_shown(
    run: Path, waves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = MarkdownIt().parse((ROOT / "docs/earth2studio.md").read_text(encoding="utf-8"))
    shown = [token.content for token in tokens if token.type == "fence" and token.info == "python"]
    forecasts, source, on_ranks = shown
    monkeypatch.chdir(tmp_path)
    export_run(run, tmp_path / "model.safetensors")
    (tmp_path / "planet.zarr").symlink_to(waves)
    for program in (source, forecasts, on_ranks):
        exec(compile(program, "shown", "exec"), {"__name__": "shown"})
    one, cut = (xr.open_zarr(f"{name}.zarr", consolidated=False) for name in ("forecast", "cut"))
    assert one.sizes == {"time": 1, "lead_time": 5, "lat": 8, "lon": 16}
    xr.testing.assert_equal(one, cut)
    assert xr.open_zarr("ensemble.zarr", consolidated=False).sizes["ensemble"] == 3


@pytest.mark.parametrize("found", ["0.18.2", "0.20.0", "1.19.0", None])
def test_another_version_of_earth2studio_is_refused(found: str | None, tmp_path: Path) -> None:
    if found is None:
        # As where no distribution of that name is on the path.
        look_up = "def version(name): raise m.PackageNotFoundError(name)"
        told = "is not installed, and this needs its version 0.19"
    else:
        look_up = f"def version(name): return {found!r}"
        told = f"{found} is installed, and this was made for 0.19"
    program = (
        f"import torch\nfrom importlib import metadata as m\n{look_up}\nm.version = version\n"
        "import weathermixer.earth2studio"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stderr.strip().splitlines()[-1] == (
        f"weathermixer.errors.UserError: Earth2Studio {told}: "
        "pip install 'weathermixer[earth2studio]' has it"
    )


# The first of the ranks takes half a minute to import the workflows.
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "layout",
    [
        Layout(domain=2, tensor=1),
        Layout(domain=1, tensor=2),
        Layout(domain=3, tensor=1),
        Layout(domain=2, tensor=2),
    ],
    ids=mesh_name,
)
def test_ranks_make_our_forecast_of_a_network_that_is_cut(
    pool: Pool, noisy_run: Path, waves: Path, source: Path, tmp_path: Path, layout: Layout
) -> None:
    made, *others = pool.run(lead_workflow, layout, noisy_run, source, TIMES, STEPS)
    assert others == [None] * len(others)
    ours = our_forecast(noisy_run, waves, tmp_path)
    for name in VARIABLES:
        np.testing.assert_array_equal(made[name][:, :1], initial(source, name))
        expected = field(ours, name)
        tolerance = 2e-5 * expected.std()
        np.testing.assert_allclose(made[name][:, 1:], expected, rtol=0, atol=tolerance)
    made, *_ = pool.run(lead_workflow, layout, noisy_run, source, TIMES, STEPS, 3)
    require_members(made, our_forecast(noisy_run, waves, tmp_path, members=3))


@pytest.mark.parametrize(
    "layout", [Layout(domain=2), *exhaustive(Layout(tensor=3), Layout(domain=3))], ids=mesh_name
)
def test_ranks_step_a_network_that_is_cut_also_by_turns(
    pool: Pool, run: Path, waves: Path, source: Path, tmp_path: Path, layout: Layout
) -> None:
    x, _ = given(Earth2Model(run), source)
    made, *others = pool.run(alternate, layout, run, x.numpy(), TIMES, STEPS)
    assert others == [None] * len(others)
    ours = our_forecast(run, waves, tmp_path)
    for place, name in enumerate(VARIABLES):
        expected = field(ours, name)[:, -1]
        got = np.stack([state[0, 0, place] for state in made])
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * expected.std())


@pytest.mark.exhaustive
def test_ranks_are_refused_together(pool: Pool, run: Path, source: Path, tmp_path: Path) -> None:
    broken = xr.open_dataarray(source).load()
    broken[20:22, :, :, 15] = np.nan
    broken.to_netcdf(tmp_path / "broken.nc")
    times = [str(time)[:13] for time in broken["time"].values[[21]]]
    said, other = pool.run(
        lead_workflow, Layout(domain=2), run, tmp_path / "broken.nc", times, STEPS
    )
    assert said.endswith("give states in SI units without gaps")
    assert other is None

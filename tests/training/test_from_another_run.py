"""A run that begins with another's weights: other fields, other times, another grid, any mesh."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from oracles.layers import Held
from support.forecast_runs import write_run
from support.meshed import mesh_settings, stored
from support.networks import held_parameters, join_each
from support.ranks import Pool
from support.waves import wave_config, write_waves
from weathermixer.config import Config
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.runs.run import Run
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.notices import Notices
from weathermixer.training.trainer import train

RAIN = "total_precipitation_6hr"
POINTS = 16  # of a patch
WIDER = {
    "levels": [300, 500, 850],
    "diagnostic": [RAIN],
    "forcings": ["hour_of_day"],
    "input_times": 2,
}


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_waves(
        tmp_path_factory.mktemp("waves") / "w.zarr",
        levels=(300, 500, 850),
        pulse=3.0,
        diagnostic=(RAIN,),
    )


def source_run(folder: Path, waves: Path, *, dtype: str = "float64", **data: Any) -> Path:
    """A run on two levels, with weights of which each matters."""
    data = {"levels": [500, 850], **data}
    return write_run(folder / "source", waves, scale=0.1, training={"dtype": dtype}, **data)


def wider_config(waves: Path, layout: Layout | None = None, **model: Any) -> Config:
    return wave_config(
        waves,
        data=WIDER,
        model=model,
        training={"dtype": "float64", "steps": 3, "warmup_steps": 1},
        parallel=mesh_settings(layout),
    )


def begun(mesh: Mesh, config: Config, out: Path, source: Path) -> dict[str, Held]:
    """Work for a pool: what a rank holds of the weights with which a run begins."""
    with TrainingLoop.begin(config, out, source=source, notices=Notices(lambda _: None)) as loop:
        return held_parameters(loop.state.model)


def expected_encoder(before: Tensor, after_shape: tuple[int, ...]) -> Tensor:
    """Columns where their fields are now; by hand, from the order of the fields."""
    old = ["t500", "t850", "t2m", "lsm"]
    now = ["t300", "t500", "t850", "t2m", "t300-", "t500-", "t850-", "t2m-", "lsm", "sin", "cos"]
    after = torch.zeros(after_shape, dtype=torch.float64)
    for place, name in enumerate(now):
        if name in old:
            there = old.index(name)
            columns = before[:, there * POINTS : (there + 1) * POINTS]
            after[:, place * POINTS : (place + 1) * POINTS] = columns
    return after


@pytest.mark.parametrize(
    "layout",
    [
        Layout(),
        Layout(domain=3),
        Layout(domain=2, tensor=2),
        *(
            pytest.param(layout, marks=pytest.mark.exhaustive)
            for layout in (Layout(tensor=3), Layout(data=2, tensor=2), Layout(tensor=4))
        ),
    ],
    ids=str,
)
def test_fields_that_both_know_are_taken_over_by_name_on_any_mesh(
    pool: Pool, layout: Layout, waves: Path, tmp_path: Path
) -> None:
    source = source_run(tmp_path, waves)
    config = wider_config(waves, layout)
    arguments = (config, tmp_path / "run", source)
    ranks = [begun(Mesh.describe(), *arguments)] if layout.world_size == 1 else None
    found = join_each(ranks or pool.run(begun, layout, *arguments))
    before = {
        name.removeprefix("model."): value
        for name, value in stored(Run.open(source).require_checkpoint()).items()
    }
    for name, value in before.items():
        if name.startswith("blocks.") or name in ("encoder.bias", "decoder.norm.weight"):
            assert torch.equal(found[name], value), name
    encoder = found["encoder.weight"]
    assert torch.equal(encoder, expected_encoder(before["encoder.weight"], tuple(encoder.shape)))
    for name in ("decoder.linear.weight", "decoder.linear.bias"):
        # temperature at 300 hPa comes before the others, precipitation after them.
        rows = found[name]
        assert rows.shape[0] == 5 * POINTS
        assert torch.equal(rows[POINTS : 4 * POINTS], before[name])
    assert not found["decoder.linear.weight"][:POINTS].any(), "as an untrained network begins"


def test_the_network_begins_with_the_forecast_of_the_other_and_with_its_statistics(
    waves: Path, tmp_path: Path
) -> None:
    """In what both know: what is new has no weight yet."""
    source = Run.open(source_run(tmp_path, waves, train="2001-01-01/2001-01-05"))
    config = wider_config(waves)
    said: list[str] = []
    out = tmp_path / "run"
    with TrainingLoop.begin(config, out, source=source.path, notices=Notices(said.append)) as loop:
        model, ours, theirs = loop.state.model, loop.run.normalisation, source.normalisation
        for array in ("mean", "std", "step_std"):
            np.testing.assert_array_equal(getattr(ours, array)[1:4], getattr(theirs, array))
    state, earlier = torch.randn(2, 1, 4, 8, 16, dtype=torch.float64).unbind(0)
    static = torch.from_numpy(theirs.static).double()
    forcings = torch.randn(1, 2, 8, 16, dtype=torch.float64)
    with torch.no_grad():
        later = model.eval()(state, earlier, static, forcings)
        other = source.load_model()(state[:, 1:], static)
    assert float((later[:, 1:4] - other).abs().max()) <= 1e-12 * float(other.abs().max())
    told = " ".join(said)
    assert "tensors are taken over whole from" in told
    assert "in part, field by field: encoder.weight, decoder.linear.weight" in told
    assert "temperature_300, temperature_300 1 step before" in told
    origin = json.loads((out / "origin.json").read_text(encoding="utf-8"))
    assert origin["source"] == str(source.require_checkpoint())


def test_on_a_finer_grid_with_as_many_tokens_a_coarse_state_has_the_coarse_forecast(
    waves: Path, tmp_path: Path
) -> None:
    source = Run.open(source_run(tmp_path, waves))
    fine = write_waves(tmp_path / "fine.zarr", levels=(500, 850), longitudes=32)
    config = wave_config(
        fine,
        data={"levels": [500, 850]},
        model={"patch": [4, 8]},
        training={"dtype": "float64"},
    )
    with TrainingLoop.begin(config, tmp_path / "run", source=source.path) as loop:
        model = loop.state.model
        scale = loop.run.normalisation.increment_scale
    np.testing.assert_array_equal(scale, source.normalisation.increment_scale)
    state = torch.randn(1, 3, 8, 16, dtype=torch.float64)
    static = torch.randn(1, 8, 16, dtype=torch.float64)
    with torch.no_grad():
        later = model.eval()(state.repeat_interleave(2, -1), static.repeat_interleave(2, -1))
        other = source.load_model()(state, static).repeat_interleave(2, -1)
    assert float((later - other).abs().max()) <= 1e-12 * float(other.abs().max())


def ring_config(waves: Path, overlap: int, **data: Any) -> Config:
    return wave_config(
        waves,
        data={"levels": [500, 850], **data},
        model={"overlap": overlap},
        training={"dtype": "float64"},
    )


@pytest.mark.parametrize("before", [0, 1])
def test_a_ring_that_is_new_has_no_weight_yet(waves: Path, tmp_path: Path, before: int) -> None:
    model = {"overlap": before}
    source = Run.open(write_run(tmp_path / "s", waves, scale=0.1, model=model, levels=[500, 850]))
    said: list[str] = []
    notices = Notices(said.append)
    config = ring_config(waves, before + 1)
    with TrainingLoop.begin(config, tmp_path / "r", source=source.path, notices=notices) as loop:
        found = dict(loop.state.model.named_parameters())
    theirs = dict(source.load_model().named_parameters())
    assert found.pop("ring.weight").shape == (16, 3 * ((4 + 2 * before + 2) ** 2 - 16))
    for name, value in found.items():
        assert torch.equal(value, theirs[name].to(value)), name
    assert not loop.state.model.get_parameter("ring.weight").any()
    assert "new, with weights of zero: ring.weight" in said


def test_noise_is_taken_over(waves: Path, tmp_path: Path) -> None:
    model = {"noise": 3}
    source = Run.open(write_run(tmp_path / "s", waves, scale=0.1, model=model, levels=[500, 850]))
    config = wave_config(waves, model=model, data={"levels": [500, 850]})
    with TrainingLoop.begin(config, tmp_path / "r", source=source.path) as loop:
        found = dict(loop.state.model.named_parameters())
    theirs = dict(source.load_model().named_parameters())
    name = "blocks.0.0.modulation.scale"
    assert theirs[name].any()
    assert torch.equal(found[name], theirs[name].to(found[name]))


def test_noise_of_another_meaning_begins_anew(waves: Path, tmp_path: Path) -> None:
    levels = [500, 850]
    source = write_run(tmp_path / "s", waves, scale=0.1, model={"noise": 3}, levels=levels)
    # As many rows, of which tokens share another number.
    config = wave_config(waves, model={"noise": 1, "local_noise": 2}, data={"levels": levels})
    with TrainingLoop.begin(config, tmp_path / "r", source=source) as loop:
        found = dict(loop.state.model.named_parameters())
    assert found["blocks.0.0.modulation.scale"].shape[0] == 3
    assert not any(value.any() for name, value in found.items() if "modulation" in name)
    theirs = Run.open(source).load_model().get_parameter("blocks.0.0.expand.weight")
    assert torch.equal(found["blocks.0.0.expand.weight"], theirs.to(found["encoder.weight"]))


def test_a_ring_is_taken_over_field_by_field(waves: Path, tmp_path: Path) -> None:
    model = {"overlap": 1}
    source = Run.open(write_run(tmp_path / "s", waves, scale=0.1, model=model, levels=[500, 850]))
    config = ring_config(waves, 1, levels=[300, 500, 850])
    with TrainingLoop.begin(config, tmp_path / "r", source=source.path) as loop:
        found = loop.state.model.get_parameter("ring.weight").detach()
    before = source.load_model().get_parameter("ring.weight").detach()
    # Of 20 points around a patch, temperature at 300 hPa has the first.
    assert torch.equal(found[:, 20:], before.to(found))
    assert not found[:, :20].any()


@pytest.mark.parametrize("before", [0, 1, 2])
def test_kernels_are_taken_over_by_channel_or_smooth_nothing(
    waves: Path, tmp_path: Path, before: int
) -> None:
    model = {"smoothing": before}
    source = Run.open(write_run(tmp_path / "s", waves, scale=0.1, model=model, levels=[500, 850]))
    said: list[str] = []
    config = wave_config(
        waves,
        data={"levels": [300, 500, 850]},
        model={"smoothing": 1},
        training={"dtype": "float64"},
    )
    notices = Notices(said.append)
    with TrainingLoop.begin(config, tmp_path / "r", source=source.path, notices=notices) as loop:
        found, *of_state = (
            loop.state.model.get_parameter(f"smoothing.{name}").detach()
            for name in ("kernel", "state_kernel", "diffusion", "bias")
        )
    line = torch.tensor([0.1, 0.8, 0.1], dtype=torch.float64)
    nothing = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    is_new = "new, with weights that smooth nothing: smoothing.kernel" in said
    assert is_new == (before != 1)
    if is_new:
        assert torch.equal(found, torch.outer(nothing, nothing).expand_as(found))
        assert not any(each.any() for each in of_state)
        return
    theirs = source.load_model()
    assert torch.equal(found[1:], theirs.get_parameter("smoothing.kernel").to(found))
    torch.testing.assert_close(found[0, 0], torch.outer(line, line))  # temperature at 300 hPa
    for name, each in zip(("state_kernel", "diffusion", "bias"), of_state, strict=True):
        there = theirs.get_parameter(f"smoothing.{name}").to(each)
        assert there.any() and torch.equal(each[1:], there)
        assert not each[0].any()


def test_amplitudes_of_noise_are_taken_over_by_channel(waves: Path, tmp_path: Path) -> None:
    model = {"local_noise": 1}
    source = Run.open(write_run(tmp_path / "s", waves, scale=0.1, model=model, levels=[500, 850]))
    config = wave_config(waves, model=model, data={"levels": [300, 500, 850]})
    with TrainingLoop.begin(config, tmp_path / "r", source=source.path) as loop:
        found = loop.state.model.get_parameter("point_noise.amplitude").detach()
    before = source.load_model().get_parameter("point_noise.amplitude").detach()
    assert torch.equal(found[1:], before.to(found))
    # Temperature at 300 hPa begins with as little at all latitudes, and with something.
    assert 0.0 < found[0].min() == found[0].max() < 0.1


@pytest.mark.exhaustive
def test_a_run_goes_on_with_the_source_that_it_was_begun_from_and_no_other(
    waves: Path, tmp_path: Path
) -> None:
    source, out = source_run(tmp_path, waves, dtype="float32"), tmp_path / "run"
    quiet = Console(file=io.StringIO())
    train(wider_config(waves), out, source=source, console=quiet)
    train(wider_config(waves), out, source=source, resume=True, console=quiet)
    with pytest.raises(UserError, match=r"was begun from .*source, not from .*other"):
        train(wider_config(waves), out, source=tmp_path / "other", resume=True, console=quiet)


def test_a_network_with_nothing_in_common_is_refused(waves: Path, tmp_path: Path) -> None:
    config = wider_config(waves, channels=24, patch=[4, 2])
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"variables": ("2m_temperature",)})}
    )
    source = source_run(tmp_path, waves, variables=["temperature"])
    with pytest.raises(UserError, match="has nothing that this network could take over"):
        train(config, tmp_path / "run", source=source, console=Console(file=io.StringIO()))

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from support.waves import CHANNELS, wave_config, write_waves
from weathermixer.config import Config
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError
from weathermixer.model.architecture import architecture_of
from weathermixer.runs import checkpoint, saving
from weathermixer.runs.building import build_model
from weathermixer.runs.run import Run, model_tensors


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return wave_config(write_waves(tmp_path_factory.mktemp("store") / "s.zarr", times=10))


@pytest.fixture
def run(config: Config, tmp_path: Path) -> Run:
    store = Store.open(config.data.store)
    normalisation = Normalisation.from_store(
        store, CHANNELS, ("land_sea_mask",), (store.times[0], store.times[-1])
    )
    return Run.create(tmp_path / "run", config, normalisation, Path.touch)


def _save(run: Run, step: int, value: float) -> None:
    architecture = architecture_of(run.config.data, run.config.model, run.normalisation.grid)
    model = build_model(architecture, run.config.training, run.normalisation)
    for parameter in model.parameters():
        parameter.data.fill_(value)
    path = checkpoint.checkpoint_path(run.checkpoints, step)
    saving.save(path, {**model_tensors(model), "progress.step": torch.tensor(step)})


def test_a_run_is_opened_as_it_was_created(run: Run, config: Config) -> None:
    opened = Run.open(str(run.path))
    assert opened.config == config
    assert opened.normalisation.channels == CHANNELS
    assert opened.newest_checkpoint() is None
    assert not list(run.path.glob("*.partial"))


def test_the_newest_whole_checkpoint_is_loaded(run: Run) -> None:
    _save(run, 5, 1.0)
    _save(run, 20, 2.0)
    partial = run.checkpoints / "step-00000030.partial"
    partial.mkdir()
    assert run.newest_checkpoint() == run.checkpoints / "step-00000020"
    model = Run.open(run.path).load_model()
    assert not model.training
    assert all(torch.equal(p, torch.full_like(p, 2.0)) for p in model.parameters())
    assert partial.exists()  # reading a run changes nothing in it


def test_overrides_change_the_arithmetic_of_a_loaded_model(run: Run) -> None:
    _save(run, 5, 0.01)
    double = run.load_model(run.config_with(["training.dtype=float64"]))
    half = run.load_model(run.config_with(["training.dtype=bfloat16"]))
    assert next(double.parameters()).dtype == torch.float64
    assert next(half.parameters()).dtype == torch.float32
    assert half.arithmetic == torch.bfloat16
    state, static = torch.randn(1, 2, 8, 16), torch.randn(1, 8, 16)
    wide = double(state.double(), static.double())
    narrow = half(state, static)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), wide, rtol=0.02, atol=0.02)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        Run.open(tmp_path)
    with pytest.raises(UserError, match="is not a run"):
        Run.open(tmp_path / "nowhere")


def test_a_run_without_checkpoint_has_no_model_yet(run: Run) -> None:
    with pytest.raises(UserError, match="has no checkpoint yet"):
        run.load_model()


def test_a_checkpoint_of_another_network_is_named_by_its_first_difference(run: Run) -> None:
    _save(run, 5, 1.0)
    with pytest.raises(UserError, match=r"model\.encoder\.weight has the shape \(16, 48\) there"):
        run.load_model(run.config_with(["model.channels=24"]))


def test_a_lost_normalisation_is_named(run: Run) -> None:
    (run.path / "normalisation.npz").unlink()
    with pytest.raises(UserError, match=r"normalisation\.npz cannot be read"):
        _ = Run.open(run.path).normalisation

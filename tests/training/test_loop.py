"""The training loop as others drive it: step by step, with batches of their own, and on."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from support.waves import wave_config
from weathermixer import job
from weathermixer.config import Config
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.model import cuts
from weathermixer.planning.choosing import MeshChoice
from weathermixer.runs.run import Run
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.notices import Notices
from weathermixer.training.result import TrainResult
from weathermixer.training.trainer import train


def config_of(waves: Path, **sections: Any) -> Config:
    return wave_config(
        waves,
        model={"dropout": 0.1},
        training={"rollout": {0: 1, 5: 2}},
        checkpoint={"every": 100},
        **sections,
    )


@pytest.fixture(scope="module")
def trained(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    out = tmp_path_factory.mktemp("trained") / "run"
    return train(config_of(waves), out, console=Console(quiet=True))


def files(checkpoint: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in checkpoint.iterdir()}


def test_a_training_takes_the_threads_and_recomputation_that_were_chosen(
    waves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    choice = MeshChoice(Layout(), 1.0, "so", threads=before + 1, recompute="blocks")
    monkeypatch.setattr(job, "choose_mesh", lambda *_, **__: choice)
    try:
        with TrainingLoop.begin(config_of(waves), tmp_path / "run") as loop:
            assert torch.get_num_threads() == before + 1
            assert loop.state.model.recompute
            assert loop.job.config.training.recompute == "blocks"
            assert loop.step().number == 1
    finally:
        torch.set_num_threads(before)
    # What was chosen is no setting of the run: it is chosen again when it goes on.
    assert Run.open(tmp_path / "run").config.training.recompute is None


def test_a_loop_by_hand_is_the_training_of_the_command(
    waves: Path, trained: TrainResult, tmp_path: Path
) -> None:
    with TrainingLoop.begin(config_of(waves), tmp_path / "run") as loop:
        losses = []
        for step in loop:
            losses.append(step.loss)
            if step.number == 6:
                assert loop.validate() == trained.validation[6]
        checkpoint = loop.save()
    assert losses == trained.loss
    assert files(checkpoint) == files(trained.checkpoint)
    result = loop.result()
    assert (result.grad_norm, result.samples_seen) == (trained.grad_norm, 24)
    assert result.bytes_read_per_step == trained.bytes_read_per_step


def test_a_training_finds_the_memory_of_those_before_it(waves: Path, tmp_path: Path) -> None:
    gc.disable()
    try:
        with TrainingLoop.begin(config_of(waves), tmp_path / "first") as loop:
            loop.step()
            weight = weakref.ref(loop.state.model.get_parameter("encoder.weight"))
        del loop
        with TrainingLoop.begin(config_of(waves), tmp_path / "second"):
            assert weight() is None
    finally:
        gc.enable()


def test_a_loop_goes_on_where_another_saved(
    waves: Path, trained: TrainResult, tmp_path: Path
) -> None:
    said: list[str] = []
    with TrainingLoop.begin(config_of(waves), tmp_path / "run") as loop:
        for _ in range(7):
            loop.step()
        saved = loop.save()
        assert loop.save() == saved  # there is nothing new to write
    with TrainingLoop.begin(
        config_of(waves), tmp_path / "run", resume=True, notices=Notices(said.append)
    ) as loop:
        assert [step.loss for step in loop] == trained.loss[7:]
        assert files(loop.save()) == files(trained.checkpoint)
    assert said == [f"continuing from {saved}"]


def test_a_step_can_be_given_its_batch(waves: Path, trained: TrainResult, tmp_path: Path) -> None:
    with TrainingLoop.begin(config_of(waves), tmp_path / "run") as loop:
        batch = loop.next_batch()
        first, again = loop.step(batch), loop.step(batch)
    assert first.loss == trained.loss[0]
    assert again.loss != trained.loss[1]
    assert (again.number, loop.state.samples) == (2, 4)


def test_a_batch_with_a_nan_leaves_the_weights_alone(waves: Path, tmp_path: Path) -> None:
    with TrainingLoop.begin(config_of(waves), tmp_path / "run") as loop:
        loop.step()
        before = {name: value.clone() for name, value in loop.state.model.state_dict().items()}
        batch = loop.next_batch()
        batch.states[0, 1, 0, 2, 3] = torch.nan
        with pytest.raises(UserError, match="first in temperature_850 as given for 6 h after"):
            loop.step(batch)
    after = loop.state.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert loop.state.step == 1


def test_a_gradient_that_overflows_leaves_weights_and_averages_alone(
    waves: Path, tmp_path: Path
) -> None:
    with TrainingLoop.begin(config_of(waves), tmp_path / "run") as loop:
        loop.step()
        state = loop.state
        before = copy.deepcopy((state.model.state_dict(), state.optimizer.state_dict()["state"]))
        weight = state.model.get_parameter("blocks.1.0.contract.weight")
        hook = weight.register_hook(lambda gradient: gradient.clone().fill_(torch.inf))
        with pytest.raises(UserError, match=r"first in that of blocks\.1\.0\.contract\.weight"):
            loop.step()
        hook.remove()
        after = (state.model.state_dict(), state.optimizer.state_dict()["state"])
        torch.testing.assert_close(after, before, rtol=0.0, atol=0.0)
        assert loop.state.step == 1


def test_tf32_is_float32_on_a_processor_and_a_notice_says_so(waves: Path, tmp_path: Path) -> None:
    losses: dict[str, list[float]] = {}
    said: dict[str, list[str]] = {}
    for dtype in ("float32", "tf32"):
        words = said[dtype] = []
        config = wave_config(waves, training={"dtype": dtype, "steps": 3})
        notices = Notices(words.append)
        with TrainingLoop.begin(config, tmp_path / dtype, notices=notices) as loop:
            losses[dtype] = [step.loss for step in loop]
            loop.save()
            assert loop.result().dtype == dtype
    assert losses["tf32"] == losses["float32"]
    assert len(said["tf32"]) == 1 and "tf32" in said["tf32"][0]
    assert not said["float32"]


def test_products_are_of_the_arithmetic_in_both_passes_and_validation(
    waves: Path, tmp_path: Path
) -> None:
    seen = []

    def note(*_: Any) -> None:
        seen.append(torch.backends.cuda.matmul.allow_tf32)

    config = wave_config(waves, training={"dtype": "tf32", "steps": 3})
    with TrainingLoop.begin(config, tmp_path / "run") as loop:
        last = loop.state.model.get_submodule("decoder.linear")
        last.register_forward_hook(note)
        last.get_parameter("weight").register_hook(note)
        loop.step()
        loop.validate()
    assert len(seen) > 2 and all(seen)
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_loop_without_validation_samples_refuses_to_validate(waves: Path, tmp_path: Path) -> None:
    with TrainingLoop.begin(config_of(waves), tmp_path / "run") as loop:
        loop.validation_samples = loop.validation_samples[:0]
        with pytest.raises(UserError, match="holds no sample that can be read"):
            loop.validate()


def test_a_run_is_written_by_one_training_at_a_time(
    waves: Path, trained: TrainResult, tmp_path: Path
) -> None:
    with TrainingLoop.begin(config_of(waves), tmp_path / "run") as loop:
        for _ in range(7):
            loop.step()
        for resume in (False, True):
            with pytest.raises(UserError, match="run is in use by another training, process "):
                TrainingLoop.begin(config_of(waves), tmp_path / "run", resume=resume)
        loop.save()
        assert [step.loss for step in loop] == trained.loss[7:]
    with TrainingLoop.begin(config_of(waves), tmp_path / "run", resume=True) as loop:
        assert loop.state.step == 7


def test_initial_weights_are_drawn_only_where_no_checkpoint_follows(
    waves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TrainingLoop.begin(config_of(waves), tmp_path / "run") as loop:
        loop.step()
        loop.save()
        expected = loop.state.model.state_dict()

    def refuse(*_: Any) -> None:
        pytest.fail("drawn")

    monkeypatch.setattr(cuts, "initialise", refuse)
    with TrainingLoop.begin(config_of(waves), tmp_path / "run", resume=True) as loop:
        resumed = loop.state.model.state_dict()
    loaded = Run.open(tmp_path / "run").load_model().state_dict()
    for name, value in expected.items():
        assert torch.equal(resumed[name], value)
        assert torch.equal(loaded[name], value)

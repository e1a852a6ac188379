"""Checkpoints that are written while a training goes on."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from support.disk import contents, full_disk
from support.ranks import Pool
from support.waves import wave_config
from weathermixer.config import Config
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.runs.best import read_best
from weathermixer.runs.checkpoint import checkpoints
from weathermixer.runs.run import Run
from weathermixer.training import loop as looping
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.notices import Notices
from weathermixer.training.trainer import train
from weathermixer.training.validation import Validation


def _config(waves: Path, layout: Layout | None = None, **checkpoint: Any) -> Config:
    layout = layout or Layout()
    sizes = {"data": layout.data, "domain": layout.domain, "tensor": layout.tensor}
    return wave_config(
        waves,
        model={"dropout": 0.1},
        parallel={**sizes, "shard_optimizer": layout.data > 1},
        training={"steps": 1000},
        checkpoint={"keep": 2, **checkpoint},
    )


@contextmanager
def _blocked_disk() -> Iterator[threading.Event]:
    """While entered, what a thread writes does not get to the disk, unless the event is set."""
    plain, is_free, loop = os.fsync, threading.Event(), threading.current_thread()

    def wait(descriptor: int) -> None:
        assert threading.current_thread() is not loop, "the loop waits for the disk"
        assert is_free.wait(60)
        plain(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", wait)
        try:
            yield is_free
        finally:
            is_free.set()


def _save_both_ways(mesh: Mesh, waves: Path, out: Path) -> tuple[list[Any], ...]:
    """Work for a pool: save step 2 at once, and while the disk is stuck for three steps more."""
    config = _config(waves, mesh.layout)
    counts = []
    with TrainingLoop.begin(config, out / "at once") as loop:
        for _ in range(2):
            loop.step()
        loop.save()
        before = loop._mesh.counter.copy()
        expected = [loop.step().loss for _ in range(4)]
        counts.append(loop._mesh.counter.since(before))
        loop.save()
    with TrainingLoop.begin(config, out / "meanwhile") as loop:
        for _ in range(2):
            loop.step()
        with _blocked_disk():
            loop.begin_save()
            before = loop._mesh.counter.copy()
            losses = [loop.step().loss for _ in range(4)]
            counts.append(loop._mesh.counter.since(before))
            assert not checkpoints(loop.run.checkpoints)
        loop.finish_saving()
        first = loop.checkpoint
        loop.begin_save()
        while loop.checkpoint == first:
            loop.step()  # which carries on what was begun, and is the same on all ranks
    return losses, expected, counts


@pytest.mark.parametrize("layout", [Layout(data=2), Layout(data=2, domain=2)])
def test_steps_go_on_while_a_checkpoint_is_written_as_it_would_be_at_once(
    waves: Path, tmp_path: Path, pool: Pool, layout: Layout
) -> None:
    for losses, expected, (at_once, meanwhile) in pool.run(
        _save_both_ways, layout, waves, tmp_path
    ):
        assert losses == expected
        assert meanwhile == at_once  # calls, messages, bytes: saving exchanges nothing
    for step in ("step-00000002", "step-00000006"):
        folders = [tmp_path / kind / "checkpoints" / step for kind in ("at once", "meanwhile")]
        assert contents(folders[0]) == contents(folders[1])


def _fill_the_disk_of_one(mesh: Mesh, waves: Path, out: Path) -> tuple[str, str]:
    """Work for a pool: save, then save again where one rank's disk is full; who says what."""
    said: list[str] = []
    with TrainingLoop.begin(_config(waves, mesh.layout), out, notices=Notices(said.append)) as loop:
        loop.step()
        kept = loop.save()
        with full_disk(after_bytes=4000 if mesh.layout.rank == 1 else 1_000_000_000):
            loop.step()
            loop.begin_save()
            with pytest.raises(UserError) as caught:
                while True:
                    loop.step()
        assert loop.checkpoint == kept
        loop.save()  # there is space again
    return str(caught.value), kept.name


def test_a_disk_that_is_full_for_one_rank_is_heard_of_by_all(
    waves: Path, tmp_path: Path, pool: Pool
) -> None:
    (said, _), *others = pool.run(_fill_the_disk_of_one, Layout(data=2), waves, tmp_path / "run")
    assert "step-00000002 cannot be written (File too large): free some space" in said
    assert all(other == (said, "step-00000001") for other in others)
    steps = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert len(steps) == 2 and "step-00000001" in steps and "step-00000002" not in steps


def _save_after_a_failure(mesh: Mesh, waves: Path, out: Path) -> str:
    """Work for a pool: the first checkpoint finds one rank's disk full, the next finds space."""
    with TrainingLoop.begin(_config(waves, mesh.layout), out) as loop:
        loop.step()
        limit = 4000 if mesh.layout.rank == 1 else 1_000_000_000
        with full_disk(after_bytes=limit), pytest.raises(UserError, match="File too large"):
            loop.save()
        loop.step()
        return loop.save().name


def test_after_a_first_checkpoint_that_failed_the_next_is_written(
    waves: Path, tmp_path: Path, pool: Pool
) -> None:
    names = pool.run(_save_after_a_failure, Layout(data=2), waves, tmp_path / "run")
    assert names == ["step-00000002"] * 2


def test_the_next_checkpoint_waits_for_the_one_before_and_says_so(
    waves: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    with (
        TrainingLoop.begin(_config(waves), tmp_path, notices=Notices(said.append)) as loop,
        _blocked_disk() as is_free,
    ):
        for _ in range(2):
            loop.step()
            loop.begin_save()
            threading.Timer(0.2, is_free.set).start()
        loop.save()
    assert [path.name for path in checkpoints(loop.run.checkpoints)] == [
        "step-00000001",
        "step-00000002",
    ]
    (sentence,) = said
    assert sentence.startswith("the checkpoint after step 1 is still being written when the next")
    assert loop.result().saving_seconds[0] > 0.1


def test_a_loss_that_is_not_finite_lets_a_checkpoint_be_written(
    waves: Path, tmp_path: Path
) -> None:
    with TrainingLoop.begin(_config(waves), tmp_path) as loop:
        loop.step()
        batch = loop.next_batch()
        batch.states[0, 1, 0, 2, 3] = torch.nan
        loop.begin_save()
        with pytest.raises(UserError, match="step-00000001 is the last good checkpoint"):
            loop.step(batch)


def _scores(*losses: float) -> Callable[..., Validation]:
    """A validation that finds these losses, one after another."""
    left = iter(losses)
    return lambda *_, **__: Validation(
        next(left), {"temperature_850": 1.0, "2m_temperature": math.nan}
    )


def _steps(loop: TrainingLoop) -> list[int]:
    loop.finish_saving()
    return [int(path.name[5:]) for path in checkpoints(loop.run.checkpoints)]


def test_the_best_by_a_score_is_kept_beside_the_newest_and_found_again(
    waves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(waves, best="loss", keep=1)
    run = Run(tmp_path)

    def validate(loop: TrainingLoop, loss: float) -> list[int]:
        loop.step()
        monkeypatch.setattr(looping, "validate", _scores(loss))
        loop.keep_if_best(loop.validate())
        return _steps(loop)

    with TrainingLoop.begin(config, tmp_path) as loop:
        assert validate(loop, 3.0) == [1]
        assert validate(loop, math.nan) == validate(loop, 3.5) == [1]  # none is better: none saved
        assert validate(loop, 2.0) == [4]
        loop.step()
        loop.save()
        assert _steps(loop) == [4, 5]
        loop.step()
        loop.save()
        assert _steps(loop) == [4, 6]
    assert run.require_checkpoint("best").name == "step-00000004"
    assert run.require_checkpoint("6").name == run.require_checkpoint().name == "step-00000006"
    with TrainingLoop.begin(config, tmp_path, resume=True) as loop:
        assert validate(loop, 2.5) == [4, 6]
        loop.save()
        assert _steps(loop) == [4, 7]
        assert validate(loop, 1.0) == [8]  # the newest, and the best before it is not kept any more
        loop.step()
        # Known to be better, and killed before that was written.
        monkeypatch.setattr(looping, "validate", _scores(0.5))
        loop.keep_if_best(loop.validate())
        loop.saver._writer.close()
        loop.saver.close()
    assert [each.step for each in read_best(run.checkpoints)] == [8, 9]
    assert run.require_checkpoint("best").name == "step-00000008"
    # The steps after the one that is resumed from are forgotten.
    with TrainingLoop.begin(config, tmp_path, resume=True) as loop:
        assert validate(loop, 0.75) == [9]
    # Another score begins anew.
    with TrainingLoop.begin(
        _config(waves, best="temperature_850", keep=1), tmp_path, resume=True
    ) as loop:
        assert validate(loop, 9.0) == [10]
    assert json.loads((run.checkpoints / "best.json").read_text()) == {
        "score": "temperature_850",
        "checkpoints": [{"step": 10, "score": 1.0}],
    }


def test_a_checkpoint_of_the_best_that_cannot_be_written_ends_the_training(
    waves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no validation that is left out, after which training goes on."""
    config = wave_config(
        waves,
        training={"steps": 4, "validate_every": 1},
        checkpoint={"every": 1000, "best": "loss"},
    )
    monkeypatch.setattr(looping, "validate", _scores(4.0, 3.0, 2.0, 1.0))
    with (
        full_disk(after_bytes=4000),
        pytest.raises(UserError, match="step-00000001 cannot be written"),
    ):
        train(config, tmp_path / "run", console=Console(quiet=True))


def test_what_is_no_score_or_no_checkpoint_is_said(waves: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"checkpoint\.best=temperature_85 .* temperature_850$"):
        TrainingLoop.begin(_config(waves, best="temperature_85"), tmp_path / "run")
    said: list[str] = []
    with TrainingLoop.begin(
        _config(waves, best="2m_temperature"), tmp_path / "run", notices=Notices(said.append)
    ) as loop:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(looping, "validate", _scores(1.0))
            loop.step()
            loop.keep_if_best(loop.validate())
        assert said == ["the validation has no 2m_temperature, so none is the best"]
        loop.save()
    run = Run(tmp_path / "run")
    with pytest.raises(UserError, match=r"no best checkpoint: train it with checkpoint\.best=loss"):
        run.require_checkpoint("best")
    with pytest.raises(UserError, match=r"no checkpoint after step 7: there are 1$"):
        run.require_checkpoint("7")
    with pytest.raises(UserError, match="last is no checkpoint: give newest, best, or a number"):
        run.require_checkpoint("last")
    (run.checkpoints / "best.json").write_text("{")
    with pytest.raises(UserError, match=r"best\.json is damaged: remove it"):
        run.require_checkpoint("best")

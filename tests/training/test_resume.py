from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from support.dying import start_training
from support.selection import exhaustive
from support.waves import wave_config
from weathermixer.config import Config
from weathermixer.data.making.synthetic import write_synthetic
from weathermixer.errors import UserError
from weathermixer.runs.checkpoint_index import DamagedCheckpoint
from weathermixer.runs.run import Run
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.result import TrainResult
from weathermixer.training.trainer import train

QUIET = Console(quiet=True)


def _config(waves: Path, **sections: Any) -> Config:
    training = {
        "steps": 16, "rollout": {0: 1, 9: "1-2"}, "latent_rollout": "1-2", "micro_batch": 1,
        "recompute": "stages", "validate_every": 5, "cycle_steps": 6,
        **sections.pop("training", {}),
    }  # fmt: skip
    return wave_config(
        waves, model={"dropout": 0.1}, training=training, checkpoint={"every": 3}, **sections
    )


def _files(run: Path) -> dict[str, bytes]:
    """The newest checkpoint: weights, averages of Adam, and progress."""
    newest = Run.open(run).newest_checkpoint()
    assert newest is not None
    assert newest.name == "step-00000016"
    return {file.name: file.read_bytes() for file in newest.iterdir()}


@pytest.fixture(scope="module")
def whole(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, train(_config(waves), out, console=QUIET)


class _Crash(Exception):
    pass


def _at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Any) -> None:
    """Have ``action()`` called when the given optimizer step, counted from 1, begins."""
    plain = TrainingLoop.step

    def watched(loop: TrainingLoop, *batch: Any) -> Any:
        if loop.state.step == step - 1:
            action()
        return plain(loop, *batch)

    monkeypatch.setattr(TrainingLoop, "step", watched)


@pytest.mark.parametrize("step", [1, 12, *exhaustive(4, 8, 16)])
def test_a_run_that_crashed_and_went_on_ends_with_the_same_bits(
    waves: Path,
    whole: tuple[Path, TrainResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    def crash() -> None:
        raise _Crash

    _at_step(monkeypatch, step, crash)
    with pytest.raises(_Crash):
        train(_config(waves), tmp_path / "run", console=QUIET)
    monkeypatch.undo()
    rest = train(_config(waves), tmp_path / "run", resume=True, console=QUIET)
    assert rest.start_step == (step - 1) // 3 * 3
    assert rest.loss == whole[1].loss[rest.start_step :]
    assert rest.grad_norm == whole[1].grad_norm[rest.start_step :]
    assert _files(tmp_path / "run") == _files(whole[0])
    assert _log(tmp_path / "run") == _log(whole[0])


_REPEATABLE = {"step", "samples", "loss", "grad_norm", "learning_rate", "validation"}


def _log(run: Path) -> list[dict[str, Any]]:
    """The records of a run, without what a machine took for them."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key in _REPEATABLE} for line in lines]


def test_the_log_has_each_step_once(whole: tuple[Path, TrainResult]) -> None:
    assert [line["step"] for line in _log(whole[0])] == list(range(1, 17))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, *exhaustive(signal.SIGINT)])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    waves: Path,
    whole: tuple[Path, TrainResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    number: signal.Signals,
) -> None:
    # As in a terminal, also where the tests were started with signals ignored.
    obeyed = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    request.addfinalizer(partial(signal.signal, number, signal.signal(number, obeyed)))
    before = signal.getsignal(number)
    _at_step(monkeypatch, 5, lambda: os.kill(os.getpid(), number))
    stopped = train(_config(waves), tmp_path / "run", console=QUIET)
    assert (stopped.stopped_by, len(stopped.loss)) == (number.name, 5)
    assert stopped.checkpoint.name == "step-00000005"
    assert signal.getsignal(number) == before
    monkeypatch.undo()
    train(_config(waves), tmp_path / "run", resume=True, console=QUIET)
    assert _files(tmp_path / "run") == _files(whole[0])


def test_killed_at_any_file_operation_a_run_goes_on_to_the_same_bits(
    waves: Path, whole: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    kills = 0
    for call in range(1, 10):
        process = start_training(_config(waves), tmp_path / "run", die_at_call=call)
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:
            break
        kills += 1
        if Run(tmp_path / "run").newest_checkpoint() is not None:
            Run.open(tmp_path / "run").load_model()
    assert kills >= 8
    train(_config(waves), tmp_path / "run", resume=True, console=QUIET)
    assert _files(tmp_path / "run") == _files(whole[0])


@pytest.mark.exhaustive
def test_killed_at_any_moment_a_run_goes_on_to_the_same_bits(
    waves: Path, whole: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    delays = random.Random(0)
    for _ in range(5):
        process = start_training(_config(waves), tmp_path / "run")
        time.sleep(delays.uniform(0.1, 0.8))
        process.kill()
        process.join(60)
    train(_config(waves), tmp_path / "run", resume=True, console=QUIET)
    assert _files(tmp_path / "run") == _files(whole[0])
    assert _log(tmp_path / "run") == _log(whole[0])


def test_a_run_with_checkpoints_is_continued_only_when_asked(
    waves: Path, whole: tuple[Path, TrainResult]
) -> None:
    before = sorted(whole[0].rglob("*"))
    with pytest.raises(UserError, match="continue it with --resume, or choose another --out"):
        train(_config(waves), whole[0], console=QUIET)
    assert sorted(whole[0].rglob("*")) == before


def test_a_file_in_the_place_of_a_run_is_refused(waves: Path, tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="is a file"):
        train(_config(waves), tmp_path / "run", console=QUIET)
    with pytest.raises(UserError, match="below cannot be written"):
        train(_config(waves), tmp_path / "run" / "below", console=QUIET)


def test_another_network_or_other_data_are_refused_by_key(
    waves: Path, whole: tuple[Path, TrainResult]
) -> None:
    config = _config(waves)
    other = config.model_copy(
        update={
            "model": config.model.model_copy(update={"channels": 20, "blocks": 1}),
            "data": config.data.model_copy(update={"validation": "2001-01-14/2001-01-15"}),
        }
    )
    match = r"values of model\.channels, model\.blocks, data\.validation"
    with pytest.raises(UserError, match=match):
        train(other, whole[0], resume=True, console=QUIET)


def test_another_seed_would_repeat_samples_and_is_refused(
    waves: Path, whole: tuple[Path, TrainResult]
) -> None:
    other = _config(waves, training={"steps": 20, "seed": 7})
    with pytest.raises(UserError, match=r"begun with training\.seed=0, and with 7 samples of the"):
        train(other, whole[0], resume=True, console=QUIET)


def test_a_store_that_has_grown_is_refused_until_the_period_is_given(tmp_path: Path) -> None:
    """By default the first four fifths of the times train: more times are more samples."""
    store = tmp_path / "store.zarr"
    write_synthetic(store, times=40, grid=(8, 16), seed=0)
    config = _config(store, training={"steps": 3})
    train(config, tmp_path / "run", console=QUIET)
    origin = json.loads((tmp_path / "run" / "origin.json").read_text(encoding="utf-8"))
    assert origin["pairs"] == 31 and origin["samples"] == 28  # of 32 times, four steps long
    shutil.rmtree(store)
    write_synthetic(tmp_path / "longer.zarr", times=50, grid=(8, 16), seed=0)
    (tmp_path / "longer.zarr").rename(store)
    longer = _config(store, training={"steps": 4})
    with pytest.raises(
        UserError, match=r"learns from 31 pairs of states .* now offers 39"
    ) as raised:
        train(longer, tmp_path / "run", resume=True, console=QUIET)
    (period,) = re.findall(r"set data\.train=(\S+)", str(raised.value))
    given = _config(store, data={"train": period}, training={"steps": 4})
    assert train(given, tmp_path / "run", resume=True, console=QUIET).start_step == 3
    # What it was begun with stays what it is compared with.
    kept = json.loads((tmp_path / "run" / "origin.json").read_text(encoding="utf-8"))
    assert kept == origin


def test_what_costs_no_sample_is_said_when_a_run_goes_on(waves: Path, tmp_path: Path) -> None:
    train(_config(waves, training={"steps": 3}), tmp_path / "run", console=QUIET)
    path = tmp_path / "run" / "origin.json"
    origin = json.loads(path.read_text(encoding="utf-8"))
    origin["versions"]["the version of torch"] = "1.0"
    path.write_text(json.dumps(origin), encoding="utf-8")
    longer = _config(waves, training={"steps": 4, "rollout": 1})
    said = io.StringIO()
    train(longer, tmp_path / "run", resume=True, console=Console(file=said, width=500))
    assert "and was 1.0 when the run was begun" in said.getvalue()
    assert "samples to learn from, and there were" in said.getvalue()
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"origin\.json is damaged"):
        train(longer, tmp_path / "run", resume=True, console=QUIET)
    path.unlink()
    assert train(longer, tmp_path / "run", resume=True, console=QUIET).start_step == 4


def test_more_steps_may_be_added(waves: Path, tmp_path: Path) -> None:
    first = train(_config(waves), tmp_path / "run", console=QUIET)
    longer = train(
        _config(waves, training={"steps": 20}), tmp_path / "run", resume=True, console=QUIET
    )
    assert (longer.start_step, len(longer.loss)) == (16, 4)
    assert Run.open(tmp_path / "run").config.training.steps == 20
    assert torch.isfinite(torch.tensor(first.loss + longer.loss)).all()


def test_a_finished_run_has_nothing_to_add(waves: Path, whole: tuple[Path, TrainResult]) -> None:
    again = train(_config(waves), whole[0], resume=True, console=QUIET)
    assert (again.start_step, again.loss) == (16, [])
    assert again.checkpoint.name == "step-00000016"
    assert len(_log(whole[0])) == 16


def _cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    # Of a file of records, among the values of the first: between records there are gaps.
    content[content.find(b"data/0") + 200 if b"data/0" in content else len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("__0_0.distcp", _cut),
        (".metadata", _flip),
        *exhaustive(
            ("__0_0.distcp", _flip),
            ("__0_0.distcp", Path.unlink),
            ("checkpoint.json", _flip),
            ("checkpoint.json", Path.unlink),
        ),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    waves: Path, whole: tuple[Path, TrainResult], tmp_path: Path, name: str, damage: Any
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    newest, before = (run / "checkpoints" / f"step-000000{step}" for step in (16, 15))
    damage(newest / name)
    said = io.StringIO()
    rest = train(_config(waves), run, resume=True, console=Console(file=said, width=1000))
    (sentence,) = [line for line in said.getvalue().splitlines() if ".damaged" in line]
    assert sentence.startswith(str(newest)) and name in sentence
    assert sentence.endswith(f"is step-00000016.damaged from now on, and {before.name} is used")
    assert f"continuing from {before}" in said.getvalue()
    assert rest.start_step == 15
    assert _files(run) == _files(whole[0])
    assert _log(run) == _log(whole[0])
    for path in (newest, before):
        _cut(path / "__0_0.distcp")
    with pytest.raises(DamagedCheckpoint, match=rf"{newest}.* is truncated or damaged: copy"):
        train(_config(waves), run, resume=True, console=QUIET)
    assert {path.name for path in newest.parent.iterdir()} == {
        "step-00000015", "step-00000016", "step-00000016.damaged",
    }  # fmt: skip

"""What watches a training costs none of its steps: validations, logs and folders in trouble."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from rich.console import Console

from support.damaged import remove_chunk
from support.meshed import TrainingOrder, train_heard
from support.ranks import Pool
from support.selection import exhaustive
from support.waves import wave_config, write_waves
from weathermixer.config import Config
from weathermixer.jigsaw.layout import Layout
from weathermixer.runs import checkpoint
from weathermixer.runs.run import Run
from weathermixer.training.history import StepReport
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.result import TrainResult
from weathermixer.training.trainer import train
from weathermixer.training.validation import Validation

# Of the 60 times of the waves, samples are validated from times 48, 49, 51 and 52 on. The first and
# the last are looked at when a training begins; this one is not.
HOLE = 51


def config_of(store: Path, **sections: dict[str, Any]) -> Config:
    """Three validations in twelve steps, and checkpoints beside them."""
    training = {"validate_every": 4, **sections.pop("training", {})}
    return wave_config(store, model={"dropout": 0.1}, training=training, **sections)


def hear(config: Config, out: Path, **options: Any) -> tuple[TrainResult, list[str]]:
    """A training, and the lines that it said."""
    said = io.StringIO()
    result = train(config, out, console=Console(file=said, width=1000), **options)
    return result, said.getvalue().splitlines()


def weights(run: Path) -> dict[str, bytes]:
    """The newest checkpoint: weights, averages of Adam, and progress."""
    newest = Run.open(run).newest_checkpoint()
    assert newest is not None
    return {file.name: file.read_bytes() for file in newest.iterdir()}


# Of a record, what a training on other days and machines repeats.
REPEATED = {"step", "samples", "loss", "grad_norm", "learning_rate", "layout", "validation"}


def records_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]


def log_of(run: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in record.items() if key in REPEATED}
        for record in records_of(run)
    ]


@pytest.fixture(scope="module")
def undisturbed(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    return out, hear(config_of(waves), out)[0]


def missing(store: Path) -> None:
    shutil.rmtree(store / "state" / "c" / str(HOLE))


def nan(store: Path) -> None:
    state: Any = zarr.open_group(store, mode="r+", use_consolidated=False)["state"]
    state[HOLE, 1, 3, 4] = np.nan


def damaged(store: Path) -> None:
    (file,) = (path for path in (store / "state" / "c" / str(HOLE)).rglob("*") if path.is_file())
    file.write_bytes(file.read_bytes()[:50])


@pytest.mark.parametrize("spoil", [missing, nan, damaged])
def test_a_validation_that_cannot_be_read_costs_nothing_and_is_said_once(
    spoil: Callable[[Path], None],
    waves: Path,
    undisturbed: tuple[Path, TrainResult],
    tmp_path: Path,
) -> None:
    store = tmp_path / "waves.zarr"
    shutil.copytree(waves, store)
    spoil(store)
    result, said = hear(config_of(store), tmp_path / "run")
    whole = undisturbed[1]
    assert (result.loss, result.grad_norm) == (whole.loss, whole.grad_norm)
    assert weights(tmp_path / "run") == weights(undisturbed[0])
    assert result.validation == {}
    (sentence,) = (line for line in said if "validation" in line)
    assert sentence.startswith("the validation of step 4 is left out (")
    assert "2001-01-13T18:00:00" in sentence
    assert sentence.endswith("training goes on, and will try again at the next")
    # Nor does the log miss a step.
    expected = log_of(undisturbed[0])
    for line in expected:
        line.pop("validation", None)
    assert log_of(tmp_path / "run") == expected


@pytest.mark.parametrize(
    "layout",
    [
        Layout(data=2),
        *exhaustive(Layout(domain=2), Layout(domain=2, tensor=2), Layout(data=2, domain=2)),
    ],
    ids=str,
)
def test_a_hole_under_one_rank_leaves_all_of_them_training(
    layout: Layout, waves: Path, tmp_path: Path, pool: Pool
) -> None:
    parallel = {"data": layout.data, "domain": layout.domain, "tensor": layout.tensor}
    stores = {"whole": waves, "torn": tmp_path / "waves.zarr"}
    shutil.copytree(waves, stores["torn"])
    # Under the second half of the longitudes, in the last variable, in one replica's sample.
    remove_chunk(stores["torn"], time=HOLE, channel=1, longitude=15)
    orders = [
        TrainingOrder(
            config_of(store, parallel=parallel, training={"instance_batch": 1}), tmp_path / name
        )
        for name, store in stores.items()
    ]
    ranks = pool.run(train_heard, layout, orders)
    whole, torn = ([heard[number] for heard in ranks] for number in (0, 1))
    assert {step for result, _ in whole for step in result.validation} == {4, 8, 12}
    assert all(result.validation == {} for result, _ in torn)
    assert [result.loss for result, _ in torn] == [result.loss for result, _ in whole]
    assert weights(tmp_path / "torn") == weights(tmp_path / "whole")
    sentences = [line for _, said in torn for line in said if "is left out" in line]
    assert len(sentences) == 1
    assert "2001-01-13T18:00:00" in sentences[0]
    assert not any(said for _, said in ranks[-1])  # the first rank speaks for all


def test_a_step_is_saved_before_it_is_validated_and_validated_when_it_is_continued(
    waves: Path,
    undisturbed: tuple[Path, TrainResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class _Crash(Exception):
        pass

    def crash(loop: TrainingLoop) -> Validation:
        if loop.state.step == 8:
            raise _Crash
        return validate(loop)

    validate = TrainingLoop.validate
    monkeypatch.setattr(TrainingLoop, "validate", crash)
    with pytest.raises(_Crash):
        hear(config_of(waves), tmp_path / "run")
    newest = Run.open(tmp_path / "run").newest_checkpoint()
    assert newest is not None and newest.name == "step-00000008"
    monkeypatch.undo()
    rest, said = hear(config_of(waves), tmp_path / "run", resume=True)
    assert said[1].startswith("step 8: validation loss ")
    assert rest.validation == {step: undisturbed[1].validation[step] for step in (8, 12)}
    continued = log_of(tmp_path / "run")
    assert continued[8].pop("layout") == {"data": 1, "domain": 1, "tensor": 1}
    assert continued == log_of(undisturbed[0])


def test_the_first_record_names_the_mesh(undisturbed: tuple[Path, TrainResult]) -> None:
    first, *others = log_of(undisturbed[0])
    assert first["layout"] == {"data": 1, "domain": 1, "tensor": 1}
    assert not any("layout" in record for record in others)


def test_a_folder_that_is_removed_costs_no_step(
    waves: Path,
    undisturbed: tuple[Path, TrainResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = TrainingLoop.step

    def removing(loop: TrainingLoop) -> StepReport:
        if loop.state.step == 5:
            loop.finish_saving()
            shutil.rmtree(tmp_path / "run")
        return step(loop)

    monkeypatch.setattr(TrainingLoop, "step", removing)
    config = config_of(waves, logging={"tensorboard": True})
    result, said = hear(config, tmp_path / "run")
    assert result.loss == undisturbed[1].loss
    troubles = [line for line in said if "No such file or directory" in line]
    assert sorted(trouble.partition(" cannot be written")[0] for trouble in troubles) == [
        "TensorBoard's events",
        f"the log {tmp_path / 'run' / 'log.jsonl'}",
        f"the log {tmp_path / 'run' / 'ranks' / 'rank-00000.log'}",
    ]
    newest = result.checkpoint
    assert {file.name: file.read_bytes() for file in newest.iterdir()} == weights(undisturbed[0])


def test_folders_in_the_place_of_log_and_result_cost_nothing(
    waves: Path, undisturbed: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    for name in ("log.jsonl", "training.json"):
        (tmp_path / "run" / name).mkdir(parents=True)
    result, said = hear(config_of(waves), tmp_path / "run")
    assert weights(tmp_path / "run") == weights(undisturbed[0])
    assert result.validation == undisturbed[1].validation
    assert sum("log.jsonl cannot be written" in line for line in said) == 1
    assert sum("training.json cannot be written" in line for line in said) == 1


def test_a_checkpoint_that_is_in_the_way_costs_nothing(
    waves: Path,
    undisturbed: tuple[Path, TrainResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoint, "remove_old", refused)
    _, said = hear(config_of(waves), tmp_path / "run")
    assert weights(tmp_path / "run") == weights(undisturbed[0])
    assert sum("cannot be removed (Permission denied)" in line for line in said) == 1


def test_a_loss_that_overflows_in_validation_is_said_and_training_goes_on(tmp_path: Path) -> None:
    store = write_waves(tmp_path / "waves.zarr")
    state: Any = zarr.open_group(store, mode="r+", use_consolidated=False)["state"]
    state[HOLE] = 3e37  # finite, as is its error; not its square
    result, said = hear(config_of(store), tmp_path / "run")
    assert len(result.loss) == 12
    assert result.validation == {}
    assert sum("is left out (its loss is NaN or infinite)" in line for line in said) == 1

"""Several ranks that train, from the command line: what they print, how they fail and go on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from support.damaged import remove_chunk
from support.meshed import (
    LEVELS,
    LONGITUDES,
    TrainingOrder,
    train_all,
    train_refused,
    train_spoiled,
    train_stopped_late,
    uneven_config,
)
from support.processes import Processes, free_port, hand_started_rank, without_waits
from support.ranks import Pool
from support.waves import wave_config, write_waves
from weathermixer.config import Config
from weathermixer.data.feeding.samples import training_plan
from weathermixer.data.store.store import Store
from weathermixer.errors import STOPPED_EARLY
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.runs.run import Run
from weathermixer.training.feed import training_windows

DEADLINE_SECONDS = 120
PER_RANK = (
    "bytes_sent_per_step", "bytes_read_per_step", "flops_per_step", "peak_memory_bytes",
    "parameter_bytes", "optimizer_bytes", "exchanges_per_step", "waited_for_data",
    "waited_for_ranks", "saving_seconds",
)  # fmt: skip


STARTED = Processes()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No process that a test starts outlives it."""
    yield
    STARTED.close()


def begin(*words: str | Path, **environment: str) -> subprocess.Popen[str]:
    """The command line in a process of its own, whose ranks compute with one thread each."""
    return STARTED.begin("-m", "weathermixer", *words, environment=environment)


def run(*words: str | Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    process = begin(*words)
    out, err = process.communicate(timeout=DEADLINE_SECONDS)
    return process.returncode, out, without_waits(err)


def begin_by_hand(*words: list[str | Path]) -> list[tuple[int, str]]:
    """Ranks started one by one, each with words of its own; exit status and standard error."""
    port = free_port()
    ranks = [
        begin(*own, **hand_started_rank(rank, len(words), port)) for rank, own in enumerate(words)
    ]
    said = [rank.communicate(timeout=DEADLINE_SECONDS)[1] for rank in ranks]
    return [(rank.returncode, text) for rank, text in zip(ranks, said, strict=True)]


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Return when the log says that so many steps were taken, and there is a checkpoint."""
    end = time.monotonic() + DEADLINE_SECONDS
    log = run / "log.jsonl"
    while (
        Run(run).newest_checkpoint() is None
        or not log.exists()
        or len(log.read_text().splitlines()) < step
    ):
        assert process.poll() is None, "it ended early"
        assert time.monotonic() < end, "it is too slow"
        time.sleep(0.01)


def children(process: subprocess.Popen[str]) -> list[int]:
    """The ranks that a process started, in their order."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True)
    pairs = [map(int, line.split()) for line in table.stdout.splitlines()]
    return sorted(pid for pid, parent in pairs if parent == process.pid)


def write_config(config: Config, path: Path) -> Path:
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    return path


ENDLESS = 1_000_000


@pytest.fixture
def endless(waves: Path, tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A run on two ranks that was begun, and the process that started them."""
    config = write_config(endless_config(waves), tmp_path / "config.yaml")
    process = begin("train", config, "--out", tmp_path / "run", "--nproc", "2", "--json")
    wait_for_step(tmp_path / "run", 6, process)
    yield tmp_path / "run", process
    process.kill()
    process.communicate()


def endless_config(waves: Path, **sections: Any) -> Config:
    training = {"steps": ENDLESS, "cycle_steps": 30, "validate_every": 4, "dtype": "float32"}
    return wave_config(waves, training=training | sections.pop("training", {}), **sections)


def _weights(run: Path) -> dict[str, bytes]:
    newest = Run.open(run).newest_checkpoint()
    assert newest is not None
    return {file.name: file.read_bytes() for file in newest.iterdir()}


def test_after_a_rank_is_killed_a_run_is_continued_to_the_same_bits(
    endless: tuple[Path, subprocess.Popen[str]], waves: Path, tmp_path: Path, pool: Pool
) -> None:
    out, process = endless
    os.kill(children(process)[1], signal.SIGKILL)
    printed, said = process.communicate(timeout=DEADLINE_SECONDS)
    assert (process.returncode, printed) == (1, "")
    sentence = (
        r"Error: rank 1 was killed by SIGKILL "
        r"\(last heard in exchange \d+( \(.+\))? of step \d+\), "
        "so the other ranks were stopped: continue with --resume"
    )
    assert re.fullmatch(sentence, said.splitlines()[-1])
    assert said.count("Error") == 1

    newest = Run.open(out).newest_checkpoint()
    assert newest is not None
    begun = int(newest.name[5:])
    steps = begun + 5
    words = ["--nproc", "2", "--json", "--resume", f"--training.steps={steps}"]
    status, printed, said = run("train", tmp_path / "config.yaml", "--out", out, *words)
    assert status == 0, said
    assert said.count(f"continuing from {newest}") == 1

    result = json.loads(printed.splitlines()[-1])
    assert (result["start_step"], len(result["loss"])) == (begun, 5)
    assert result["world_size"] == 2
    # Nobody asked for a mesh, so one was chosen.
    assert sorted(result["layout"].values()) == [1, 1, 2]
    assert result["layout"]["data"] == 1
    for key in PER_RANK:
        assert len(result[key]) == 2
        assert min(result[key]) > 0
    assert result["checkpoint"] == str(out / "checkpoints" / f"step-{steps:08d}")

    # What pool and command line start differently must not matter.
    order = TrainingOrder(endless_config(waves, training={"steps": steps}), tmp_path / "whole")
    layout = Layout(**result["layout"])
    whole = pool.run(train_all, layout, [order])[0][0].result
    assert result["loss"] == whole.loss[begun:]
    assert _weights(out) == _weights(tmp_path / "whole")


@pytest.mark.exhaustive
def test_a_signal_to_the_job_leaves_a_checkpoint_and_is_told_once(
    endless: tuple[Path, subprocess.Popen[str]],
) -> None:
    out, process = endless
    process.send_signal(signal.SIGUSR1)
    printed, said = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == STOPPED_EARLY, said
    assert said.count("stopped by") == 1
    assert "with --resume" in said
    result = json.loads(printed.splitlines()[-1])
    steps = len(result["loss"])
    assert steps >= 6
    assert result["stopped_by"]
    assert result["checkpoint"] == str(out / "checkpoints" / f"step-{steps:08d}")
    assert Path(result["checkpoint"]).exists()


def test_a_signal_that_reaches_a_rank_later_than_others_spares_the_checkpoint(
    waves: Path, tmp_path: Path, pool: Pool
) -> None:
    config = wave_config(waves, parallel={"domain": 2, "tensor": 1}, checkpoint={"every": 100})
    order = TrainingOrder(config, tmp_path / "run")
    for result in pool.run(train_stopped_late, Layout(domain=2), order):
        assert result.stopped_by
        assert result.checkpoint == tmp_path / "run" / "checkpoints" / "step-00000003"
        assert result.checkpoint.exists()


# --- refused before anything is written


@pytest.mark.exhaustive
def test_a_mesh_of_other_ranks_is_refused_in_one_sentence(waves: Path, tmp_path: Path) -> None:
    config = write_config(wave_config(waves), tmp_path / "config.yaml")
    words = ["--nproc", "2", "--parallel.domain=3"]
    assert run("train", config, "--out", tmp_path / "run", *words) == (
        2,
        "",
        "Error: data (1) × domain (3) × tensor (1) = 3 ranks, but 2 were started: start as many, "
        "or choose a mesh of as many\n",
    )
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="session")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uneven")
    return write_waves(folder / "waves.zarr", levels=LEVELS, longitudes=LONGITUDES, pulse=8.0)


def test_more_ranks_than_there_is_to_cut_are_refused(
    waves: Path, uneven: Path, tmp_path: Path, pool: Pool
) -> None:
    narrow = {"model": {"patch": [8, 8]}}
    cases = [
        (Layout(domain=3), waves, narrow, "domain (3) is more than the 2 columns of patches"),
        (Layout(tensor=3), waves, {}, "tensor (3) is more than the 2 variables"),
    ]
    for layout, store, sections, said in cases:
        parallel = {"domain": layout.domain, "tensor": layout.tensor}
        config = wave_config(store, parallel=parallel, **sections)
        orders = [TrainingOrder(config, tmp_path / "run")] * 3
        sentences = pool.run(train_refused, layout, orders)
        assert len(set(sentences)) == 1
        assert said in sentences[0]
        assert not (tmp_path / "run").exists()


@pytest.mark.exhaustive  # launch/test_consistency.py shows the same
def test_ranks_with_other_settings_are_refused_by_key(waves: Path, tmp_path: Path) -> None:
    config = write_config(wave_config(waves), tmp_path / "config.yaml")
    words: list[list[str | Path]] = [
        ["train", config, "--out", tmp_path / "run", f"--training.seed={seed}"] for seed in (0, 7)
    ]
    first, other = begin_by_hand(*words)
    assert (first[0], other[0]) == (2, 2)
    assert "Error: training.seed is 0 on rank 0 and 7 on rank 1: start every rank" in first[1]
    assert first[1].count("Error") == 1
    assert "Error" not in other[1]
    assert not (tmp_path / "run").exists()


@pytest.mark.exhaustive
def test_a_run_that_would_be_overwritten_is_refused_and_nobody_blames_the_program(
    waves: Path, tmp_path: Path
) -> None:
    config = wave_config(waves, training={"steps": 3})
    train_all(Mesh.describe(), [TrainingOrder(config, tmp_path / "run")])
    path = write_config(config, tmp_path / "config.yaml")
    words: list[str | Path] = ["train", path, "--out", tmp_path / "run"]
    first, other = begin_by_hand(words, words)
    assert first[0] == 2
    assert "has checkpoints: continue it with --resume" in first[1]
    assert other[0] == 2
    assert "Error" not in other[1]


def test_ranks_with_other_data_under_the_same_name_are_refused(tmp_path: Path, pool: Pool) -> None:
    config = wave_config(Path("waves.zarr"), parallel={"domain": 2, "tensor": 1})
    orders = []
    for times in (60, 50):
        (tmp_path / str(times)).mkdir()
        write_waves(tmp_path / str(times) / "waves.zarr", times=times)
        orders.append(TrainingOrder(config, tmp_path / str(times) / "run"))
    one, other = pool.run(train_refused, Layout(domain=2), orders)
    assert one == other
    assert one.startswith("the store is ")
    assert " on rank 0 and " in one
    assert not any(order.out.exists() for order in orders)


# --- what goes wrong on one rank alone


@pytest.mark.parametrize(
    ("layout", "rank", "channel"),
    [
        (Layout(domain=2, tensor=2), 1, "2m_temperature"),
        (Layout(domain=2, tensor=2), 2, "temperature_700"),
        (Layout(data=2, tensor=2), 3, "2m_temperature"),
    ],
)
def test_a_nan_that_one_rank_has_is_named_alike_by_all(
    layout: Layout, rank: int, channel: str, uneven: Path, tmp_path: Path, pool: Pool
) -> None:
    config = uneven_config(uneven, layout)
    sentences = pool.run(train_spoiled, layout, TrainingOrder(config, tmp_path / "run"), rank, 3)
    assert len(set(sentences)) == 1, sentences
    said = sentences[0]
    assert said.startswith("the loss of step 3 is NaN or infinite")
    assert said.count("first in") == 1
    assert f"first in {channel} as given for 6 h after 2001-01-" in said
    sample = said.partition("6 h after ")[2].partition(";")[0]
    assert sample in said.partition("samples from")[2]


@pytest.mark.exhaustive
def test_a_state_that_one_rank_cannot_read_ends_all_by_name(waves: Path, tmp_path: Path) -> None:
    store = tmp_path / "waves.zarr"
    shutil.copytree(waves, store)
    config = wave_config(store, parallel={"data": 2}, training={"steps": 4})
    read = [_times_read(config, Layout(data=2, rank=rank)) for rank in range(2)]
    missing = min(read[1] - read[0])
    shutil.rmtree(store / "state" / "c" / str(missing))
    path = write_config(config, tmp_path / "config.yaml")
    status, printed, said = run("train", path, "--out", tmp_path / "run", "--nproc", "2")
    assert (status, printed) == (2, "")
    assert said.count("Error") == 1
    assert said.splitlines()[-1].startswith("Error: ")
    assert str(Store.open(store).times[missing]) in said


@pytest.mark.exhaustive
def test_a_chunk_that_one_rank_of_an_instance_lacks_ends_all_by_name(
    waves: Path, tmp_path: Path
) -> None:
    store = tmp_path / "waves.zarr"
    shutil.copytree(waves, store)
    config = wave_config(store, parallel={"domain": 2, "tensor": 1}, training={"steps": 4})
    missing = min(_times_read(config, Layout()))
    remove_chunk(store, time=missing, channel=1, longitude=15)  # which is the second rank's
    path = write_config(config, tmp_path / "config.yaml")
    status, printed, said = run("train", path, "--out", tmp_path / "run", "--nproc", "2")
    assert (status, printed) == (2, "")
    assert said.count("Error") == 1
    sentence = said.splitlines()[-1]
    assert sentence.startswith("Error: ")
    assert f"the state at {Store.open(store).times[missing]} has missing chunks" in sentence


def _times_read(config: Config, layout: Layout) -> set[int]:
    training = config.training
    found = training_windows(config.data, training, Store.open(config.data.store))
    plan = training_plan(
        found,
        seed=training.seed,
        batch=training.instance_batch,
        layout=layout,
        steps=range(training.steps),
        samples=0,
        leads_at=training.leads_at,
    )
    return set(np.concatenate([indices.ravel() for indices in plan]).tolist())

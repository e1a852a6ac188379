"""What is measured of steps: closed forms, files that stand for RAPL, and real ranks."""

from __future__ import annotations

import gzip
import json
import re
import socket
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from support.meshed import TrainingOrder
from support.ranks import Pool
from support.waves import wave_config
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.planning.choosing import MeshChoice
from weathermixer.training.effort import Effort
from weathermixer.training.measures import RankMeasure, numbers_of
from weathermixer.training.power import PowerMeter
from weathermixer.training.result import TrainResult
from weathermixer.training.trainer import train


@dataclass(frozen=True)
class WatchedRun:
    """A run, and the result of its training."""

    out: Path
    result: TrainResult


CHOICE = MeshChoice(Layout(domain=2), 0.4, "so", peak=1e9)


def effort(**values: Any) -> Effort:
    taken = {"steps": 10, "seconds": 5.0, "waited_for_data": 1.0, "waited_for_ranks": 2.0}
    return Effort(**{**taken, "bytes_read": 100, "bytes_sent": 200, "flops": 10**9, **values})


def test_the_rank_with_the_most_is_logged() -> None:
    ranks = [
        RankMeasure(effort(), 70, 80, 100.0),
        RankMeasure(effort(seconds=5.5, flops=2 * 10**9, bytes_sent=50), 60, 90, 150.0),
    ]
    assert numbers_of(ranks, samples_per_step=4, choice=CHOICE) == {
        "samples_per_second": 8.0,
        "seconds_per_step": 0.5,
        "predicted_seconds_per_step": 0.4,
        "flops_per_second": 4e8,
        "peak_fraction": 0.4,
        "bytes_sent_per_step": 20.0,
        "bytes_read_per_step": 10.0,
        "waited_for_data": 0.1,
        "waited_for_ranks": 0.2,
        "memory_bytes": 70,
        "peak_memory_bytes": 90,
        "watts": 250.0,
        "joules_per_sample": 250.0 * 5.0 / 40,
    }


def test_what_nothing_tells_is_absent() -> None:
    on_device = RankMeasure(effort(waited_for_ranks=None), None, 80, None)
    choice = MeshChoice(Layout(), 0.4, "so")
    numbers = numbers_of([on_device], samples_per_step=4, choice=choice)
    unknown = {"peak_fraction", "waited_for_ranks", "memory_bytes", "watts", "joules_per_sample"}
    assert not unknown & numbers.keys()


def test_what_steps_took_is_told_apart_from_what_those_before_took() -> None:
    before = effort()
    later = before + effort(steps=2, seconds=3.0, exchanges=7, waited_for_ranks=0.5)
    since = later.since(before)
    assert (since.steps, since.seconds, since.exchanges) == (2, 3.0, 7)
    assert since.waited_for_ranks_per_step == 0.25
    unseen = effort(waited_for_ranks=None)
    assert (before + unseen).since(before).waited_for_ranks_per_step is None


def test_the_energy_of_processors_is_that_of_whole_packages_also_where_the_count_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def write(package: str, microjoules: int) -> None:
        folder = tmp_path / package
        folder.mkdir(exist_ok=True)
        (folder / "energy_uj").write_text(f"{microjoules}\n")
        (folder / "max_energy_range_uj").write_text("262143328850\n")

    write("intel-rapl:0", 5_000_000)
    write("intel-rapl:0:0", 1_000_000)  # a part of the package
    write("intel-rapl:1", 262_143_328_850 - 3_000_000)
    meter = PowerMeter(torch.device("cpu"), answers=True, rapl=tmp_path)
    clock[0] += 4.0
    write("intel-rapl:0", 25_000_000)
    write("intel-rapl:0:0", 9_000_000)
    write("intel-rapl:1", 17_000_000)
    assert meter.watts() == pytest.approx((20.0 + 20.0) / 4.0)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()  # as for who may not read it
    clock[0] += 1.0
    assert meter.watts() is None
    assert PowerMeter(torch.device("cpu"), answers=False, rapl=tmp_path).watts() is None
    assert PowerMeter(torch.device("cpu"), answers=True, rapl=tmp_path / "none").watts() is None


def test_a_gpu_draws_what_its_driver_says_or_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = PowerMeter(torch.device("cuda", 0), answers=False)
    monkeypatch.setattr(torch.cuda, "power_draw", lambda device: 312_500)  # milliwatts
    assert meter.watts() == 312.5

    def unknown(device: torch.device) -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "power_draw", unknown)
    assert meter.watts() is None


def trained(mesh: Mesh, order: TrainingOrder) -> TrainResult:
    """Work for a pool: a training."""
    return train(order.config, order.out, console=Console(quiet=True))


@pytest.fixture(scope="module")
def watched(waves: Path, tmp_path_factory: pytest.TempPathFactory, pool: Pool) -> WatchedRun:
    """Three steps of two ranks: two of them logged, one profiled."""
    config = wave_config(
        waves,
        parallel={"domain": 1, "tensor": 2},
        training={"steps": 3, "warmup_steps": 1, "validate_every": 100},
        logging={"every": 2, "profile": 2},
    )
    out = tmp_path_factory.mktemp("watched") / "run"
    return WatchedRun(out, pool.run(trained, Layout(tensor=2), TrainingOrder(config, out))[0])


def test_ranks_log_what_they_sent_and_how_long_they_waited(watched: WatchedRun) -> None:
    result = watched.result
    # Every rank waits for the others in some exchange; what it waited is a part of the step.
    assert len(result.waited_for_ranks) == 2
    for data, waits in zip(result.waited_for_data, result.waited_for_ranks, strict=True):
        assert waits is not None and data >= 0.0 and waits > 0.0
    lines = (watched.out / "log.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records] == [2, 3]
    for record in records:
        assert record["bytes_sent_per_step"] == max(result.bytes_sent_per_step)
        assert record["bytes_read_per_step"] == max(result.bytes_read_per_step)
        assert 0.0 < record["waited_for_ranks"] < 2 * record["seconds_per_step"]
        assert record["predicted_seconds_per_step"] > 0.0
        assert record["flops_per_second"] == pytest.approx(
            max(result.flops_per_step) / record["seconds_per_step"]
        )
        assert 0 < record["memory_bytes"] <= record["peak_memory_bytes"]


def test_a_profile_names_the_parts_of_a_step_and_every_exchange(watched: WatchedRun) -> None:
    for rank in (0, 1):
        path = watched.out / "profile" / f"steps-2-2-rank-{rank:05d}.json.gz"
        with gzip.open(path) as file:
            events = json.load(file)["traceEvents"]
        names = Counter(event["name"] for event in events if event.get("ph") == "X")
        for part in ("wait for samples", "forward", "backward", "optimizer"):
            assert names[part] == 1
        # 8 rows of 2 samples, and half of 16 channels of 4 bytes.
        assert names["all-gather over tensor (blocks.0.1.contract, forward), 512 bytes"] == 1
        assert names["all-reduce over tensor (loss and norm of the gradient), 32 bytes"] == 1
        exchanges = [name for name in names if re.match(r"(all|reduce)-.* over tensor", name)]
        begun = sum(names[name] for name in exchanges)
        assert begun == watched.result.exchanges_per_step[rank]
        assert all(names[f"wait for {name}"] == names[name] for name in exchanges)
        assert all(re.search(r" \(.+\), \d+ bytes$", name) for name in exchanges)


def test_each_rank_notes_where_it_ran_and_what_its_steps_took(watched: WatchedRun) -> None:
    for rank in (0, 1):
        path = watched.out / "ranks" / f"rank-{rank:05d}.log"
        begin, *steps, end = path.read_text("utf-8").splitlines()
        assert f"rank {rank} of 2 (data 0 of 1, domain 0 of 1, tensor {rank} of 2)" in begin
        for fact in (socket.gethostname(), "device cpu", f"torch {torch.__version__}", "process "):
            assert fact in begin
        assert [line.split()[1:3] for line in steps] == [["step", "2:"], ["step", "3:"]]
        assert all("s for samples and" in line and " bytes, at most " in line for line in steps)
        assert end.endswith("ended after step 3")

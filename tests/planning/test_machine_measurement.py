"""Measuring a machine: what comes out is a machine, and says where it changed meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from support.ranks import Pool
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.launch.environment import RankInfo
from weathermixer.planning import block_timing, device_timing, machine_measurement
from weathermixer.planning.block_timing import waiting_seconds
from weathermixer.planning.link_timing import measure_link
from weathermixer.planning.machine import Computing, Link
from weathermixer.planning.machine_files import find_machine, read_machine, write_machine
from weathermixer.planning.machine_measurement import measure_machine, noise_warning


def link_of(mesh: Mesh) -> Link:
    return measure_link(mesh.tensor, torch.device("cpu"))


@pytest.fixture
def little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_timing, "_ELEMENTS", (1 << 12, 1 << 14))
    monkeypatch.setattr(device_timing, "_POOL_BYTES", 1 << 20)
    monkeypatch.setattr(block_timing, "_BUDGET_SECONDS", 0.05)
    monkeypatch.setattr(machine_measurement, "_SIZES", {"cpu": (32, 64)})
    monkeypatch.setattr(machine_measurement, "_TYPES", {"cpu": ("float32",)})


@pytest.mark.usefixtures("little_work")
def test_one_rank_measures_a_machine_that_is_read_back(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    shown: list[tuple[int, int]] = []
    try:
        measured = measure_machine(RankInfo(), tmp_path, lambda *done: shown.append(done))
    finally:
        torch.set_num_threads(threads)
    write_machine(measured, tmp_path / "machine.yaml")
    assert read_machine(tmp_path / "machine.yaml") == measured
    assert measured.ranks_per_node == 1 and measured.between_nodes is None
    assert {part.ranks for part in measured.computing} == {1}
    kinds = {"copy", "transpose", "activation", "activation_backward", "norm", "norm_backward"}
    for part in measured.computing:
        # What is left of a step of blocks may be nothing, where other work took the processor.
        assert set(part.work) == {*kinds, "optimizer"} and part.launch_seconds >= 0.0
    assert measured.spread is not None and measured.spread >= 0.0
    assert shown[0][0] == 0 and shown[-1][0] == shown[-1][1]
    assert [path.name for path in tmp_path.iterdir()] == ["machine.yaml"]


@pytest.mark.exhaustive
@pytest.mark.usefixtures("little_work")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        with pytest.raises(UserError, match=r"reading cannot be measured in .*absent"):
            measure_machine(RankInfo(), tmp_path / "absent", lambda *_: None)
    finally:
        torch.set_num_threads(threads)


def test_ranks_measure_what_they_exchange(pool: Pool) -> None:
    for link in pool.run(link_of, Layout(tensor=2)):
        # One host's processors carry the bytes.
        assert link.carried_by_processors
        assert 0.0 < link.latency_seconds < 1.0
        assert all(rate > 0.0 for rate in link.messages.rates)
        assert link.slowdown >= 1.0


def waits_of(mesh: Mesh) -> tuple[float, float]:
    """What ranks seem to wait on a machine that does everything at once, and on a slow one."""
    at_once, slow = (
        find_machine("processors").model_copy(update={"computing": (computing,)})
        for computing in (_computing(rate=1e30), _computing(rate=1.0))
    )
    device = torch.device("cpu")
    return (
        waiting_seconds(mesh, 37, at_once, device, is_between_nodes=False),
        waiting_seconds(mesh, 37, slow, device, is_between_nodes=False),
    )


def _computing(*, rate: float) -> Computing:
    rates = {"sizes": [1.0], "rates": [rate]}
    link = {"latency_seconds": 0.0, "messages": rates, "source": "made up"}
    products = {"float32": {**rates, "peak": rate, "source": "made up"}}
    return Computing.model_validate(
        {
            "products": products,
            "memory_bytes_per_second": rate,
            "launch_seconds": 0.0,
            "launches_ahead": False,
            "within_node": {**link, "carried_by_processors": True},
            "source": "made up",
        }
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("layout", [Layout(tensor=3), Layout(domain=2, tensor=2)], ids=str)
def test_what_is_left_of_a_step_of_blocks_is_waiting(pool: Pool, layout: Layout) -> None:
    """37 tokens and channels can be cut evenly neither into two nor into three."""
    for everything, nothing in pool.run(waits_of, layout):
        assert 0.0 < everything < 10.0
        assert nothing == 0.0


def test_a_machine_that_changed_is_spoken_of_with_the_spread() -> None:
    steady = find_machine("h100").model_copy(update={"spread": 0.05})
    assert noise_warning(steady) is None
    changed = steady.model_copy(update={"spread": 0.234})
    assert "lay 23% apart" in str(noise_warning(changed))

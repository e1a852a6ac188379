"""What a rank really holds at the peak of a training step, beside what is predicted of it."""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from typing import Any

import process_counters
import torch
from harness import Rank
from torch import Tensor

from weathermixer.config import Parallel, Training
from weathermixer.forecast.memory import return_freed_memory
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh, connect
from weathermixer.model.architecture import Architecture
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.model.cuts import Part, build, describe
from weathermixer.planning.step_memory import step_memory
from weathermixer.training.state import TrainingState
from weathermixer.training.step import Objective, take_step


@dataclass(frozen=True)
class Case:
    """A training whose memory is measured."""

    name: str
    architecture: Architecture
    layout: Layout
    training: Training
    parallel: Parallel


@dataclass(frozen=True)
class PeakRow:
    """Bytes of the rank with the most at the peak of a step: predicted, and measured in two ways.

    ``resident`` is how much the process's memory grew from before the network was made, after a
    tiny one had taken a step. ``allocated`` is what PyTorch's allocator gave out, to tensors and to
    kernels: known of one rank, since the profiler does not see what other threads give back.
    """

    case: str
    predicted: int
    resident: int | None
    allocated: int | None

    @property
    def errors(self) -> dict[str, float]:
        """Relative errors of the prediction, by what it is compared with."""
        measured = {"resident": self.resident, "allocated": self.allocated}
        return {name: self.predicted / value - 1.0 for name, value in measured.items() if value}


def measure_peaks(rank: Rank, cases: list[Case]) -> list[PeakRow]:
    """Measure every case; each has as many ranks as there are."""
    rows = []
    for case in cases:
        mesh = connect(case.layout, device=rank.device)
        predicted = max(rank.gather(_predicted(case, mesh.layout)))
        tiny = replace(case.architecture, channels=16, token_hidden=16, channel_hidden=16)
        _take_steps(replace(case, architecture=tiny), mesh, rank)
        resident = allocated = None
        if rank.device.type == "cpu":
            gc.collect()
            return_freed_memory()
            before = process_counters.current_bytes(rank.device)
            _take_steps(case, mesh, rank)
            resident = max(rank.gather(process_counters.peak_bytes(rank.device) - before))
        if rank.world_size == 1 or rank.device.type != "cpu":
            gc.collect()  # what is let go of while it is measured was not seen to be given out
            with _Allocations(rank.device) as allocations:
                _take_steps(case, mesh, rank, allocations)
            allocated = max(rank.gather(allocations.peak))
        rows.append(PeakRow(case.name, predicted, resident, allocated))
    return rows


def _predicted(case: Case, layout: Layout) -> int:
    arithmetic = Arithmetic.of(case.training.dtype)
    model = describe(
        case.architecture,
        Mesh.describe(layout),
        samples=case.training.instance_batch,
        arithmetic=arithmetic.products,
        recompute=bool(case.training.recompute),
    ).to(arithmetic.states)
    memory = step_memory(
        model,
        samples=case.training.instance_batch,
        rollout=case.training.longest_rollout,
        sharded=case.parallel.shard_optimizer,
        gradient_bytes=2 if case.parallel.gradient_dtype else None,
    )
    return memory.peak - memory.read_ahead  # nothing is read here


def _take_steps(
    case: Case, mesh: Mesh, rank: Rank, allocations: _Allocations | None = None
) -> None:
    """Build the network and take steps, of which the last is measured."""
    a, training = case.architecture, case.training
    arithmetic = Arithmetic.of(training.dtype)
    part = Part.on(mesh, a)
    channels, static = _size(part.channels), _size(part.static)
    latitudes, longitudes = a.grid[0], _size(part.longitudes)
    model = build(
        a,
        mesh,
        seed=0,
        increment_scale=torch.ones(channels),
        samples=training.instance_batch,
        dtype=arithmetic.states,
        arithmetic=arithmetic.products,
        recompute=bool(training.recompute),
    )
    state = TrainingState.initial(model, mesh, training, case.parallel)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=arithmetic.states, device=rank.device)

    samples = (training.instance_batch, training.longest_rollout + 1)
    states = draw(*samples, channels, latitudes, longitudes)
    share = 1.0 / mesh.layout.world_size
    weights = torch.ones(channels, latitudes, 1, dtype=arithmetic.states, device=rank.device)
    objective = Objective(draw(static, latitudes, longitudes), weights, share)
    take_step(state, mesh, training, states, objective)
    rank.meet()
    if rank.device.type == "cpu":
        process_counters.reset_peak(rank.device)
    if allocations is not None:
        allocations.begin()
    take_step(state, mesh, training, states, objective)
    rank.synchronize()


class _Allocations:
    """The bytes that PyTorch's allocator gives out while entered, to tensors and to kernels."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._profile: Any = None
        self._base = 0
        self.peak = 0

    def __enter__(self) -> _Allocations:
        if self._device.type == "cpu":
            self._profile = torch.autograd.profiler.profile(profile_memory=True, use_kineto=True)
            self._profile.__enter__()
        else:
            torch.accelerator.synchronize()
            self._base = torch.accelerator.memory_allocated()
        return self

    def begin(self) -> None:
        """Measure the peak from here on."""
        if self._profile is None:
            torch.accelerator.synchronize()
            torch.accelerator.reset_peak_memory_stats()
            return
        with torch.profiler.record_function(_MARK):
            pass

    def __exit__(self, *details: object) -> None:
        if self._profile is None:
            torch.accelerator.synchronize()
            self.peak = torch.accelerator.max_memory_allocated() - self._base
            return
        self._profile.__exit__(None, None, None)
        events = sorted(self._profile.kineto_results.events(), key=lambda event: event.start_ns())
        held, begun = 0, False
        for event in events:
            begun |= event.name() == _MARK
            if event.name() == "[memory]" and "CPU" in str(event.device_type()):
                held += event.nbytes()
                if begun:
                    self.peak = max(self.peak, held)


_MARK = "the step that is measured"


def _size(part: slice) -> int:
    return int(part.stop - part.start)

"""What a training takes on every mesh of so many ranks of a machine, and which mesh is best.

Meshes are compared by the time of a sample, since replicas take more samples in a step. A scheme
is a function that describes a step; whatever describes one is planned for alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from weathermixer.config import Config, Recompute
from weathermixer.data.channels import names, predicted_channels
from weathermixer.data.states import States
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout, LayoutError, layouts
from weathermixer.model.architecture import Architecture
from weathermixer.planning.jigsaw_step import describe_jigsaw
from weathermixer.planning.machine import Machine
from weathermixer.planning.reading_share import reading_costs
from weathermixer.planning.schemes import OTHER_SCHEMES
from weathermixer.planning.small_scales_work import require_room
from weathermixer.planning.step_kind import StepKind, require_whole_pools
from weathermixer.planning.step_memory import SAFE_SHARE, fits
from weathermixer.planning.step_phases import describe_rank, step_phases
from weathermixer.planning.step_time import StepTime, StepTimer


class DescribedStep(Protocol):
    """A step under some scheme on one mesh; of each figure, that of the rank with the most."""

    @property
    def operations(self) -> float: ...
    @property
    def bytes_sent(self) -> float: ...
    @property
    def messages(self) -> float: ...
    @property
    def calls(self) -> float: ...
    @property
    def bytes_read(self) -> float: ...
    @property
    def memory_bytes(self) -> float: ...

    def seconds(self, timer: StepTimer, *, loads: bool = True) -> StepTime:
        """The seconds of the step."""
        ...


Describe = Callable[[Architecture, Layout, StepKind, Machine], DescribedStep]

SCHEMES: Mapping[str, Describe] = {
    "jigsaw": describe_jigsaw,
    **{name: scheme.describe for name, scheme in OTHER_SCHEMES.items()},
}
"""How a step is described, by the names that ``--scheme`` takes."""


@dataclass(frozen=True)
class Candidate:
    """A mesh, and a step on it. ``efficiency`` is relative to the fewest ranks that are enough.

    ``joules`` are those of all ranks in a step, where the machine's power is known; ``recompute``
    is what is computed again in the backward pass, as ``training.recompute`` has it, and
    ``samples_at_once`` are those of an instance that go through the network together.
    ``amplification`` is how many times as many bytes the rank that fetches the most has from
    storage as the one with the largest share reads of it, since chunks come whole.
    """

    layout: Layout
    step: DescribedStep
    time: StepTime
    samples: int
    peak_fraction: float
    fits: bool
    joules: float | None
    recompute: Recompute
    samples_at_once: int = 1
    efficiency: float | None = None
    amplification: float = 1.0

    @property
    def bytes_fetched(self) -> float:
        """Bytes of chunks that a rank fetches from storage for the samples of a step."""
        return self.amplification * self.step.bytes_read

    @property
    def sample_seconds(self) -> float:
        """Seconds for each sample of a step."""
        return self.time.total / self.samples

    def to_json(self) -> dict[str, Any]:
        """The candidate as an object of JSON."""
        return {
            "layout": layout_json(self.layout),
            "memory_bytes_per_rank": round(self.step.memory_bytes),
            "bytes_sent_per_rank": round(self.step.bytes_sent),
            "messages_per_rank": round(self.step.messages),
            "exchanges_per_rank": round(self.step.calls),
            "bytes_read_per_rank": round(self.step.bytes_read),
            "bytes_fetched_per_rank": round(self.bytes_fetched),
            "flops_per_rank": round(self.step.operations),
            "seconds_per_step": self.time.total,
            "samples_per_step": self.samples,
            "samples_at_once": self.samples_at_once,
            "seconds": {
                "compute": self.time.compute,
                "exchange_exposed": self.time.exchange_exposed,
                "read_exposed": self.time.read_exposed,
                "overhead": self.time.overhead,
            },
            "peak_fraction": self.peak_fraction,
            "efficiency": self.efficiency,
            "joules_per_step": self.joules,
            "fits": self.fits,
            "recompute": self.recompute,
        }


@dataclass(frozen=True)
class Plan:
    """Every mesh of so many ranks, the best first, and why others are not among them.

    ``refused`` holds the meshes that cannot be, each with the reason; ``states_path`` is where
    samples come from, where that is known.
    """

    candidates: tuple[Candidate, ...]
    refused: Mapping[Layout, str]
    machine: Machine
    scheme: str
    gpus: int
    states_path: Path | str | None = None

    @property
    def best(self) -> Candidate | None:
        """The fastest of what fits; None where nothing does."""
        return next((candidate for candidate in self.candidates if candidate.fits), None)

    def require_fit(self) -> Candidate:
        """The fastest of what fits; UserError, with what would make it fit, where nothing does."""
        if self.best is not None:
            return self.best
        least = min(self.candidates, key=lambda candidate: candidate.step.memory_bytes)
        held = self.machine.memory_of(ranks=self.gpus)
        remedies = "parallel.shard_optimizer with replicas,"
        if least.recompute == "none":
            remedies = f"training.recompute, {remedies}"
        if least.samples_at_once > 1:
            remedies = f"a smaller training.micro_batch, {remedies}"
        raise UserError(
            f"the model fits on no mesh of {self.gpus} ranks of {self.machine.name}: the least, "
            f"{layout_text(least.layout)}, holds {least.step.memory_bytes / 1e9:.3g} GB, above "
            f"{100 * SAFE_SHARE:.0f}% of the {held / 1e9:.3g} GB that a rank has; use more ranks, "
            f"{remedies} or a smaller model"
        )

    def to_json(self) -> dict[str, Any]:
        """The plan as an object of JSON."""
        return {
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "best": None if self.best is None else layout_json(self.best.layout),
            "machine": self.machine.name,
            "scheme": self.scheme,
        }


@dataclass(frozen=True)
class Planner:
    """Plans trainings of one configuration on one machine.

    Where it does not ``loads`` samples, reading takes no time. ``threads`` are those of each rank,
    where ranks compute on processors. Of the ``states``, where they are known, chunks are fetched
    whole by each rank that owns a piece of one; else each rank fetches what it owns.
    """

    config: Config
    architecture: Architecture
    machine: Machine
    scheme: str = "jigsaw"
    loads: bool = True
    threads: int | None = None
    states: States | None = None

    def plan(self, gpus: int, *, only: Layout | None = None) -> Plan:
        """Plan every mesh of so many ranks, or ``only`` one.

        Raises LayoutError where no mesh of so many ranks leaves each of them something to do, and
        UserError where the one has another number of ranks, or the machine lacks what is needed.
        """
        if only is not None and only.world_size != gpus:
            raise UserError(
                f"the mesh {layout_text(only)} has {only.world_size} ranks, and the plan is for "
                f"{gpus}: change one of the two"
            )
        found: list[Candidate] = []
        refused: dict[Layout, str] = {}
        for layout in [only] if only else all_layouts(gpus):
            try:
                found.append(self.candidate(layout))
            except LayoutError as error:
                refused[layout] = str(error)
        if not found:
            first = next(iter(refused.values()))
            raise LayoutError(f"no mesh of {gpus} ranks is possible ({first})")
        found.sort(key=lambda candidate: (not candidate.fits, candidate.sample_seconds))
        base = self._base(found, gpus)
        if base is not None:
            found = [
                replace(
                    candidate,
                    efficiency=base / (candidate.sample_seconds * gpus),
                )
                for candidate in found
            ]
        path = None if self.states is None else self.states.path
        return Plan(tuple(found), refused, self.machine, self.scheme, gpus, path)

    def candidate(self, layout: Layout) -> Candidate:
        """A step on one mesh, without its efficiency; LayoutError where there can be none.

        Where the training leaves it open, what is recomputed is what takes the least time of all
        that fits, and nothing where it fits without.
        """
        wanted = self.config.training.recompute
        candidate = self._candidate(layout, recompute=wanted or "none")
        if wanted is not None or candidate.fits:
            return candidate
        others = [self._candidate(layout, recompute=each) for each in self._ways_to_recompute()]
        fitting = [each for each in others if each.fits]
        if fitting:
            return min(fitting, key=lambda each: each.time.total)
        return min(others, key=lambda each: each.step.memory_bytes)

    def _ways_to_recompute(self) -> tuple[Recompute, ...]:
        """What may be computed again to save memory: of one application, nothing by stage."""
        has_stages = self.config.training.longest_rollout > 1
        return ("blocks", "stages") if has_stages and self.scheme == "jigsaw" else ("blocks",)

    def _candidate(self, layout: Layout, *, recompute: Recompute) -> Candidate:
        training, ranks = self.config.training, layout.world_size
        require_whole_pools(training, layout)
        require_room(training, layout, self.architecture)
        kind = self.kind(recompute=recompute)
        step = SCHEMES[self.scheme](self.architecture, layout, kind, self.machine)
        amplification = self._amplification(layout)
        timer = StepTimer(self.machine, ranks, self.threads, amplification)
        time = step.seconds(timer, loads=self.loads)
        power, joules = self.machine.power, None
        if power is not None:
            waits = time.total - time.compute
            joules = ranks * (power.computing_watts * time.compute + power.waiting_watts * waits)
        return Candidate(
            layout,
            step,
            time,
            samples=training.instance_batch * layout.data // training.pool,
            peak_fraction=timer.peak_fraction(step.operations, time.total, kind.dtype),
            fits=fits(step.memory_bytes, self.machine.memory_of(ranks=ranks)),
            joules=joules,
            recompute=recompute,
            samples_at_once=training.samples_at_once,
            amplification=amplification,
        )

    def _amplification(self, layout: Layout) -> float:
        """Bytes that are fetched for each that is read, where these are those of the most."""
        if self.states is None:
            return 1.0
        channels = names(predicted_channels(self.config.data))
        # Under other schemes a rank reads whole states.
        corners = layout.corners() if self.scheme == "jigsaw" else [Layout()]
        costs = reading_costs(self.states, channels, self.architecture, corners)
        most_fetched = max(cost.touched_bytes for cost in costs)
        return most_fetched / max(cost.wanted_bytes for cost in costs)

    def forward_seconds(self, layout: Layout) -> float:
        """Seconds of a forward pass of one sample on a mesh, as a forecast takes one."""
        advance = self.config.training.shortest_advance
        kind = replace(
            self.kind(recompute="none"),
            samples=1,
            micro_batch=1,
            rollout=1,
            latent=advance,
            members=1,
            pool=1,
            small_scales=False,
        )
        model = describe_rank(self.architecture, layout, kind, self.machine)
        timer = StepTimer(self.machine, layout.world_size, self.threads)
        forward, *_ = step_phases(model, layout, kind, self.machine)
        return timer.phase(forward).total

    def kind(self, *, recompute: Recompute) -> StepKind:
        """The step that most of the training's steps are, with some of it recomputed."""
        return StepKind.of(self.config.training, self.config.parallel, recompute=recompute)

    def _base(self, found: Iterable[Candidate], gpus: int) -> float | None:
        """Rank-seconds for a sample on the fewest ranks that hold one instance, or one pool."""
        for ranks in range(1, gpus + 1):
            if gpus % ranks:
                continue
            candidates = found if ranks == gpus else self._of_one_pool(ranks)
            times = [each.sample_seconds for each in candidates if each.fits]
            if times:
                return min(times) * ranks
        return None

    def _of_one_pool(self, ranks: int) -> list[Candidate]:
        """Meshes of so many ranks on which one sample is learned from, whole, at a time."""
        found: list[Candidate] = []
        replicas = self.config.training.pool
        if ranks % replicas:
            return found
        for layout in layouts(ranks // replicas, data=replicas):
            try:
                found.append(self.candidate(layout))
            except LayoutError:
                continue
        return found


def all_layouts(ranks: int) -> list[Layout]:
    """Every mesh of so many ranks, that with the fewest replicas first.

    >>> [(each.data, each.domain, each.tensor) for each in all_layouts(2)]
    [(1, 2, 1), (1, 1, 2), (2, 1, 1)]
    """
    return [
        layout
        for data in range(1, ranks + 1)
        if ranks % data == 0
        for layout in layouts(ranks // data, data=data)
    ]


def layout_json(layout: Layout) -> dict[str, int]:
    """A mesh as an object of JSON."""
    return {"data": layout.data, "domain": layout.domain, "tensor": layout.tensor}


def layout_text(layout: Layout) -> str:
    """A mesh as people read it, and as ``--layout`` takes it.

    >>> layout_text(Layout(data=4, domain=2, tensor=1))
    '4x2x1'
    """
    return f"{layout.data}x{layout.domain}x{layout.tensor}"

"""What a scaling experiment measures: contenders, each on one mesh, with what is planned for it.

Pure arithmetic on a configuration and a machine; no process is started here.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from weathermixer.config import Config, Parallel
from weathermixer.data.states import States
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture, architecture_of
from weathermixer.model.cuts import describe
from weathermixer.planning.jigsaw_step import JigsawStep
from weathermixer.planning.machine import Machine
from weathermixer.planning.plan import Candidate, Plan, Planner, layout_text
from weathermixer.planning.step_cost import possible_layouts, step_cost
from weathermixer.planning.step_kind import StepKind, usual_lengths
from weathermixer.planning.step_time import StepTimer

Kind = Literal["strong", "weak", "roofline"]
Contender = Literal["jigsaw", "as configured", "plain", "ddp", "fsdp"]
Growth = Literal["replicas", "width"]

_WIDTH_STEP = 8  # of the latent channels of networks that grow or shrink
_FEWEST_STEPS = 100  # of a training: more than are measured
_ROOFLINE_WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1, 2)  # of the configuration's latent channels


@dataclass(frozen=True)
class Case:
    """A contender on a mesh: its settings, and what a step of it is planned to take.

    ``jigsaw`` runs on the mesh that planning chooses, and where ``parallel`` fixes another one,
    ``as configured`` on that; ``plain`` is the network on one rank in plain PyTorch, which ``ddp``
    and ``fsdp`` replicate. ``growth`` says what grows with the ranks in weak scaling, and is None
    on the fewest ranks. ``config`` is the configuration with the mesh, batch, width and arithmetic
    of the case. ``operations`` are those of the network for all samples of a step, as one rank
    would perform them; what is ``planned`` is of the rank with the most.
    """

    contender: Contender
    layout: Layout
    config: Config
    operations: float
    planned_seconds: float
    planned_operations: float
    planned_bytes_sent: float
    planned_bytes_moved: float | None
    growth: Growth | None = None

    @property
    def ranks(self) -> int:
        """Ranks that take part."""
        return self.layout.world_size

    @property
    def samples(self) -> int:
        """Samples of a step, of all ranks together."""
        return self.config.training.instance_batch * self.layout.data

    @property
    def key(self) -> str:
        """What tells the case from the others of its experiment."""
        dtype, channels = self.config.training.dtype, self.config.model.channels
        parts = [self.contender, layout_text(self.layout), f"{channels} channels", dtype]
        return ", ".join([*parts, *([self.growth] if self.growth else [])])


@dataclass(frozen=True)
class Experiment:
    """A kind of scaling of the network of ``config`` on a ``grid``, on each number of ranks.

    ``machine`` is what is planned for, ``threads`` those of each rank where ranks share processors,
    and ``states`` those that are read, where their chunks matter.
    """

    kind: Kind
    counts: tuple[int, ...]
    config: Config
    grid: tuple[int, int]
    machine: Machine
    threads: int | None = None
    states: States | None = None

    def cases(self) -> tuple[list[Case], list[str]]:
        """What is measured, and in a sentence each what is left out and why.

        Raises UserError where a number of ranks has no mesh or is no multiple of the fewest in weak
        scaling, and where the network does not fit.
        """
        left_out: list[str] = []
        cases = {"strong": self._strong, "weak": self._weak, "roofline": self._roofline}
        return list(cases[self.kind](left_out)), left_out

    def _strong(self, left_out: list[str]) -> Iterator[Case]:
        """Cases in which a step takes the same samples, on each number of ranks."""
        parallel = self.config.parallel
        samples = self.config.training.instance_batch * parallel.data
        for ranks in self.counts:
            data = math.gcd(ranks, parallel.data)
            settings = _with(self.config, training={"instance_batch": samples // data})
            chosen = self._fastest(settings, ranks, Parallel(data=data))
            yield chosen
            yield from self._as_configured(ranks, chosen)
            yield from self._peers(settings, ranks, samples, left_out)

    def _weak(self, left_out: list[str]) -> Iterator[Case]:
        """Cases in which every rank has as many operations as one of the fewest ranks has.

        On more ranks they are more replicas with samples of their own, or one wider network.
        """
        fewest = min(self.counts)
        for ranks in self.counts:
            if ranks % fewest:
                raise UserError(
                    f"weak scaling keeps the work of the fewest ranks ({fewest}) on each of them, "
                    f"and {ranks} ranks are no multiple: choose multiples with --ranks"
                )
        data = math.gcd(fewest, self.config.parallel.data)
        settings = self.config
        first = self._fastest(settings, fewest, Parallel(data=data))
        yield first
        yield from self._peers(settings, fewest, first.samples, left_out)
        for ranks in self.counts:
            times = ranks // fewest
            if times == 1:
                continue
            layout = replace(first.layout, data=data * times)
            yield self._case("jigsaw", settings, layout, growth="replicas")
            peers = self._peers(settings, ranks, first.samples * times, left_out, growth="replicas")
            yield from peers
            wide = _with(settings, model={"channels": self._channels_for(times)})
            yield self._fastest(wide, ranks, Parallel(data=data), growth="width")
            yield from self._peers(wide, ranks, first.samples, left_out, growth="width")

    def _roofline(self, left_out: list[str]) -> Iterator[Case]:
        """The network in several widths, in each arithmetic of the machine."""
        own = self.config.model.channels
        widths = {
            max(_WIDTH_STEP, round(factor * own / _WIDTH_STEP) * _WIDTH_STEP)
            for factor in _ROOFLINE_WIDTHS
            if factor != 1
        }
        for ranks in self.counts:
            data = math.gcd(ranks, self.config.parallel.data)
            for dtype in StepTimer(self.machine, ranks, self.threads).computing.products:
                for channels in sorted({*widths, own}):
                    settings = _with(
                        self.config, model={"channels": channels}, training={"dtype": dtype}
                    )
                    try:
                        yield self._fastest(settings, ranks, Parallel(data=data))
                    except UserError as error:
                        if channels == own:
                            raise
                        left_out.append(f"{channels} channels in {dtype}: {error}")

    def _fastest(
        self, config: Config, ranks: int, parallel: Parallel, growth: Growth | None = None
    ) -> Case:
        """Jigsaw on the mesh of least predicted time that fits, of those that ``parallel`` has."""
        layouts = self._layouts(config, ranks, parallel)
        candidates = [self._planned(config, layout) for layout in layouts]
        candidates.sort(key=lambda each: (not each.fits, each.time.total))
        best = Plan(tuple(candidates), {}, self.machine, "jigsaw", ranks).require_fit()
        return self._case("jigsaw", config, best.layout, growth=growth)

    def _as_configured(self, ranks: int, chosen: Case) -> Iterator[Case]:
        """The fastest of the meshes of so many ranks that the configuration leaves, if another."""
        parallel = self.config.parallel
        if parallel.domain is None and parallel.tensor is None:
            return
        try:
            layouts = possible_layouts(
                parallel,
                self._architecture(self.config),
                world_size=ranks,
                training=self.config.training,
            )
        except LayoutError:
            return  # those of other numbers of ranks
        candidates = [self._planned(chosen.config, layout) for layout in layouts]
        best = min(candidates, key=lambda each: (not each.fits, each.time.total))
        if best.layout != chosen.layout:
            yield self._case("as configured", chosen.config, best.layout)

    def _peers(
        self,
        config: Config,
        ranks: int,
        samples: int,
        left_out: list[str],
        *,
        growth: Growth | None = None,
    ) -> Iterator[Case]:
        """What PyTorch itself offers for ``samples`` of a step, as far as it can be planned."""
        contenders: tuple[Contender, ...] = ("ddp", "fsdp") if ranks > 1 else ("plain",)
        layout = Layout(data=ranks)
        for contender in contenders:
            what = f"{contender} on {ranks} ranks"
            if samples % ranks:
                left_out.append(f"{what}: a step's samples ({samples}) do not divide among them")
                continue
            # DistributedDataParallel has the whole optimizer on each rank.
            own = _with(
                config,
                training={"instance_batch": samples // ranks},
                parallel={"shard_optimizer": contender == "fsdp"},
            )
            try:
                candidate = self._planned(own, layout, contender)
            except UserError as error:
                left_out.append(f"{what}: {error}")
                continue
            if not candidate.fits:
                left_out.append(f"{what}: the network does not fit")
                continue
            yield self._case(contender, own, layout, growth=growth)

    def _layouts(self, config: Config, ranks: int, parallel: Parallel) -> Sequence[Layout]:
        try:
            return possible_layouts(
                parallel,
                self._architecture(config),
                world_size=ranks,
                training=config.training,
            )
        except LayoutError as error:
            raise UserError(
                f"{ranks} ranks have no mesh for this network ({error}), or leave {ranks} out of "
                "--ranks"
            ) from error

    def _case(
        self, contender: Contender, config: Config, layout: Layout, *, growth: Growth | None = None
    ) -> Case:
        candidate = self._planned(config, layout, contender)
        step, samples = candidate.step, config.training.instance_batch * layout.data
        usual = usual_lengths(config.training)
        moved = step.bytes_moved if isinstance(step, JigsawStep) else None
        settings = _with(
            config,
            parallel={"data": layout.data, "domain": layout.domain, "tensor": layout.tensor},
            training={
                "rollout": usual.rollout,
                "latent_rollout": usual.latent,
                "recompute": candidate.recompute,
                "steps": max(config.training.steps, _FEWEST_STEPS),
            },
        )
        return Case(
            contender,
            layout,
            settings,
            self._operations(config, samples),
            planned_seconds=candidate.time.total,
            planned_operations=step.operations,
            planned_bytes_sent=step.bytes_sent,
            planned_bytes_moved=moved,
            growth=growth,
        )

    def _planned(
        self, config: Config, layout: Layout, contender: Contender = "jigsaw"
    ) -> Candidate:
        schemes: dict[Contender, str] = {"plain": "ddp", "ddp": "ddp", "fsdp": "fsdp"}
        return self._planner(config, schemes.get(contender, "jigsaw")).candidate(layout)

    def _planner(self, config: Config, scheme: str = "jigsaw") -> Planner:
        return Planner(
            config,
            self._architecture(config),
            self.machine,
            scheme,
            threads=self.threads,
            states=self.states,
        )

    def _architecture(self, config: Config) -> Architecture:
        return architecture_of(config.data, config.model, self.grid)

    def _operations(self, config: Config, samples: int) -> float:
        """Operations of a step for so many samples, without what is computed again."""
        model = describe(self._architecture(config), Mesh.describe())
        kind = StepKind.of(config.training, config.parallel, recompute="none")
        whole = replace(kind, samples=samples, micro_batch=samples)
        return 2.0 * step_cost(model, whole).multiply_adds

    def _channels_for(self, times: int) -> int:
        """Latent channels with which a step has about so many times the operations."""
        own = self.config.model.channels
        wanted = times * self._operations(self.config, 1)

        def operations(channels: int) -> float:
            return self._operations(_with(self.config, model={"channels": channels}), 1)

        # Operations grow in proportion to the width or faster.
        widths = range(own, own * times + _WIDTH_STEP, _WIDTH_STEP)
        above = max(1, bisect.bisect_left(widths, wanted, key=operations))
        return min(widths[above - 1 : above + 1], key=lambda width: abs(operations(width) - wanted))


def _with(config: Config, **sections: dict[str, Any]) -> Config:
    """A configuration with other values in some sections."""
    return config.model_copy(
        update={
            name: getattr(config, name).model_copy(update=values)
            for name, values in sections.items()
        }
    )

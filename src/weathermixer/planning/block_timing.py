"""What a step of mixer blocks takes over what its parts take alone, measured.

Products, passes over memory and messages are measured one by one (``device_timing.py``,
``link_timing.py``). What is left of a step is the host's work for each kernel, and on several ranks
the waits for one another. Both are the difference between a step and the sum of its parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from weathermixer.jigsaw.cutting import parallelize
from weathermixer.jigsaw.layout import Layout, shard
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture
from weathermixer.model.cuts import cuts
from weathermixer.model.mixer import Mixing
from weathermixer.planning.device_timing import seconds_of
from weathermixer.planning.machine import Machine
from weathermixer.planning.step_phases import stack_phases
from weathermixer.planning.step_time import Phase, StepTimer

_BUDGET_SECONDS = 1.0
_REPETITIONS = 20  # the same on all ranks


@dataclass(frozen=True)
class BlockSteps:
    """Forward and backward passes of square blocks on a rank, and what they are made of."""

    run: Callable[[], None]
    phases: list[Phase]

    @classmethod
    def of(
        cls, width: int, num_blocks: int, mesh: Mesh, device: torch.device, machine: Machine
    ) -> BlockSteps:
        """Blocks of so many tokens, channels and hidden features, which ``machine`` counts."""
        architecture = Architecture(
            prognostic=1,
            static=0,
            grid=(1, width),
            patch=(1, 1),
            channels=width,
            blocks=num_blocks,
            token_hidden=width,
            channel_hidden=width,
            dropout=0.0,
            prediction="increment",
        )
        model = mixer_blocks(architecture, mesh, device)
        tokens, channels = (
            len(shard(width, axis.size, axis.index)) for axis in (mesh.domain, mesh.tensor)
        )
        x = torch.randn(tokens, 1, channels, device=device, requires_grad=True)

        def step() -> None:
            model.zero_grad(set_to_none=True)
            model(x).sum().backward()

        phases = stack_phases(model, samples=1, dtype="float32", mesh=mesh, machine=machine)
        return cls(step, phases)


def launch_seconds(machine: Machine, device: torch.device) -> float:
    """Seconds of the host for each kernel, in a step of blocks so small that little else counts.

    ``machine`` says what the kernels take themselves, which an accelerator does meanwhile.
    """
    steps = BlockSteps.of(8, 8, Mesh.describe(Layout()), device, machine)
    timer = StepTimer(machine, ranks=1, threads=torch.get_num_threads())
    themselves = 0.0
    if not timer.computing.launches_ahead:
        themselves = sum(timer.phase(phase).compute for phase in steps.phases)
    taken = seconds_of(steps.run, device, budget_seconds=_BUDGET_SECONDS)
    return max(0.0, taken - themselves) / sum(phase.kernels for phase in steps.phases)


def waiting_seconds(
    mesh: Mesh, width: int, machine: Machine, device: torch.device, *, is_between_nodes: bool
) -> float:
    """Seconds that ranks wait for one another in each call over a link, in a step of blocks.

    All ranks of a model instance of the mesh call this together, and each gets what it saw itself;
    other instances take no part. ``machine`` says what computing and exchanging take, and the
    threads of a rank are those that are set.
    """
    steps = BlockSteps.of(width, 2, _instance(mesh), device, machine)
    timer = StepTimer(machine, mesh.layout.ways, threads=torch.get_num_threads())
    taken = seconds_of(steps.run, device, repetitions=_REPETITIONS)
    calls = sum(
        exchange.calls
        for phase in steps.phases
        for exchange in phase.exchanges
        if exchange.is_between_nodes == is_between_nodes
    )
    return max(0.0, taken - timer.step(steps.phases).total) / calls


def _instance(mesh: Mesh) -> Mesh:
    """The ranks of this rank's model instance alone."""
    layout = mesh.layout
    alone = Layout(domain=layout.domain, tensor=layout.tensor, rank=layout.rank % layout.ways)
    return replace(mesh, layout=alone, data=Mesh.describe(alone).data)


def mixer_blocks(
    architecture: Architecture,
    mesh: Mesh,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """The blocks of a network alone, cut over a mesh, with weights that are not set to anything.

    They map activations ``(tokens, samples, channels)`` to such, of which a rank of the mesh has
    its tokens (``domain``) and its channels (``tensor``).
    """
    blocks = nn.Sequential(
        *(
            nn.Sequential(
                Mixing("tokens", architecture, device), Mixing("channels", architecture, device)
            )
            for _ in range(architecture.blocks)
        )
    )
    table = {
        name.removeprefix("blocks."): cut
        for name, cut in cuts(architecture, mesh).items()
        if name.startswith("blocks.")
    }
    return parallelize(blocks.to(dtype), mesh, table)

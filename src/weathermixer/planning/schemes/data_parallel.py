"""Data parallelism: each rank takes samples of its own. DDP holds all weights, FSDP cuts them.

DDP averages gradients beside the backward pass. FSDP gathers a block's weights before each of its
passes, beside the pass of the block before, and reduce-scatters their gradients. What the first
parts need is waited for.
"""

from __future__ import annotations

from dataclasses import replace

from weathermixer.jigsaw.layout import Layout
from weathermixer.model.architecture import Architecture
from weathermixer.planning.machine import Machine
from weathermixer.planning.schemes.averaging import Averaging
from weathermixer.planning.schemes.description import (
    Scheme,
    StepDescription,
    require_mesh,
    ring,
)
from weathermixer.planning.schemes.plain_network import PlainNetwork
from weathermixer.planning.schemes.plain_tensors import WeightMemory, step_memory_bytes
from weathermixer.planning.step_kind import StepKind
from weathermixer.planning.step_time import Phase


def describe_ddp(
    architecture: Architecture, layout: Layout, kind: StepKind, machine: Machine
) -> StepDescription:
    """A step in which every rank holds all weights; meshes are data × 1 × 1.

    The optimizer may be sharded over the ranks (ZeRO-1): then gradients are reduce-scattered, and
    the weights gathered when they have been updated, which the ranks wait for.
    """
    _require("ddp", layout)
    network = PlainNetwork(architecture, kind)
    weights = network.edge_weights() + architecture.blocks * network.block_weights()
    averaging = Averaging(network, layout.data, machine.ranks_per_node)
    last = architecture.tokens * architecture.token_hidden
    forward, accumulating, backward = network.passes()
    return StepDescription(
        forward=forward,
        accumulating=accumulating,
        backward=backward,
        update=(averaging.update(weights),),
        gradients=averaging.gradients(
            weights - last, calls=4 * architecture.blocks, is_beside=True
        ),
        last_gradients=averaging.gradients(last),
        bytes_read=network.bytes_read(),
        memory_bytes=step_memory_bytes(network, averaging.memory(weights)),
    )


def describe_fsdp(
    architecture: Architecture, layout: Layout, kind: StepKind, machine: Machine
) -> StepDescription:
    """A step in which weights, gradients and optimizer are cut over all ranks.

    Each application gathers the weights of a block, and its backward pass does so again; gradients
    are reduce-scattered when those of all applications are there. What encoder and head have
    belongs to the root, whose weights stay from the first application to the first backward pass,
    and are gathered again for the backward pass of each application before.
    """
    _require("fsdp", layout)
    network = PlainNetwork(architecture, kind)
    encoder, block, head = network.encoder(), network.block(), network.head()
    ranks, blocks, rollout = layout.data, architecture.blocks, kind.rollout
    share = (ranks - 1) / ranks
    on_node, edges, of_block = (
        machine.ranks_per_node,
        network.edge_weights(),
        network.block_weights(),
    )
    weight_bytes = network.weight_bytes
    gradient_bytes = kind.gradient_bytes or weight_bytes

    def with_exchange(
        phase: Phase, weights: int, *, gathers: int = 0, sums: int = 0, is_beside: bool = True
    ) -> Phase:
        """A phase beside which weights come, or gradients go, so many times."""
        num_bytes = weights * share * (gathers * weight_bytes + sums * gradient_bytes)
        exchanges = ring(
            num_bytes, ranks, ranks_of_node=on_node, calls=gathers + sums, is_beside=is_beside
        )
        return replace(phase, exchanges=(*phase.exchanges, *exchanges))

    forward: list[Phase] = []
    backward: list[Phase] = []
    for application in range(rollout):
        first = encoder[0]
        if application == 0:
            first = with_exchange(first, edges, gathers=1, is_beside=False)
        forward.append(with_exchange(first, of_block, gathers=1))
        forward += [with_exchange(block[0], of_block, gathers=1) for _ in range(blocks - 1)]
        forward += [block[0], head[0]]
    for application in reversed(range(rollout)):
        is_last_use, loss = application == 0, head[1]
        if application < rollout - 1:
            loss = with_exchange(loss, edges, gathers=1, is_beside=False)
        backward.append(loss)
        backward.append(with_exchange(block[1], of_block, gathers=1))
        sums = int(is_last_use)
        backward += [
            with_exchange(block[1], of_block, gathers=1, sums=sums) for _ in range(blocks - 1)
        ]
        last = network.encoder(of_state=not is_last_use)[1]
        backward.append(with_exchange(last, of_block, sums=sums))
    weights = edges + blocks * of_block
    return StepDescription(
        forward=tuple(forward),
        backward=tuple(backward),
        update=(network.update(weights / ranks),),
        last_gradients=ring(edges * share * gradient_bytes, ranks, ranks_of_node=on_node),
        bytes_read=network.bytes_read(),
        memory_bytes=step_memory_bytes(
            network,
            fsdp_memory(network, edges=edges, num_blocks=blocks, ranks=ranks),
        ),
    )


def fsdp_memory(network: PlainNetwork, *, edges: int, num_blocks: int, ranks: int) -> WeightMemory:
    """How FSDP holds the weights of so many blocks, and those of ``edges``, over the ranks."""
    block_bytes = network.block_weights() * network.weight_bytes
    edge_bytes = edges * network.weight_bytes
    own = (num_blocks * block_bytes + edge_bytes) / ranks
    return WeightMemory(
        weights=own,
        averages=network.num_averages * own,
        gathered_block=block_bytes if ranks > 1 else 0.0,
        gathered_edges=edge_bytes if ranks > 1 else 0.0,
        kept_share=1.0 / ranks,
    )


def _require(name: str, layout: Layout) -> None:
    require_mesh(
        layout.ways == 1,
        f"the scheme {name} has the mesh 1 × 1 (domain × tensor) alone, on as many replicas as "
        f"there are ranks, not {layout.domain} × {layout.tensor}",
    )


DDP = Scheme("ddp", "data parallelism: each rank holds all weights", describe_ddp)
FSDP = Scheme(
    "fsdp", "fully sharded data parallelism: weights are gathered to be used", describe_fsdp
)

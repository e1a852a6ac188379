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
from weathermixer.planning.schemes.description import (
    Scheme,
    StepDescription,
    require_mesh,
    require_plain_step,
    ring,
)
from weathermixer.planning.schemes.plain_network import PlainNetwork
from weathermixer.planning.step_phases import StepKind
from weathermixer.planning.step_time import Phase


def describe_ddp(
    architecture: Architecture, layout: Layout, kind: StepKind, machine: Machine
) -> StepDescription:
    """A step in which every rank holds all weights; meshes are data × 1 × 1."""
    _require("ddp", layout, kind)
    network = PlainNetwork(architecture, kind)
    encoder, block, head = network.encoder(), network.block(), network.head()
    weights = network.edge_weights() + architecture.blocks * network.block_weights()
    ranks = layout.data
    share = 2.0 * (ranks - 1) / ranks * network.weight_bytes
    last = architecture.tokens * architecture.token_hidden
    on_node = machine.ranks_per_node
    return StepDescription(
        forward=(encoder[0], *[block[0]] * architecture.blocks, head[0]),
        backward=(head[1], *[block[1]] * architecture.blocks, encoder[1]),
        update=(network.update(weights),),
        gradients=ring(
            (weights - last) * share,
            ranks,
            ranks_of_node=on_node,
            calls=4 * architecture.blocks,
            is_beside=True,
        ),
        last_gradients=ring(last * share, ranks, ranks_of_node=on_node),
        bytes_read=network.bytes_read(),
        memory_bytes=(5 if ranks > 1 else 4) * weights * network.weight_bytes
        + network.kept_bytes(),
    )


def describe_fsdp(
    architecture: Architecture, layout: Layout, kind: StepKind, machine: Machine
) -> StepDescription:
    """A step in which weights, gradients and optimizer are cut over all ranks."""
    _require("fsdp", layout, kind)
    network = PlainNetwork(architecture, kind)
    encoder, block, head = network.encoder(), network.block(), network.head()
    ranks, blocks = layout.data, architecture.blocks
    share = (ranks - 1) / ranks * network.weight_bytes
    edges, of_block = network.edge_weights(), network.block_weights()

    def with_exchange(phase: Phase, weights: int, times: int, *, is_beside: bool = True) -> Phase:
        """A phase beside which weights come, or gradients go, so many times."""
        exchanges = ring(
            weights * share * times,
            ranks,
            ranks_of_node=machine.ranks_per_node,
            calls=times,
            is_beside=is_beside,
        )
        return replace(phase, exchanges=(*phase.exchanges, *exchanges))

    # What encoder and head have belongs to the root, which is gathered once, before all else.
    forward = [with_exchange(encoder[0], edges, 1, is_beside=False)]
    forward[0] = with_exchange(forward[0], of_block, 1)
    forward += [with_exchange(block[0], of_block, 1) for _ in range(blocks - 1)]
    forward += [block[0], head[0]]
    backward = [head[1], with_exchange(block[1], of_block, 1)]
    backward += [with_exchange(block[1], of_block, 2) for _ in range(blocks - 1)]
    if blocks == 1:
        backward[1] = block[1]
    backward.append(with_exchange(encoder[1], of_block, 1))
    weights = edges + blocks * of_block
    return StepDescription(
        forward=tuple(forward),
        backward=tuple(backward),
        update=(network.update(weights / ranks),),
        last_gradients=ring(edges * share, ranks, ranks_of_node=machine.ranks_per_node),
        bytes_read=network.bytes_read(),
        memory_bytes=4 * weights * network.weight_bytes / ranks
        + (edges + 2 * of_block) * network.weight_bytes * (ranks > 1)
        + network.kept_bytes(),
    )


def _require(name: str, layout: Layout, kind: StepKind) -> None:
    require_plain_step(name, kind)
    require_mesh(
        layout.ways == 1,
        f"the scheme {name} has the mesh 1 × 1 (domain × tensor) alone, on as many replicas as "
        f"there are ranks, not {layout.domain} × {layout.tensor}",
    )


DDP = Scheme("ddp", "data parallelism: each rank holds all weights", describe_ddp)
FSDP = Scheme(
    "fsdp", "fully sharded data parallelism: weights are gathered to be used", describe_fsdp
)

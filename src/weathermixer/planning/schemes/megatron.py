"""Tensor parallelism with sequence parallelism in the manner of Megatron-LM (arXiv 2205.05198).

Ranks of an instance gather each MLP's input and reduce-scatter its output, and wait for both.
Encoder, decoder, head and norms lie on all of them, which sum their gradients when the backward
pass ends. Over replicas gradients are averaged beside the backward pass.
"""

from __future__ import annotations

from functools import partial

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


def describe(
    architecture: Architecture, layout: Layout, kind: StepKind, machine: Machine
) -> StepDescription:
    """A step under tensor and sequence parallelism; meshes are data × 1 × tensor."""
    require_plain_step("megatron", kind)
    ranks = layout.tensor
    require_mesh(
        layout.domain == 1
        and architecture.tokens % ranks == 0
        and architecture.token_hidden % ranks == 0
        and architecture.channel_hidden % ranks == 0,
        f"Megatron-style parallelism has the meshes 1 × tensor, with tensor a divisor of the "
        f"tokens ({architecture.tokens}) and of the hidden values of tokens "
        f"({architecture.token_hidden}) and channels ({architecture.channel_hidden}), not "
        f"{layout.domain} × {layout.tensor}",
    )
    leaves_node = ranks > machine.ranks_per_node
    network = PlainNetwork(architecture, kind, ranks, leaves_node)
    encoder, block, head = network.encoder(), network.block(), network.head()
    shared = network.edge_weights() + architecture.blocks * network.replicated_block_weights()
    cut = architecture.blocks * (network.block_weights() - network.replicated_block_weights())
    held = shared + cut / ranks
    summed = network.edge_weights() + architecture.blocks * network.norm_weights()
    over_ranks = ring(
        2.0 * summed * network.weight_bytes * (ranks - 1) / ranks,
        ranks,
        ranks_of_node=machine.ranks_per_node,
    )
    replicas = layout.data
    average = partial(
        ring, ranks=replicas, ranks_of_node=max(1, machine.ranks_per_node // layout.ways)
    )
    share = 2.0 * (replicas - 1) / replicas * network.weight_bytes
    last = architecture.tokens * architecture.token_hidden / ranks
    return StepDescription(
        forward=(encoder[0], *[block[0]] * architecture.blocks, head[0]),
        backward=(head[1], *[block[1]] * architecture.blocks, encoder[1]),
        update=(network.update(held),),
        gradients=average((held - last) * share, calls=4 * architecture.blocks, is_beside=True),
        last_gradients=(*over_ranks, *average(last * share)),
        bytes_read=network.bytes_read(),
        memory_bytes=4 * held * network.weight_bytes + network.kept_bytes(),
    )


SCHEME = Scheme(
    "megatron", "tensor and sequence parallelism in the manner of Megatron-LM", describe
)

"""Tensor parallelism with sequence parallelism in the manner of Megatron-LM (arXiv 2205.05198).

Ranks of an instance gather each MLP's input and reduce-scatter its output, and wait for both.
Encoder, decoder, head and norms lie on all of them, which sum their gradients when the backward
pass ends. Over replicas gradients are averaged beside the backward pass; a sharded optimizer is the
"distributed optimizer" of Megatron-LM.
"""

from __future__ import annotations

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
from weathermixer.planning.schemes.plain_tensors import step_memory_bytes
from weathermixer.planning.step_kind import StepKind


def describe(
    architecture: Architecture, layout: Layout, kind: StepKind, machine: Machine
) -> StepDescription:
    """A step under tensor and sequence parallelism; meshes are data × 1 × tensor."""
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
    forward, accumulating, backward = network.passes()
    held = network.edge_weights() + architecture.blocks * network.rank_block_weights()
    summed = network.edge_weights() + architecture.blocks * network.norm_weights()
    over_ranks = ring(
        2.0 * summed * network.weight_bytes * (ranks - 1) / ranks,
        ranks,
        ranks_of_node=machine.ranks_per_node,
    )
    averaging = Averaging(network, layout.data, max(1, machine.ranks_per_node // layout.ways))
    last = architecture.tokens * architecture.token_hidden / ranks
    return StepDescription(
        forward=forward,
        accumulating=accumulating,
        backward=backward,
        update=(averaging.update(held),),
        gradients=averaging.gradients(held - last, calls=4 * architecture.blocks, is_beside=True),
        last_gradients=(*over_ranks, *averaging.gradients(last)),
        bytes_read=network.bytes_read(),
        memory_bytes=step_memory_bytes(network, averaging.memory(held)),
    )


SCHEME = Scheme(
    "megatron", "tensor and sequence parallelism in the manner of Megatron-LM", describe
)

"""Megatron-style, FSDP and DDP, against what real runs of PyTorch's own were counted to send."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.model.architecture import Architecture
from weathermixer.planning.machine_files import find_machine
from weathermixer.planning.schemes import OTHER_SCHEMES, find_scheme
from weathermixer.planning.schemes.description import ring
from weathermixer.planning.schemes.plain_network import PlainNetwork
from weathermixer.planning.step_phases import StepKind
from weathermixer.planning.step_time import StepTimer

RESULTS = Path(__file__).parents[3] / "benchmarks/results/2026-11-22-two-cores.json"
BLOCKS = {"A": (1080, 1080, 540, 3), "B": (1080, 2160, 1080, 3), "L": (4320, 2160, 2160, 1)}
NODES = find_machine("a100-40gb")


def architecture(
    tokens: int, channels: int, token_hidden: int, blocks: int, *, columns: int = 1
) -> Architecture:
    return Architecture(
        prognostic=5,
        static=1,
        grid=(tokens // columns, 2 * columns),
        patch=(1, 2),
        channels=channels,
        blocks=blocks,
        token_hidden=token_hidden,
        channel_hidden=channels,
        dropout=0.0,
        prediction="increment",
    )


def counted() -> list[tuple[str, str, int, float]]:
    """Scheme, blocks, ranks, and megabytes that real runs had to send, rank with the most."""
    records = json.loads(RESULTS.read_text(encoding="utf-8"))
    return [
        (row["scheme"], row["block"], record["ranks"], row["needed_mb"])
        for record in records
        for row in record.get("rows", [])
        if row.get("scheme") in ("megatron", "fsdp2", "ddp") and row["needed_mb"] is not None
    ]


@pytest.mark.parametrize(("scheme", "block", "ranks", "needed_mb"), counted())
def test_blocks_send_what_was_counted_to_the_byte(
    scheme: str, block: str, ranks: int, needed_mb: float
) -> None:
    sizes, num_blocks = BLOCKS[block], BLOCKS[block][3]
    network = PlainNetwork(architecture(*sizes), StepKind(samples=1), ranks)
    share = 4 * (ranks - 1) / ranks
    if scheme == "megatron":
        exchanged = sum(
            exchange.num_bytes for phase in network.block() for exchange in phase.exchanges
        )
        sent = num_blocks * (exchanged + 2 * share * network.norm_weights())
    else:
        times = {"fsdp2": 3, "ddp": 2}[scheme]
        sent = num_blocks * times * share * network.block_weights()
    assert sent == round(needed_mb * 1e6)


@pytest.mark.parametrize(("scheme", "times_blocks", "times_edges"), [("ddp", 2, 2), ("fsdp", 3, 2)])
def test_data_parallel_steps_send_weights_and_gradients(
    scheme: str, times_blocks: int, times_edges: int
) -> None:
    a = architecture(48, 16, 24, 3)
    step = find_scheme(scheme).describe(a, Layout(data=8), StepKind(samples=1), NODES)
    network = PlainNetwork(a, StepKind(samples=1))
    weights = times_blocks * 3 * network.block_weights() + times_edges * network.edge_weights()
    assert step.bytes_sent == pytest.approx(4 * 7 / 8 * weights)


@pytest.mark.parametrize("name", list(OTHER_SCHEMES))
def test_every_scheme_computes_the_same_network(name: str) -> None:
    a = architecture(48, 16, 24, 3, columns=4)
    whole = find_scheme("ddp").describe(a, Layout(), StepKind(samples=1), NODES)
    layout = Layout(tensor=2) if name == "megatron" else Layout()
    step = find_scheme(name).describe(a, layout, StepKind(samples=1), NODES)
    if name != "published":  # which has the channels of ERA5, whatever the network
        assert step.operations * layout.ways == whole.operations
    assert step.seconds(StepTimer(NODES, layout.world_size)).total > 0
    assert step.memory_bytes > 0


def test_meshes_that_a_scheme_does_not_know_are_refused() -> None:
    a = architecture(48, 16, 24, 3)
    for name in ("fsdp", "ddp"):
        with pytest.raises(LayoutError, match="1 × 1"):
            find_scheme(name).describe(a, Layout(domain=2), StepKind(samples=1), NODES)
    with pytest.raises(LayoutError, match="divisor of the tokens"):
        find_scheme("megatron").describe(a, Layout(tensor=5), StepKind(samples=1), NODES)


def test_a_ring_leaves_each_node_once() -> None:
    assert ring(80.0, 1, ranks_of_node=4) == ()
    (inside,) = ring(80.0, 4, ranks_of_node=4)
    assert (inside.num_bytes, inside.is_between_nodes) == (80.0, False)
    inside, leaving = ring(80.0, 8, ranks_of_node=4)
    assert (inside.num_bytes, leaving.num_bytes) == (60.0, 20.0)
    (leaving,) = ring(80.0, 8, ranks_of_node=1)
    assert (leaving.num_bytes, leaving.is_between_nodes) == (80.0, True)

"""Megatron-style, FSDP and DDP, against what real runs of PyTorch's own were counted to send."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from weathermixer.config import Lengths
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.model.architecture import Architecture
from weathermixer.planning.machine_files import find_machine
from weathermixer.planning.schemes import OTHER_SCHEMES, find_scheme
from weathermixer.planning.schemes.description import ring
from weathermixer.planning.schemes.plain_network import PlainNetwork
from weathermixer.planning.step_kind import StepKind
from weathermixer.planning.step_time import StepTimer

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
RESULTS = BENCHMARKS / "results/2026-11-22-two-cores.json"
SCRIPT = BENCHMARKS / "peer_memory.py"
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


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", ["ddp", "fsdp", "megatron"])
def test_a_rollout_multiplies_by_hand(name: str, recompute: bool) -> None:
    a = architecture(48, 16, 24, 3, columns=4)
    kind = StepKind(samples=2, rollout=3, recompute="blocks" if recompute else "none")
    step = find_scheme(name).describe(a, Layout(data=2), kind, NODES)
    block = 48 * 16 * 24 * 2 + 48 * 16 * 16 * 2  # multiply-adds of a forward pass
    encoder, decoder = 48 * 12 * 16, 48 * 32 * 10
    again = recompute * (block - 48 * 16 * 16)  # all but the last map
    passes = 3 * (a.blocks * (3 * block + again) + 3 * decoder) + (3 + 3 + 2) * encoder
    assert step.operations == 2 * 2 * passes
    state = 5 * a.grid[0] * a.grid[1]
    assert step.bytes_read == 2 * (3 + 1) * state * 4


@pytest.mark.parametrize(("name", "block_times", "edge_times"), [("ddp", 2, 2), ("fsdp", 7, 4)])
def test_gradients_of_a_rollout_are_summed_once_and_weights_gathered_for_each_use(
    name: str, block_times: int, edge_times: int
) -> None:
    a = architecture(48, 16, 24, 3)
    kind = StepKind(samples=1, rollout=3)
    step = find_scheme(name).describe(a, Layout(data=8), kind, NODES)
    network = PlainNetwork(a, kind)
    sent = block_times * 3 * network.block_weights() + edge_times * network.edge_weights()
    assert step.bytes_sent == pytest.approx(4 * 7 / 8 * sent)


@pytest.mark.parametrize(("name", "share"), [("ddp", 1), ("fsdp", 8)])
def test_an_average_of_the_weights_is_held_as_they_are(name: str, share: int) -> None:
    a = architecture(48, 16, 24, 3)
    kinds = [StepKind(samples=1), StepKind(samples=1, keeps_average=True)]
    plain, averaged = (find_scheme(name).describe(a, Layout(data=8), kind, NODES) for kind in kinds)
    network = PlainNetwork(a, kinds[0])
    weights = 3 * network.block_weights() + network.edge_weights()
    assert averaged.memory_bytes - plain.memory_bytes == pytest.approx(4 * weights / share, abs=8)
    with pytest.raises(UserError, match="average_decay"):
        find_scheme("published").describe(a, Layout(), kinds[1], NODES)


def test_megatron_gathers_again_in_what_is_recomputed() -> None:
    a = architecture(48, 16, 24, 3)
    kinds = [StepKind(samples=1, rollout=2, recompute=again) for again in ("none", "blocks")]
    plain, again = (
        find_scheme("megatron").describe(a, Layout(tensor=4), kind, NODES).bytes_sent
        for kind in kinds
    )
    # Gathers and reduce-scatters of the tokens in a block, of which the last is not needed again.
    assert again - plain == 2 * 3 * 3 * (48 * 16 * 4 * 3 / 4)


@pytest.mark.parametrize(
    ("name", "layout"), [("ddp", Layout(data=8)), ("megatron", Layout(data=8, tensor=2))]
)
def test_a_sharded_optimizer_sends_as_much_and_holds_its_part_of_the_averages(
    name: str, layout: Layout
) -> None:
    a = architecture(48, 16, 24, 3)
    whole, sharded = (
        find_scheme(name).describe(a, layout, StepKind(samples=1, shards_optimizer=each), NODES)
        for each in (False, True)
    )
    assert sharded.bytes_sent == pytest.approx(whole.bytes_sent)
    network = PlainNetwork(a, StepKind(samples=1), layout.tensor)
    held = a.blocks * network.rank_block_weights() + network.edge_weights()
    assert whole.memory_bytes - sharded.memory_bytes == pytest.approx(8 * held * 7 / 8, abs=2)
    timer = StepTimer(NODES, layout.world_size)
    # A gather that is waited for, instead of half a sum that travels beside the backward pass.
    assert sharded.seconds(timer).exchange_exposed > whole.seconds(timer).exchange_exposed


def test_gradients_of_two_bytes_halve_what_their_sums_send() -> None:
    a = architecture(48, 16, 24, 3)
    wide, narrow = (
        find_scheme("ddp").describe(
            a, Layout(data=4), StepKind(samples=1, gradient_bytes=each), NODES
        )
        for each in (None, 2)
    )
    assert narrow.bytes_sent == pytest.approx(wide.bytes_sent / 2)


def _rolled_out(rollout: int, again: bool) -> StepKind:
    return StepKind(samples=1, rollout=rollout, recompute="blocks" if again else "none")


def test_memory_grows_with_a_rollout_by_what_autograd_keeps_and_recomputing_takes_it_off() -> None:
    a = architecture(480, 160, 240, 3)
    held = {
        (rollout, again): find_scheme("ddp")
        .describe(
            a,
            Layout(),
            StepKind(samples=1, rollout=rollout, recompute="blocks" if again else "none"),
            NODES,
        )
        .memory_bytes
        for rollout in (1, 2, 3)
        for again in (False, True)
    }
    latent, hidden = 480 * 160 * 4, (160 * 240 + 480 * 160) * 4
    # Of a block both inputs of norms, of maps, and what lies between these before GELU and after.
    kept = 3 * (4 * latent + 2 * hidden)
    for again, of_blocks in ((False, kept), (True, 3 * latent)):
        growth = held[3, again] - held[2, again]
        assert of_blocks < growth < of_blocks + 6 * latent
    assert held[1, True] < held[1, False]


@pytest.mark.parametrize(
    "setting",
    [{"rollout": 2}, {"farthest": (Lengths(2),)}, {"recompute": "blocks"},
     {"shards_optimizer": True}, {"gradient_bytes": 2}],
    ids=str,
)  # fmt: skip
def test_what_the_published_code_cannot_do_is_refused(setting: dict[str, Any]) -> None:
    a = architecture(48, 16, 24, 3)
    with pytest.raises(UserError, match=r"published has training\.rollout 1 alone"):
        find_scheme("published").describe(a, Layout(), StepKind(samples=1, **setting), NODES)


def test_points_around_patches_are_mapped_by_the_encoder_of_all_schemes_but_the_published() -> None:
    a = replace(architecture(48, 16, 24, 3, columns=4), patch=(2, 2), overlap=1)
    kind, around = StepKind(samples=2, rollout=2), 5 * 12  # points around a patch of four
    for name in ("ddp", "fsdp", "megatron"):
        with_ring, without = (
            find_scheme(name).describe(each, Layout(), kind, NODES)
            for each in (a, replace(a, overlap=0))
        )
        # Forwards twice; of the state that is read, the gradient of the weight alone.
        passes = 2 + 1 + 2
        more = 2 * 2 * passes * a.tokens * around * 16
        assert with_ring.operations - without.operations == more
    (edges,) = PlainNetwork(a, kind, ranks=2).encoder()[0].exchanges
    assert edges.num_bytes == 2 * a.grid[0] * 5 * 2 * 4
    with pytest.raises(UserError, match=r"nor model\.overlap"):
        find_scheme("published").describe(a, Layout(), StepKind(samples=1), NODES)


def test_smoothing_is_weighed_and_exchanged_by_all_schemes_but_the_published() -> None:
    a = replace(architecture(48, 16, 24, 3, columns=4), smoothing=2)
    smoothed, without = (PlainNetwork(each, StepKind(samples=2), ranks=2) for each in (
        a, replace(a, smoothing=0)
    ))  # fmt: skip
    assert smoothed.head_weights() - without.head_weights() == (5 + 5) * 25 + 5 * a.grid[0] * (
        1 + a.grid[1]
    )
    # Of a state that is data, no gradient goes back.
    for of_state, channels_back in ((False, 5), (True, 5 + 5)):
        head = smoothed.head(of_state=of_state)
        for phase, channels in zip(head, (5 + 5, channels_back), strict=True):
            (edges,) = phase.exchanges
            assert edges.num_bytes == 2 * 2 * a.grid[0] * channels * 2 * 4
    kind = StepKind(samples=2)
    more, less = (
        find_scheme("ddp").describe(each, Layout(), kind, NODES).memory_bytes
        for each in (a, replace(a, smoothing=0))
    )
    assert more > less
    with pytest.raises(UserError, match=r"nor model\.smoothing"):
        find_scheme("published").describe(a, Layout(), StepKind(samples=1), NODES)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "megatron", "published"])
def test_what_jigsaw_alone_exchanges_narrower_is_refused(name: str) -> None:
    kind = StepKind(samples=1, narrows_exchange=True)
    with pytest.raises(UserError, match=r"only the scheme jigsaw .* parallel\.exchange_dtype"):
        find_scheme(name).describe(architecture(48, 16, 24, 3), Layout(), kind, NODES)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "megatron", "published"])
def test_small_scales_in_the_loss_are_refused(name: str) -> None:
    kind = StepKind(samples=1, small_scales=True)
    with pytest.raises(UserError, match=r"only the scheme jigsaw .* training\.small_scales"):
        find_scheme(name).describe(architecture(48, 16, 24, 3), Layout(), kind, NODES)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "megatron", "published"])
def test_pools_of_replicas_that_make_members_together_are_refused(name: str) -> None:
    kind = StepKind(samples=1, error="crps", pool=2)
    with pytest.raises(UserError, match=r"only the scheme jigsaw .* training\.instance_members"):
        find_scheme(name).describe(architecture(48, 16, 24, 3), Layout(data=2), kind, NODES)


@pytest.mark.exhaustive
def test_real_steps_of_others_hold_what_is_planned(tmp_path: Path) -> None:
    record = tmp_path / "peers.json"
    command = [sys.executable, str(SCRIPT), "--small", "--json", str(record)]
    subprocess.run(command, check=True, capture_output=True)
    cases = json.loads(record.read_text(encoding="utf-8"))["cases"]
    assert {case["scheme"] for case in cases} == {"serial", "ddp", "fsdp2", "megatron"}
    for case in cases:
        assert abs(case["predicted"] / case["allocated"] - 1.0) < 0.05, case["scheme"]

"""Traces of the schemes that benchmarks compare: what they compute and send, in closed form."""

from __future__ import annotations

import pytest
import torch

from support.scripts import ROOT
from weathermixer.jigsaw.trace import ExchangeBegun, ExchangeWaited, ProductTaken

TOKENS, CHANNELS, TOKEN_HIDDEN, CHANNEL_HIDDEN, BLOCKS = 24, 16, 12, 20, 2
PARAMETERS = BLOCKS * (
    4 * CHANNELS
    + 2 * TOKENS * TOKEN_HIDDEN
    + TOKENS
    + TOKEN_HIDDEN
    + 2 * CHANNELS * CHANNEL_HIDDEN
    + CHANNELS
    + CHANNEL_HIDDEN
)
MULTIPLY_ADDS = BLOCKS * 3 * 2 * TOKENS * CHANNELS * (TOKEN_HIDDEN + CHANNEL_HIDDEN)
# The norms' gains and shifts, whose gradients Megatron's ranks sum.
SHARED = BLOCKS * 4 * CHANNELS
SMALL_BIASES = BLOCKS * (TOKENS + CHANNELS)


@pytest.mark.parametrize(
    ("scheme", "multiply_adds", "elements_sent"),
    [
        ("copies", MULTIPLY_ADDS, 0),
        ("jigsaw", MULTIPLY_ADDS / 2, None),
        ("jigsaw-waiting", MULTIPLY_ADDS / 2, None),
        # Of two ranks, a gather sends half of an activation, gloo's reduce-scatter all of it.
        ("megatron", MULTIPLY_ADDS / 2, BLOCKS * 4 * 1.5 * TOKENS * CHANNELS + SHARED),
        # Gathered forward and backward, half each; gradients reduce-scattered.
        ("fsdp2", MULTIPLY_ADDS, 2 * PARAMETERS),
    ],
)
def test_a_trace_has_the_products_and_the_bytes_of_the_scheme(
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    multiply_adds: float,
    elements_sent: float | None,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from peers.blocks import BlockSizes
    from peers.jigsaw import cheapest_layout, predicted
    from peers.recording import trace

    sizes = BlockSizes(TOKENS, CHANNELS, TOKEN_HIDDEN, CHANNEL_HIDDEN, BLOCKS, torch.float32)
    if elements_sent is None:
        elements_sent = predicted(sizes, cheapest_layout(sizes, 2)).bytes_sent / 4
    for rank in (0, 1):
        events = trace(scheme, sizes, rank, 2)
        products = [event for event in events if isinstance(event, ProductTaken)]
        assert sum(each.m * each.n * each.k for each in products) == multiply_adds
        begun = [event for event in events if isinstance(event, ExchangeBegun)]
        assert sum(event.bytes_sent for event in begun) == 4 * elements_sent
        waited = [event.number for event in events if isinstance(event, ExchangeWaited)]
        assert sorted(waited) == [event.number for event in begun]

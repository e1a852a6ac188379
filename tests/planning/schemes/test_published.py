"""The published implementation's steps, against what was counted and measured of it."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.model.architecture import Architecture
from weathermixer.planning.machine_files import find_machine
from weathermixer.planning.schemes import find_scheme
from weathermixer.planning.schemes.description import StepDescription
from weathermixer.planning.schemes.published import PublishedStep
from weathermixer.planning.step_kind import StepKind
from weathermixer.planning.step_time import StepTimer

# Megabytes that the busiest rank of their implementation was counted to send for blocks alone.
COUNTED_MB = {
    ("A", 2): 80.5,
    ("B", 2): 182.0,
    ("L", 2): 214.6,
    ("A", 4): 75.2,
    ("B", 4): 213.5,
    ("L", 4): 186.6,
}
BLOCKS = {"A": (1080, 1080, 540, 3), "B": (1080, 2160, 1080, 3), "L": (4320, 2160, 2160, 1)}
MESHES = {1: (1, 1), 2: (1, 2), 4: (2, 2)}
NODES = find_machine("a100-40gb")


def network(tokens: int, channels: int, hidden: int, blocks: int) -> Architecture:
    return Architecture(
        prognostic=69,
        static=3,
        grid=(tokens, 60),
        patch=(1, 60),
        channels=channels,
        blocks=blocks,
        token_hidden=hidden,
        channel_hidden=channels,
        dropout=0.0,
        prediction="state",
    )


def step(architecture: Architecture, ways: int, *, dtype: str = "float32") -> StepDescription:
    domain, tensor = MESHES[ways]
    kind = StepKind(samples=1, dtype="tf32" if dtype == "tf32" else "float32")
    layout = Layout(domain=domain, tensor=tensor)
    return find_scheme("published").describe(architecture, layout, kind, NODES)


@pytest.mark.parametrize(("block", "ways"), list(COUNTED_MB))
def test_blocks_send_what_was_counted(block: str, ways: int) -> None:
    domain, tensor = MESHES[ways]
    layout = Layout(domain=domain, tensor=tensor)
    parts = PublishedStep(network(*BLOCKS[block]), layout, StepKind(samples=1), 4)
    forward, backward = parts.block()
    sent = sum(exchange.num_bytes for phase in forward + backward for exchange in phase.exchanges)
    assert BLOCKS[block][3] * sent / 1e6 == pytest.approx(COUNTED_MB[block, ways], abs=0.05)


@pytest.mark.parametrize(("ways", "of_mean"), [(1, 1.0), (2, 1.0), (4, 4 / 3)])
def test_the_busiest_of_four_ranks_computes_a_third_more_than_the_mean(
    ways: int, of_mean: float
) -> None:
    n, c, h, _ = BLOCKS["A"]
    domain, tensor = MESHES[ways]
    layout = Layout(domain=domain, tensor=tensor)
    forward, backward = PublishedStep(network(n, c, h, 1), layout, StepKind(samples=1), 4).block()
    operations = sum(
        product.operations for phase in forward + backward for product in phase.products
    )
    # Two maps in each of two MLPs, each multiplied three times, two operations a pair.
    assert operations == of_mean * 3 * 2 * (2 * n * h * c + 2 * c * c * n) / ways


def test_a_step_of_one_rank_has_the_operations_of_the_network() -> None:
    n, c, h, blocks = 1080, 240, 540, 2
    maps = blocks * 2 * (n * h * c + n * c * c)
    decoder, head = n * 2 * c * 69 * 60, n * 60 * 138 * 69
    expected = 3 * (maps + decoder + head) + 2 * n * 72 * 60 * c
    assert step(network(n, c, h, blocks), 1).operations == 2 * expected


def test_one_rank_sends_nothing_and_replicas_a_ring_of_gradients() -> None:
    architecture = network(1080, 240, 540, 2)
    assert step(architecture, 1).bytes_sent == 0
    kind = StepKind(samples=1)
    replicated = find_scheme("published").describe(architecture, Layout(data=8), kind, NODES)
    weights = 2 * 2 * (1080 * 540 + 240 * 240) + (72 + 2 * 69) * 60 * 240
    assert replicated.bytes_sent == pytest.approx(2 * 7 / 8 * 4 * weights)
    leaving = sum(each.num_bytes for each in replicated.exchanges if each.is_between_nodes)
    assert leaving == pytest.approx(replicated.bytes_sent / 4)


@pytest.mark.parametrize(
    ("channels", "hidden", "ways", "ran"),
    [
        # Networks among the published runs on 40 GB, and their sizes that are missing there.
        (4896, 0.5, 1, True),
        (6064, 1.0, 1, False),
        (8192, 0.5, 2, True),
        (6064, 1.0, 2, True),
        (10352, 1.0, 2, False),
        (10352, 1.0, 4, True),
    ],
)
def test_what_was_run_fits_and_what_is_missing_does_not(
    channels: int, hidden: float, ways: int, ran: bool
) -> None:
    tokens = 17_280
    architecture = network(tokens, channels, round(hidden * tokens), 3)
    fits = step(architecture, ways).memory_bytes <= 0.85 * NODES.memory_bytes
    assert fits == ran


def test_other_meshes_and_steps_are_refused() -> None:
    published = find_scheme("published")
    architecture = network(1080, 240, 540, 2)
    with pytest.raises(LayoutError, match="1 × 1, 1 × 2 and 2 × 2"):
        published.describe(architecture, Layout(domain=2), StepKind(samples=1), NODES)
    with pytest.raises(UserError, match="rollout 1"):
        published.describe(architecture, Layout(), StepKind(samples=1, rollout=2), NODES)
    given = replace(architecture, forcings=2)
    with pytest.raises(UserError, match=r"neither data\.forcings nor"):
        published.describe(given, Layout(), StepKind(samples=1), NODES)
    with pytest.raises(UserError, match="there is no scheme tensor: choose jigsaw, or one of"):
        find_scheme("tensor")


def test_the_shipped_constants_predict_published_runs(test_data: Path) -> None:
    machine = find_machine("a100-40gb-fitted")
    errors: dict[str, list[float]] = {"C3": [], "C4": []}
    with (test_data / "published_scaling.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            ways, channels = int(row["way"]), int(row["hidden_dim"])
            hidden = round(float(row["spatial_frac"]) * 17_280)
            architecture = Architecture(
                prognostic=69,
                static=3,
                grid=(720, 1440),
                patch=(1, 60),
                channels=channels,
                blocks=3,
                token_hidden=hidden,
                channel_hidden=round(float(row["feature_frac"]) * channels),
                dropout=0.001,
                prediction="state",
            )
            domain, tensor = MESHES[ways]
            layout = Layout(data=int(row["gpus"]) // ways, domain=domain, tensor=tensor)
            kind = StepKind(samples=1, dtype="tf32" if "tf32" in row["precision"] else "float32")
            described = find_scheme("published").describe(architecture, layout, kind, machine)
            timer = StepTimer(machine, layout.world_size)
            seconds = described.seconds(timer, loads=row["loading"] == "load").total
            errors[row["case"][:2]].append(seconds / float(row["sec_per_step"]) - 1.0)
    assert np.median(np.abs(errors["C3"])) < 0.03
    assert np.max(np.abs(errors["C3"])) < 0.10
    assert np.median(np.abs(errors["C4"])) < 0.12

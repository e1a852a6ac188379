"""Weak scaling behind a link: one sample for all ranks, a model that grows with them.

Each rank has a link of its own, and its operations per step stay the same. A step then takes

    max(sample bytes / ways / bandwidth, compute)

where each rank reads its part ahead of the step; the sum of the two where nothing is read ahead;
and where every rank reads whole samples, nothing is divided by the ways.
"""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import MEGABYTE, Rank

from inputs.stepping import TimedTraining, configuration
from inputs.throttle import BURST_SECONDS, Link, open_throttled
from weathermixer.config import Config
from weathermixer.data.feeding.read_ahead import AHEAD, read_ahead
from weathermixer.data.making.synthetic import write_synthetic
from weathermixer.data.store.store import Store
from weathermixer.jigsaw import mesh as meshes
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import architecture_of
from weathermixer.model.cuts import describe
from weathermixer.planning.step_cost import step_cost

MESHES = {1: Layout(), 2: Layout(domain=2), 4: Layout(domain=2, tensor=2)}
GRID = (181, 360)
# Winds alone: their halves compress alike, so that equal parts are equal numbers of bytes.
STATE: dict[str, Any] = {
    "variables": ("u_component_of_wind", "v_component_of_wind"),
    "levels": (100, 200, 300, 400, 500, 700, 850, 1000),
}
TIMES = 12
PATCH = (15, 10)
CHANNELS_OF_ONE_RANK = 256
ROUNDS = 2
STEPS_PER_ROUND = 4
COMPUTE_STEPS = 2  # before each way of reading, in every round

OWN, WHOLE, WAITING = "own part", "whole sample", "own part, nothing ahead"


@dataclass(frozen=True)
class ReadingTime:
    """The median step in one way of reading, and the megabytes a sample that each rank read."""

    reading: str
    bandwidth_mb_per_s: float
    seconds: float
    read_mb: list[float]


@dataclass(frozen=True)
class Ways:
    """What was measured on a mesh of so many ways.

    ``compute_s`` is the median step with one sample repeated; ``share`` is each rank's part of the
    values of a sample.
    """

    ways: int
    channels: int
    gflop_per_rank: list[float]
    compute_s: float
    share: list[float]
    measured: list[ReadingTime]


@dataclass(frozen=True)
class ScalingRow:
    """A way of reading on one mesh, predicted and measured.

    Throughput is of operations per rank, relative to one way that reads in the same manner.
    """

    bandwidth_mb_per_s: float
    reading: str
    ways: int
    compute_s: float
    predicted_s: float
    bound_by: str
    measured_s: float
    predicted_throughput: float
    measured_throughput: float
    read_mb: list[float]
    share_mb: list[float]


def prepare(folder: Path, ways: int) -> Config:
    """Make the store, once, and the configuration of the model for so many ways."""
    store = folder / "scaling.zarr"
    if not store.exists():
        write_synthetic(store, times=TIMES, grid=GRID, **STATE)
    layout = MESHES[ways]
    wanted = ways * _multiply_adds(_configuration(store, layout, CHANNELS_OF_ONE_RANK))
    widths = range(CHANNELS_OF_ONE_RANK, ways * CHANNELS_OF_ONE_RANK + 1, 8)
    place = bisect.bisect_left(
        widths, wanted, key=lambda width: _multiply_adds(_configuration(store, layout, width))
    )
    return _configuration(store, layout, widths[place])


def measure(rank: Rank, config: Config, run: Path, bandwidths: Sequence[float]) -> Ways:
    """Time rounds of a few steps of every way of reading in turn.

    ``bandwidths`` are those of links, in megabytes per second.
    """
    training = TimedTraining(config, run)
    links = {speed: Link(MEGABYTE * speed) for speed in bandwidths}
    readers = {}
    for speed, link in links.items():
        store = open_throttled(Path(config.data.store), link)
        readers[OWN, speed] = training.reader(store)
        if rank.world_size > 1:
            readers[WHOLE, speed] = training.reader(store, whole=True)
    # Once is enough to show what reading ahead is worth.
    readers[WAITING, bandwidths[0]] = readers[OWN, bandwidths[0]]

    unthrottled = training.reader(Store.open(config.data.store))
    (repeated,) = read_ahead(unthrottled, training.plan(1))
    compute: list[float] = []
    seconds: dict[tuple[str, float], list[float]] = {case: [] for case in readers}
    delivered: dict[tuple[str, float], int] = dict.fromkeys(readers, 0)
    num_samples: dict[tuple[str, float], int] = dict.fromkeys(readers, 0)
    for _ in range(ROUNDS):
        for (reading, speed), reader in readers.items():
            compute += training.repeating(repeated, COMPUTE_STEPS).seconds
            ahead = 0 if reading == WAITING else AHEAD
            before = links[speed].delivered_bytes
            steps = training.loading(reader, STEPS_PER_ROUND, whole=reading == WHOLE, ahead=ahead)
            case = reading, speed
            delivered[case] += links[speed].delivered_bytes - before
            num_samples[case] += 1 + STEPS_PER_ROUND + ahead
            seconds[case] += steps.seconds
    return Ways(
        rank.world_size,
        config.model.channels,
        meshes.gather_objects(training.flops_per_step / 1e9),
        statistics.median(compute),
        meshes.gather_objects(training.share),
        [
            ReadingTime(
                reading,
                speed,
                statistics.median(seconds[reading, speed]),
                meshes.gather_objects(
                    delivered[reading, speed] / num_samples[reading, speed] / MEGABYTE
                ),
            )
            for reading, speed in readers
        ],
    )


def tabulate(by_ways: list[Ways]) -> list[ScalingRow]:
    """Put predictions and measurements side by side; the first of ``by_ways`` is one way.

    Predictions know the bytes of a sample as one rank read it, the bandwidth, and the measured
    time of a step without reading.
    """
    single = by_ways[0]
    rows = []
    for alone in single.measured:
        (sample_mb,) = alone.read_mb
        manners = (alone.reading, WHOLE) if alone.reading == OWN else (alone.reading,)
        base_s = predict(alone.reading, sample_mb, 1, alone.bandwidth_mb_per_s, single.compute_s)
        for reading in manners:
            for here in by_ways:
                timed = _find(here, reading if here.ways > 1 else alone.reading, alone)
                predicted_s = predict(
                    reading, sample_mb, here.ways, alone.bandwidth_mb_per_s, here.compute_s
                )
                work = statistics.mean(here.gflop_per_rank) / single.gflop_per_rank[0]
                whole = reading == WHOLE
                rows.append(
                    ScalingRow(
                        alone.bandwidth_mb_per_s,
                        reading,
                        here.ways,
                        here.compute_s,
                        predicted_s,
                        _bound_by(reading, predicted_s, here.compute_s),
                        timed.seconds,
                        work * base_s / predicted_s,
                        work * alone.seconds / timed.seconds,
                        timed.read_mb,
                        [sample_mb * (1.0 if whole else share) for share in here.share],
                    )
                )
    return rows


def predict(
    reading: str, sample_mb: float, ways: int, bandwidth_mb_per_s: float, compute_s: float
) -> float:
    """Predict the seconds of a step."""
    loading_s = sample_mb / bandwidth_mb_per_s / (1 if reading == WHOLE else ways)
    if reading == WAITING:
        # The link is idle while the rank computes, and saves up what it may.
        return max(0.0, loading_s - BURST_SECONDS) + compute_s
    return max(loading_s, compute_s)


def _bound_by(reading: str, predicted_s: float, compute_s: float) -> str:
    if reading == WAITING:
        return "both"
    return "compute" if predicted_s == compute_s else "reading"


def _find(here: Ways, reading: str, like: ReadingTime) -> ReadingTime:
    (timed,) = (
        each
        for each in here.measured
        if (each.reading, each.bandwidth_mb_per_s) == (reading, like.bandwidth_mb_per_s)
    )
    return timed


def _configuration(store: Path, layout: Layout, channels: int) -> Config:
    model = {"patch": PATCH, "channels": channels, "blocks": 1, "token_hidden": 1.0}
    return configuration(store, layout, model=model, **STATE)


def _multiply_adds(config: Config) -> int:
    """The multiply-adds of a training step, over all ranks."""
    grid = Store.open(config.data.store).grid
    architecture = architecture_of(config.data, config.model, grid)
    return step_cost(describe(architecture, Mesh.describe()), samples=1).multiply_adds

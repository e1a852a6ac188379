"""What ``quarter_degree.py`` has every rank measure: memory, reads and writes of a few steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import process_counters
from harness import Rank
from rich.console import Console

from weathermixer.config import Config
from weathermixer.data.store.store import Store
from weathermixer.forecast.forecast import forecast
from weathermixer.jigsaw.layout import Layout
from weathermixer.training.trainer import train

STEPS = 3


@dataclass(frozen=True)
class Footprint:
    """Bytes of memory of a rank above what it had at the start, and of its reads and writes."""

    peak_bytes: int
    read_bytes: int
    written_bytes: int


def of_training(rank: Rank, store: Path, run: Path, layout: Layout) -> list[Footprint]:
    """The footprint of each rank in a training of a few steps."""
    parallel = {"domain": layout.domain, "tensor": layout.tensor}
    config = Config.model_validate(
        {
            "model": {"patch": [20, 60], "channels": 16, "blocks": 1},
            "data": {"store": store},
            "parallel": parallel,
            "training": {"steps": STEPS, "warmup_steps": 1, "instance_batch": 1},
            "logging": {"tensorboard": False},
        }
    )
    before = _now(rank)
    train(config, run, console=Console(quiet=True))
    return rank.gather(_since(before, rank))


def of_forecast(rank: Rank, store: Path, run: Path, out: Path, layout: Layout) -> list[Footprint]:
    """The footprint of each rank in a forecast of a few steps."""
    overrides = [f"parallel.domain={layout.domain}", f"parallel.tensor={layout.tensor}"]
    before = _now(rank)
    forecast(run, store, str(Store.open(store).times[0]), STEPS, out, overrides=overrides)
    return rank.gather(_since(before, rank))


def _now(rank: Rank) -> Footprint:
    return Footprint(
        process_counters.current_bytes(rank.device),
        process_counters.read_bytes(),
        process_counters.written_bytes(),
    )


def _since(before: Footprint, rank: Rank) -> Footprint:
    return Footprint(
        process_counters.peak_bytes(rank.device) - before.peak_bytes,
        process_counters.read_bytes() - before.read_bytes,
        process_counters.written_bytes() - before.written_bytes,
    )

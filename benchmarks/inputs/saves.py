"""A rank that saves its training in two ways by turns, and measures how long each holds it up."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from harness import Rank

from weathermixer.config import Config
from weathermixer.training.loop import TrainingLoop

STEPS_AFTER = 6


def measure(rank: Rank, folder: Path, channels: int, repetitions: int) -> dict[str, Any]:
    """Work for a rank: save by turns in both ways; the figures of the rank with the most."""
    held: dict[str, list[float]] = {"meanwhile": [], "at once": []}
    steps: dict[str, list[float]] = {"alone": [], "beside a write": []}
    config = _config(folder / "states.zarr", channels, rank.world_size)
    with TrainingLoop.begin(config, folder / "run") as loop:
        for _ in range(2):
            loop.step()
        loop.save()  # which takes the memory of the copies
        for _ in range(repetitions):
            for kind, saved in held.items():
                loop.step()
                before = loop.saver.seconds
                if kind == "meanwhile":
                    loop.begin_save()
                else:
                    loop.save()
                for _ in range(STEPS_AFTER):
                    is_writing = loop.saver.is_busy
                    seconds = loop.step().seconds
                    steps["beside a write" if is_writing else "alone"].append(seconds)
                saved.append(loop.saver.seconds - before)
                loop.finish_saving()
        written = sum(file.stat().st_size for file in loop.save().iterdir())
    medians = {name: statistics.median(each or [0.0]) for name, each in {**held, **steps}.items()}
    by_rank = rank.gather(medians)
    return {
        "ranks": rank.world_size,
        "checkpoint_bytes": written,
        "held_up_seconds": {name: max(each[name] for each in by_rank) for name in held},
        "step_seconds": {name: max(each[name] for each in by_rank) for name in steps},
    }


def _config(store: Path, channels: int, ranks: int) -> Config:
    return Config.model_validate(
        {
            "model": {"patch": [4, 4], "channels": channels, "blocks": 4},
            "data": {"store": store},
            "parallel": {"data": 1, "domain": ranks, "tensor": 1},
            "training": {"steps": 10_000, "instance_batch": 1},
        }
    )

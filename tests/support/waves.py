"""A tiny store of waves with a known future, for tests that read or train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import Config
from weathermixer.data.store.store_description import StoreDescription
from weathermixer.data.store.store_writer import StoreWriter

CHANNELS = ("temperature_850", "2m_temperature")
LATITUDE: NDArray[np.float64] = np.linspace(78.75, -78.75, 8)
LONGITUDE = np.arange(16.0) * 22.5
START = np.datetime64("2001-01-01T00:00:00", "s")


def state(
    index: int, *, channels: int = 2, longitudes: int = 16, pulse: float = 0.0
) -> NDArray[np.float32]:
    """Waves that travel east on a warm equator, ``(channel, latitude, longitude)``, K.

    Each channel is warmer and colder everywhere by turns, by ``pulse``.
    """
    number = np.arange(1.0, channels + 1.0)[:, None, None]
    cosine = np.cos(np.deg2rad(LATITUDE))[None, :, None]
    phase = number * (np.arange(longitudes) * (2.0 * np.pi / longitudes) - 0.3 * index)
    mean = 250.0 + pulse * np.sin(0.2 * number * index)
    return (mean + 40.0 * cosine + 5.0 * cosine * np.cos(phase)).astype(np.float32)


def write_waves(
    path: Path,
    *,
    times: int = 60,
    hours: float = 6.0,
    levels: tuple[int, ...] = (850,),
    longitudes: int = 16,
    pulse: float = 0.0,
    diagnostic: tuple[str, ...] = (),
) -> Path:
    """A store of ``times`` states, ``hours`` apart: temperatures on ``levels`` and at 2 m.

    Waves of other lengths follow in channels of precipitation under the names ``diagnostic``.
    """
    step = np.timedelta64(round(hours * 3600), "s")
    when = START + np.arange(times) * step
    channels = (*(f"temperature_{level}" for level in levels), CHANNELS[-1], *diagnostic)
    longitude = np.arange(longitudes, dtype=np.float64) * (360.0 / longitudes)
    static = np.linspace(-1.0, 3.0, 8 * longitudes, dtype=np.float32).reshape(1, 8, longitudes)
    writer = StoreWriter.create(
        path,
        StoreDescription(channels, when, LATITUDE, longitude, hours, ("land_sea_mask",), static),
    )

    def read(index: int) -> NDArray[np.float32]:
        values = state(index, channels=len(channels), longitudes=longitudes, pulse=pulse)
        wet = values[len(channels) - len(diagnostic) :]
        wet[:] = 1e-4 * np.maximum(wet - 260.0, 0.0)
        return values

    for block in writer.missing_blocks():
        for _ in writer.write_block(block, read):
            pass
    writer.finish((when[0], when[times * 4 // 5 - 1]))
    return path


def wave_config(store: Path | str, **sections: dict[str, Any]) -> Config:
    """A network of a few thousand weights that learns the waves in a few hundred steps."""
    training = {
        "steps": 12,
        "warmup_steps": 2,
        "validate_every": 6,
        "validation_samples": 4,
        "instance_batch": 2,
        **sections.pop("training", {}),
    }
    values: dict[str, Any] = {
        "model": {"patch": [4, 4], "channels": 16, "blocks": 2},
        "data": {
            "store": store,
            "variables": ["temperature", "2m_temperature"],
            "levels": [850],
            "static": ["land_sea_mask"],
        },
        "training": training,
        "checkpoint": {"every": 4},
        "logging": {"every": 1, "tensorboard": False},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return Config.model_validate(values)

"""Stores of which a single chunk is missing, so that one rank alone notices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr

CHUNK_LONGITUDES = 4


def remove_chunk(store: Path, *, time: int, channel: int, longitude: int) -> None:
    """Store each channel in chunks of a few longitudes, and remove the one that covers a place."""
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    state: Any = group["state"]
    values = state[...]
    group.create_array(
        "state",
        data=values,
        chunks=(1, 1, values.shape[2], CHUNK_LONGITUDES),
        fill_value=np.nan,
        dimension_names=("time", "channel", "latitude", "longitude"),
        overwrite=True,
    )
    column = longitude // CHUNK_LONGITUDES
    (store / "state" / "c" / str(time) / str(channel) / "0" / str(column)).unlink()

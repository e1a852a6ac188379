"""A network that is small, and that no mesh divides evenly."""

from __future__ import annotations

from weathermixer.model.architecture import Architecture

SMALL = Architecture(
    prognostic=5,
    static=2,
    grid=(6, 8),
    patch=(3, 2),
    channels=7,
    blocks=2,
    token_hidden=5,
    channel_hidden=9,
    dropout=0.0,
    prediction="increment",
)

"""What a training reports when it ends."""

from __future__ import annotations

import resource
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from weathermixer.jigsaw.layout import Layout
from weathermixer.training.validation import Validation


@dataclass(frozen=True)
class TrainResult:
    """Numbers of one training, from ``start_step`` on.

    ``loss``, ``grad_norm`` (before clipping) and ``seconds_per_step`` have one number per step;
    the lists after them one per rank. ``flops_per_step`` counts two operations for each
    multiply-add of a matrix product. ``stopped_by`` names the signal that ended the training early.
    """

    layout: Layout
    dtype: str
    parameters: int
    start_step: int
    loss: list[float]
    grad_norm: list[float]
    seconds_per_step: list[float]
    bytes_sent_per_step: list[int]
    bytes_read_per_step: list[int]
    flops_per_step: list[int]
    peak_memory_bytes: list[int]
    parameter_bytes: list[int]
    optimizer_bytes: list[int]
    checkpoint: Path
    validation: dict[int, Validation] = field(default_factory=dict)
    stopped_by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The same as an object of JSON."""
        layout = self.layout
        return {
            **asdict(self),
            "layout": {"data": layout.data, "domain": layout.domain, "tensor": layout.tensor},
            "world_size": layout.world_size,
            "checkpoint": str(self.checkpoint),
            "validation": {str(step): asdict(scores) for step, scores in self.validation.items()},
        }


def peak_memory_bytes(device: torch.device) -> int:
    """The largest memory held so far: of the accelerator, or of the process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kibibytes = 1 if sys.platform == "darwin" else 1024  # what getrusage counts in
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kibibytes

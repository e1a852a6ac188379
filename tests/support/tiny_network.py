"""A network of a few hundred weights, for tests that train another one than WeatherMixer."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from weathermixer.config import Config
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture
from weathermixer.training.result import TrainResult
from weathermixer.training.trainer import train

HIDDEN = 6


class TinyNetwork(nn.Module):
    """Two convolutions that begin with what is drawn, a gain of its own, and dropout between."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        self.first = nn.Conv2d(a.inputs, HIDDEN, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(HIDDEN, 1, 1))
        self.dropout = nn.Dropout(a.dropout)
        self.last = nn.Conv2d(HIDDEN, a.predicted, 1)
        self.register_buffer("middle", torch.tensor(0.5), persistent=False)

    def forward(self, fields: Tensor) -> Tensor:
        """Fields ``(batch, inputs, latitude, longitude)`` → ``(batch, predicted, …)``."""
        hidden = self.dropout(torch.tanh(self.gain * self.first(fields)))
        made: Tensor = self.middle * self.last(hidden)
        return made


def train_tiny(mesh: Mesh, config: Config, out: Path) -> TrainResult:
    """What a rank does: a training of the network."""
    return train(config, out, console=Console(quiet=True), network=TinyNetwork)

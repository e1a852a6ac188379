"""All that a training is made of, as named tensors that go into checkpoints and come back.

Everything random is derived from the seed and the step, so no generator has a state to keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weathermixer.config import Training
from weathermixer.model import checkpoint
from weathermixer.model.mixer import WeatherMixer
from weathermixer.run import Run, model_tensors
from weathermixer.training.optimizer import build_optimizer, optimizer_tensors, restart_at


@dataclass
class TrainingState:
    """Weights, Adam's averages, optimizer steps taken, and samples that all ranks consumed."""

    model: WeatherMixer
    optimizer: torch.optim.Optimizer
    step: int = 0
    samples: int = 0

    @classmethod
    def initial(cls, model: WeatherMixer, training: Training) -> TrainingState:
        return cls(model, build_optimizer(model, training))

    def save(self, run: Run, *, keep: int) -> Path:
        """Write a checkpoint, then remove all but the newest ``keep``."""
        path = checkpoint.checkpoint_path(run.checkpoints, self.step)
        if not path.exists():
            checkpoint.save(path, self._tensors())
            checkpoint.remove_old(run.checkpoints, keep)
        return path

    def load(self, path: Path) -> None:
        """Become what was saved."""
        tensors = self._tensors()
        checkpoint.load(path, tensors)
        self.step = int(tensors["progress.step"])
        self.samples = int(tensors["progress.samples"])
        restart_at(self.optimizer, self.step)

    def _tensors(self) -> dict[str, Tensor]:
        return {
            **model_tensors(self.model),
            **optimizer_tensors(self.model, self.optimizer),
            "progress.step": torch.tensor(self.step),
            "progress.samples": torch.tensor(self.samples),
        }

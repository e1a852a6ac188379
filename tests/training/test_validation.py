from __future__ import annotations

import numpy as np
import pytest
import torch

from oracles.loss import area_loss
from weathermixer.config import Training
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.feeding.read_ahead import Batch
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.cuts import Part
from weathermixer.training.loss import loss_weights, weighted_mae
from weathermixer.training.passes import Objective
from weathermixer.training.validation import validate

LATITUDE = np.array([80.0, 30.0, -10.0, -70.0])
NORMALISATION = Normalisation(
    channels=("temperature_850", "2m_temperature", "mean_sea_level_pressure"),
    mean=np.zeros(3),
    std=np.array([2.0, 3.0, 1.0]),
    step_std=np.array([0.5, 0.25, 1.0]),
    static_channels=(),
    static=np.empty((0, 4, 6), np.float32),
    latitude=LATITUDE,
    longitude=np.arange(6.0) * 60.0,
)


class _Damping(torch.nn.Module):
    """Multiplies a state by 0.9, and by nothing at all while training."""

    def forward(self, state: torch.Tensor, *given: torch.Tensor, applications: int) -> torch.Tensor:
        return state * (1.0 if self.training else 0.9**applications)


def test_scores_are_area_means_over_all_samples_whatever_the_batches() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(5, 3, 3, 4, 6))
    states[:, :, 2] = 1.5  # a channel in which nothing happens
    batches = [
        Batch(
            torch.from_numpy(part),
            torch.empty(len(part), 2, 0, 4, 6),
            np.zeros((len(part), 3), np.int64),
            0,
        )
        for part in (states[:2], states[2:])
    ]
    model = _Damping()
    scores = validate(
        model,
        batches,
        Objective(
            torch.empty(0, 4, 6, dtype=torch.float64),
            torch.from_numpy(loss_weights(Training(error="absolute"), NORMALISATION)),
            error=weighted_mae,
        ),
        NORMALISATION,
        Part(slice(0, 3), slice(3, 3), slice(0), slice(0), slice(None)),
        Mesh.describe(),
    )
    assert model.training

    units = NORMALISATION.step_std / NORMALISATION.std
    losses = [
        area_loss(0.9**step * states[:, 0], states[:, step], units, LATITUDE, "absolute")
        for step in (1, 2)
    ]
    assert scores.loss == pytest.approx(np.mean(losses), rel=1e-12)

    edges = np.sin(np.deg2rad([90.0, 55.0, 10.0, -40.0, -90.0]))
    area = (edges[:-1] - edges[1:])[:, None]
    ours = ((0.81 * states[:, 0] - states[:, 2]) ** 2 * area).sum(axis=(0, 2, 3))
    persistence = ((states[:, 0] - states[:, 2]) ** 2 * area).sum(axis=(0, 2, 3))
    assert scores.relative_rmse == pytest.approx(
        {
            name: np.sqrt(ours[index] / persistence[index])
            for index, name in enumerate(NORMALISATION.channels[:2])
        },
        rel=1e-12,
    )

"""How good a network is on times that it does not learn from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from weathermixer.data.normalise import Normalisation
from weathermixer.data.reader import Batch
from weathermixer.data.statistics import cell_area_weights
from weathermixer.training.loss import rollout_loss


@dataclass(frozen=True)
class Validation:
    """Scores over the validation samples.

    ``relative_rmse`` is, for each channel, the area-weighted root mean square error at the last
    step of the rollout, divided by that of persistence; channels that do not change have none.
    """

    loss: float
    relative_rmse: dict[str, float]

    @property
    def mean_relative_rmse(self) -> float:
        return float(np.mean(list(self.relative_rmse.values())))


@torch.no_grad()
def validate(
    model: nn.Module,
    batches: Iterable[Batch],
    static: Tensor,
    weights: Tensor,
    normalisation: Normalisation,
) -> Validation:
    """Loss and errors of a network in eval mode; it is left in the mode that it was in.

    ``static (static_channel, latitude, longitude)``; ``weights`` as ``rollout_loss`` takes them.
    """
    area = torch.from_numpy(cell_area_weights(normalisation.latitude)).to(static.device)

    def square_error(one: Tensor, other: Tensor) -> Tensor:
        squared = (one.double() - other.double()).square()
        return (squared.mean(-1) @ area).sum(0)

    was_training = model.training
    model.eval()
    samples, loss = 0, 0.0
    error = torch.zeros(len(normalisation.channels), dtype=torch.float64, device=static.device)
    persistence = torch.zeros_like(error)
    for batch in batches:
        states = batch.states.to(static.device)
        mean_loss, forecast = rollout_loss(model, states, static, weights)
        samples += len(states)
        loss += mean_loss.item() * len(states)
        error += square_error(forecast[-1], states[:, -1])
        persistence += square_error(states[:, 0], states[:, -1])
    model.train(was_training)
    relative = {
        name: float(np.sqrt(ours / theirs))
        for name, ours, theirs in zip(
            normalisation.channels, error.tolist(), persistence.tolist(), strict=True
        )
        if theirs > 0.0
    }
    return Validation(loss / samples, relative)

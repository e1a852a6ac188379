"""How good a network is on times that it does not learn from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.feeding.read_ahead import Batch
from weathermixer.data.statistics import cell_area_weights
from weathermixer.jigsaw.exchange import total_over
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.mixer import Part
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
    part: Part,
    mesh: Mesh,
) -> Validation:
    """Loss and errors of a network in eval mode; it is left in the mode that it was in.

    ``static (static_channel, latitude, longitude)``; ``weights`` as ``rollout_loss`` takes them.
    These and the batches hold this rank's ``part`` of what ``normalisation`` describes; replicas
    have batches of their own. The result is that of all, on every rank.
    """
    area = torch.from_numpy(cell_area_weights(normalisation.latitude)).to(static.device)
    area /= normalisation.grid[1]
    share = part.share(normalisation)

    def square_error(one: Tensor, other: Tensor) -> Tensor:
        squared = (one.double() - other.double()).square()
        return (squared.sum(-1) @ area).sum(0)

    was_training = model.training
    model.eval()
    # Of each channel the model's error and persistence's; then loss, and samples.
    channels = len(normalisation.channels)
    sums = torch.zeros(2 * channels + 2, dtype=torch.float64, device=static.device)
    error, persistence = sums[:channels][part.channels], sums[channels:-2][part.channels]
    for batch in batches:
        states = batch.states.to(static.device)
        mean_loss, forecast = rollout_loss(model, states, static, weights, share=share)
        sums[-2] += mean_loss.double() * len(states)
        sums[-1] += len(states) / mesh.layout.ways
        error += square_error(forecast[-1], states[:, -1])
        persistence += square_error(states[:, 0], states[:, -1])
    model.train(was_training)
    *errors, loss, samples = total_over(mesh.axes, sums).tolist()
    relative = {
        name: float(np.sqrt(ours / theirs))
        for name, ours, theirs in zip(
            normalisation.channels, errors[:channels], errors[channels:], strict=True
        )
        if theirs > 0.0
    }
    return Validation(loss / samples, relative)

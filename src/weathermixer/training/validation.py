"""How good a network is on times that it does not learn from."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.feeding.read_ahead import Batch
from weathermixer.data.statistics import cell_area_weights
from weathermixer.errors import UserError, reason
from weathermixer.jigsaw.exchange import total_over
from weathermixer.jigsaw.mesh import Mesh, gather_objects
from weathermixer.jigsaw.weights import kept_weights
from weathermixer.model.cuts import Part
from weathermixer.training.loss import recent_and_targets, rollout_loss
from weathermixer.training.passes import Objective


@dataclass(frozen=True)
class Validation:
    """Scores over the validation samples.

    ``loss`` is the mean loss over all samples. ``relative_rmse`` is, for each channel, the
    area-weighted root mean square error at the last step of the rollout, divided by that of
    persistence; channels that do not change have none.
    """

    loss: float
    relative_rmse: dict[str, float]

    @property
    def mean_relative_rmse(self) -> float:
        """The mean of ``relative_rmse`` over its channels; NaN where there are none."""
        return float(np.mean(list(self.relative_rmse.values()))) if self.relative_rmse else math.nan

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The scores from an object of JSON that has this class's fields."""
        return cls(float(values["loss"]), dict(values["relative_rmse"]))


SCORES = ("loss", "mean_relative_rmse")
"""What ``score_of`` knows beside the channels."""


def score_of(scores: Validation, name: str) -> float:
    """The loss, the mean relative RMSE, or that of the channel ``name``; NaN where it has none."""
    if name in SCORES:
        return float(getattr(scores, name))
    return scores.relative_rmse.get(name, math.nan)


def require_score(name: str | None, channels: Sequence[str]) -> None:
    """Raise UserError where ``checkpoint.best`` is no score of a network with these channels."""
    if name is not None and name not in (*SCORES, *channels):
        near = difflib.get_close_matches(name, channels, n=1)
        known = ", ".join([*SCORES, near[0] if near else channels[0]])
        raise UserError(
            f"checkpoint.best={name} is no score of a validation: choose among {known}"
            f"{'' if near else ' and the other channels'}"
        )


@torch.no_grad()
def validate(
    model: nn.Module,
    batches: Iterable[Batch],
    objective: Objective,
    normalisation: Normalisation,
    part: Part,
    mesh: Mesh,
    *,
    latent: int = 1,
) -> Validation:
    """Compute loss and errors of a network in eval mode; it is left in the mode that it was in.

    ``objective`` and the batches hold this rank's ``part`` of what ``normalisation`` describes;
    replicas have batches of their own, as many on each rank of an instance. An application of the
    network advances by ``latent`` steps, which the states of a batch are apart. Errors of an
    ensemble are those of its mean. The result is that of all samples, on every rank.

    Raises UserError, alike on every rank, where any rank cannot read a batch, and where the loss is
    NaN or infinite; the network is then as it was too.
    """
    static, input_times = objective.static, objective.input_times
    ensemble = objective.ensemble
    area = torch.from_numpy(cell_area_weights(normalisation.latitude)).to(static.device)
    area /= normalisation.grid[1]
    share = part.share(normalisation)

    def square_error(forecast: Tensor, truth: Tensor) -> Tensor:
        squared = (forecast.double() - truth.double()).square()
        return (squared.sum(-1) @ area).sum(0)

    # For each channel the model's error and persistence's; then loss, samples, failed ranks.
    channels = len(normalisation.channels)
    sums = torch.zeros(2 * channels + 3, dtype=torch.float64, device=static.device)
    error, persistence = sums.new_zeros(2, len(part.channels))
    reading = _InstanceBatches(batches, mesh, static.device)
    network = partial(model, applications=latent)
    was_training = model.training
    model.eval()
    try:
        with kept_weights(model):
            for batch in reading:
                states = batch.states.to(static.device, non_blocking=True)
                forcings = batch.forcings.to(static.device, non_blocking=True)
                recent, targets = recent_and_targets(states, input_times)
                times = batch.indices[:, input_times - 1].tolist()
                mean_loss, forecast = rollout_loss(
                    network,
                    [ensemble.expanded(state) for state in recent],
                    targets,
                    static,
                    objective.weights,
                    forcings=ensemble.expanded(forcings),
                    share=share,
                    error=objective.error,
                    noise=ensemble.draw(times, rollout=targets.shape[1]).to(states)
                    if ensemble.noise
                    else None,
                )
                sums[-3] += mean_loss.double() * len(states)
                sums[-2] += len(states) / mesh.layout.ways
                error += square_error(ensemble.mean(forecast[-1]), states[:, -1])
                persistence += square_error(states[:, input_times - 1], states[:, -1])
    finally:
        model.train(was_training)
    sums[:-3].view(2, channels)[:, part.channels] = torch.stack([error, persistence])
    sums[-1] = reading.problem is not None
    *errors, loss, samples, failures = total_over(mesh.axes, sums).tolist()
    if failures:
        raise UserError(next(filter(None, gather_objects(reading.problem))))
    if not math.isfinite(loss):
        raise UserError("its loss is NaN or infinite")
    relative = {
        name: float(np.sqrt(ours / theirs))
        for name, ours, theirs in zip(
            normalisation.channels, errors[:channels], errors[channels:], strict=True
        )
        if theirs > 0.0
    }
    return Validation(loss / samples, relative)


class _InstanceBatches:
    """The batches that all ranks of this instance have read; ``problem`` is what ended this rank's.

    The network exchanges as it computes, so the ranks of an instance compute on a batch together or
    not at all: before each they tell each other whether they have it.
    """

    def __init__(self, batches: Iterable[Batch], mesh: Mesh, device: torch.device) -> None:
        self._batches, self._mesh, self._device = iter(batches), mesh, device
        self.problem: str | None = None

    def __iter__(self) -> Iterator[Batch]:
        while True:
            batch = self._read()
            failed = torch.tensor([float(self.problem is not None)], device=self._device)
            if total_over((self._mesh.domain, self._mesh.tensor), failed).item() or batch is None:
                return
            yield batch

    def _read(self) -> Batch | None:
        try:
            return next(self._batches, None)
        except Exception as error:  # noqa: BLE001 - of any kind, the other ranks must hear of it
            self.problem = reason(error)
            return None

"""How good a network is on times that it does not learn from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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
from weathermixer.training.forecast_scores import ForecastScoring
from weathermixer.training.loss import recent_and_targets, rollout_loss
from weathermixer.training.passes import Objective
from weathermixer.verification.scores import Scores

ByLead = dict[str, float]
"""Numbers by lead time, in hours as text."""


@dataclass(frozen=True)
class Validation:
    """Scores over the validation samples.

    ``loss`` is the mean loss over all samples. ``relative_rmse`` is, for each channel, the
    area-weighted root mean square error at the last step of the rollout, divided by that of
    persistence; channels that do not change have none.

    Where forecasts are scored too, ``scores {metric: {channel: {lead hours: value}}}`` are those of
    ``verify``, but for what is not defined, and ``rmse_relative_to {baseline: {lead hours:
    value}}`` their mean RMSE over all channels relative to those of persistence and climatology.
    """

    loss: float
    relative_rmse: dict[str, float]
    scores: dict[str, dict[str, ByLead]] = field(default_factory=dict)
    rmse_relative_to: dict[str, ByLead] = field(default_factory=dict)

    @property
    def mean_relative_rmse(self) -> float:
        """The mean of ``relative_rmse`` over its channels; NaN where there are none."""
        return float(np.mean(list(self.relative_rmse.values()))) if self.relative_rmse else math.nan

    def with_forecasts(self, scores: Scores, metrics: Sequence[str]) -> Self:
        """The same with some of the scores of forecasts."""
        record = scores.to_json()
        return replace(
            self,
            scores={
                metric: {
                    channel: _defined(by_lead)
                    for channel, by_lead in record["scores"][metric].items()
                }
                for metric in metrics
            },
            rmse_relative_to={
                baseline: _defined(by_lead)
                for baseline, by_lead in record["rmse_relative_to"].items()
            },
        )

    def to_json(self) -> dict[str, Any]:
        """The scores as an object of JSON with this class's fields, where they hold anything."""
        record = asdict(self)
        return {
            name: record[name]
            for name in record
            if record[name] or name in ("loss", "relative_rmse")
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The scores from the object of JSON that ``to_json`` made."""
        return cls(
            float(values["loss"]),
            dict(values["relative_rmse"]),
            dict(values.get("scores", {})),
            dict(values.get("rmse_relative_to", {})),
        )


def _defined(by_lead: Mapping[str, float | None]) -> ByLead:
    return {hours: value for hours, value in by_lead.items() if value is not None}


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
    forecasts: ForecastScoring | None = None,
) -> Validation:
    """Compute loss and errors of a network in eval mode; it is left in the mode that it was in.

    ``objective`` and the batches hold this rank's ``part`` of what ``normalisation`` describes;
    replicas have batches of their own, as many on each rank of an instance. An application of the
    network advances by ``latent`` steps, which the states of a batch are apart. Errors of an
    ensemble are those of its mean. From the same samples ``forecasts`` are made and scored, where
    they are asked for. The result is that of all samples, on every rank.

    Raises UserError, alike on every rank, where any rank cannot read a batch or what forecasts are
    compared with, and where the loss is NaN or infinite; the network is then as it was too.
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
                    error=objective.compare,
                    noise=ensemble.draw(times, rollout=targets.shape[1]).to(states)
                    if ensemble.noise
                    else None,
                )
                sums[-3] += mean_loss.double() * len(states)
                sums[-2] += len(states) / mesh.layout.ways
                error += square_error(ensemble.mean(forecast[-1]), states[:, -1])
                persistence += square_error(states[:, input_times - 1], states[:, -1])
                if forecasts is not None:
                    forecasts.add(batch.indices[:, input_times - 1], recent)
    finally:
        model.train(was_training)
    sums[:-3].view(2, channels)[:, part.channels] = torch.stack([error, persistence])
    problem = reading.problem
    if forecasts is not None:
        problem = problem or forecasts.problem
    sums[-1] = problem is not None
    *errors, loss, samples, failures = total_over(mesh.axes, sums).tolist()
    if failures:
        raise UserError(next(filter(None, gather_objects(problem))))
    if not math.isfinite(loss):
        raise UserError("its loss is NaN or infinite")
    relative = {
        name: float(np.sqrt(ours / theirs))
        for name, ours, theirs in zip(
            normalisation.channels, errors[:channels], errors[channels:], strict=True
        )
        if theirs > 0.0
    }
    scores = Validation(loss / samples, relative)
    if forecasts is None:
        return scores
    return scores.with_forecasts(forecasts.scores(), forecasts.names)


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

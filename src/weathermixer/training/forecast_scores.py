"""Forecasts from the samples of a validation, scored as ``forecast --scores`` and ``verify`` do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weathermixer.config import Training
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.grid import Grid
from weathermixer.data.states import States
from weathermixer.data.store.store import Store
from weathermixer.data.time_steps import to_hours, to_timedelta
from weathermixer.errors import UserError, reason
from weathermixer.forecast.field_sums import FieldSums
from weathermixer.forecast.forecast_description import ForecastDescription
from weathermixer.forecast.forecaster import Forecaster
from weathermixer.forecast.members import networks_of
from weathermixer.jigsaw import mesh as meshes
from weathermixer.jigsaw.exchange import total_over
from weathermixer.job import Job
from weathermixer.model.other_network import Network
from weathermixer.verification.ensembles import ENSEMBLE_METRICS
from weathermixer.verification.metrics import METRICS, RMSE, Metric
from weathermixer.verification.pair_sums import statistics_shape
from weathermixer.verification.pairing import Pairing
from weathermixer.verification.scores import CLIMATOLOGY, PERSISTENCE, Scores
from weathermixer.verification.sums import Sums

METRICS_BY_NAME = {metric.name: metric for metric in (*METRICS, *ENSEMBLE_METRICS)}


def metrics_of(training: Training) -> tuple[Metric, ...]:
    """What forecasts are scored by: what was chosen, and the RMSE."""
    chosen = tuple(METRICS_BY_NAME[name] for name in training.validation_scores)
    return chosen if RMSE in chosen else (RMSE, *chosen)


def require_climatology(training: Training, store: States) -> None:
    """Raise UserError where a score is of anomalies, and the store has no climatology."""
    if not training.validation_leads or (isinstance(store, Store) and store.has_climatology):
        return
    lacking = [metric.name for metric in metrics_of(training) if metric.needs_climatology]
    if lacking:
        raise UserError(
            f"training.validation_scores lists {', '.join(lacking)}, and {store.path} has no "
            "climatology: leave it out, or prepare a store with one"
        )


@dataclass(frozen=True)
class ScoredForecasts:
    """Which forecasts a validation makes, and what they are compared with.

    ``sources`` are the places, among the store's times, of the initial times, which increase.
    """

    pairing: Pairing
    metrics: tuple[Metric, ...]
    description: ForecastDescription
    sources: NDArray[np.int64]

    @classmethod
    def open(cls, job: Job, samples: NDArray[np.int64]) -> Self | None:
        """Open the truth, the job's own store; every rank calls this. None where none is asked for.

        ``samples (sample, times)`` are those to validate on. Raises UserError, alike on all ranks,
        where the truth does not fit.
        """
        data, training = job.config.data, job.config.training
        if not training.validation_leads or not len(samples):
            return None
        sources = samples[:, data.input_times - 1]
        advance = to_timedelta(data.step_hours) * training.shortest_advance
        leads = to_timedelta(np.array(training.validation_leads))
        description = ForecastDescription(
            channels=job.channels,
            initial_times=job.states.times[sources],
            lead_times=np.arange(advance, leads[-1] + advance, advance),
            latitude=job.states.latitude,
            longitude=job.states.longitude,
            members=training.members if training.members > 1 else None,
        )
        pairing = meshes.from_first_rank(
            partial(
                Pairing.of,
                data.store,
                "the validation",
                description.channels,
                description.initial_times,
                leads,
                {"the network": Grid(description.latitude, description.longitude)},
            )
        )
        return cls(pairing, metrics_of(training), description, sources)

    def begin(
        self, model: Network, job: Job, *, whole: Normalisation, own: Normalisation
    ) -> ForecastScoring:
        """Begin to score forecasts of a network as it is; ``own`` normalises the part of ``whole``.

        Every rank calls this. Raises UserError, alike on all of them, where any cannot open the
        truth again, of which nothing is kept from one validation to the next.
        """
        problem = None
        try:
            scoring = ForecastScoring(self, model, job, whole=whole, own=own)
        except (UserError, OSError) as error:
            problem = reason(error)
        problems = meshes.gather_objects(problem)
        if any(problems):
            raise UserError(next(filter(None, problems)))
        return scoring


class ForecastScoring:
    """Makes and scores the forecasts of one validation, batch by batch, by the scores ``names``.

    ``problem`` is what kept this rank from reading the truth, if anything did: then its scores are
    of no use, and it goes on for the sake of the others.
    """

    def __init__(
        self,
        asked: ScoredForecasts,
        model: Network,
        job: Job,
        *,
        whole: Normalisation,
        own: Normalisation,
    ) -> None:
        training, description = job.config.training, asked.description
        self.problem: str | None = None
        self.names = training.validation_scores
        self._asked, self._job, self._model = asked, job, model
        self._forecaster = Forecaster(
            network_of=networks_of(
                model,
                description,
                applications=training.shortest_advance,
                seed=training.seed,
            ),
            like=next(model.parameters()),
            given=own,
            normalisation=own,
            forcings=job.part.forcings_of(job.config.data, whole),
            description=description,
        )
        height, width = asked.pairing.grid.shape
        num_channels = -(-len(job.part.channels) // job.mesh.domain.size)
        # The initial states are met again at every lead time of a batch, after as many valid ones.
        kept = 2 * training.samples_at_once
        self._fields = FieldSums(
            asked.pairing,
            asked.metrics,
            description,
            job.mesh,
            part=job.part.channels,
            longitudes=job.architecture.longitude_dimension,
            cache_bytes=4 * kept * num_channels * height * width,
            spectra=False,
        )

    def add(self, sources: NDArray[np.int64], recent: Sequence[Tensor]) -> None:
        """Forecast from samples and score it; every rank of the instance calls this together.

        ``sources (batch,)`` are the places of their initial times among the store's, and ``recent``
        the normalised states ``(batch, channel, latitude, longitude)`` that the network is given.
        It is left in eval mode.
        """
        description = self._asked.description
        members = description.members or 1
        times = np.searchsorted(self._asked.sources, sources)
        batch = [int(time) * members + member for time in times for member in range(members)]
        given = [state.repeat_interleave(members, dim=0) for state in recent]
        wanted = self._asked.pairing.lead_times.tolist()
        steps = self._forecaster.steps(batch, given)
        for lead_time, state in zip(description.lead_times.tolist(), steps, strict=True):
            if lead_time in wanted:
                self._add(batch, wanted.index(lead_time), self._forecaster.restored(state))
        self._model.eval()

    def scores(self) -> Scores:
        """The scores of all forecasts, over all that the grid covers; every rank calls this."""
        pairing, metrics, mesh = self._asked.pairing, self._asked.metrics, self._job.mesh
        shape = len(pairing.lead_times), *statistics_shape(pairing, metrics), len(pairing.channels)
        values = torch.zeros(shape, dtype=torch.float64, device=mesh.device)
        if self._fields.sums is not None:
            places = [pairing.channels.index(name) for name in self._fields.channels]
            values[..., places] = torch.from_numpy(self._fields.sums.values).to(mesh.device)
        total = total_over(mesh.axes, values).cpu().numpy()
        counts = pairing.pairs.sum(axis=0)
        means, _ = Sums(total, np.zeros((*shape[:2], 1, 0, shape[-1])), counts).means()
        baselines = (PERSISTENCE, *((CLIMATOLOGY,) if pairing.truth.has_climatology else ()))
        return Scores.from_means(
            means[..., 0, :],
            metrics,
            (*pairing.forecast_names, *baselines),
            pairing.channels,
            pairing.lead_hours,
            tuple(counts.tolist()),
        )

    def _add(self, batch: Sequence[int], lead: int, states: NDArray[np.float32]) -> None:
        try:
            # Of an unstable network that is infinite; the scores tell.
            with np.errstate(over="ignore", invalid="ignore"):
                self._fields.add(batch, lead, states)
        except UserError as error:
            hours = to_hours(self._asked.pairing.lead_times[lead])
            self.problem = self.problem or f"of forecasts at {hours:g} h: {reason(error)}"

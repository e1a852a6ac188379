"""Forecasts that are scored while they are made: from what is asked for to a folder of scores."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from weathermixer.console import say, waiting_for
from weathermixer.credentials import without_credentials
from weathermixer.data.channels import in_canonical_order, names, parse_channel
from weathermixer.data.grid import Grid
from weathermixer.data.time_steps import to_seconds
from weathermixer.forecast.forecast_description import ForecastDescription
from weathermixer.forecast.scores_in_progress import ScoresInProgress
from weathermixer.forecast.scoring import Scorer, digest_of_weights
from weathermixer.jigsaw import mesh as meshes
from weathermixer.job import Job
from weathermixer.verification.comparison import Comparison
from weathermixer.verification.ensembles import ENSEMBLE_METRICS, rank_metrics
from weathermixer.verification.metrics import METRICS, Metric, usable_metrics
from weathermixer.verification.pairing import Pairing
from weathermixer.verification.results import make_folder, verification_of, write_results
from weathermixer.verification.scores import MODEL
from weathermixer.verification.verification_record import Verification

_FORECAST = "the forecast"


@dataclass(frozen=True)
class Campaign:
    """Scores that are to be made of a forecast: of which pairs, in which folder.

    ``climatology`` is an archive in the place of the truth's own, or None; an ensemble has
    ``members``.
    """

    scores: Path
    pairing: Pairing
    climatology: str | None
    members: int | None

    @classmethod
    def open(
        cls,
        scores: Path,
        truth: Path | str,
        channels: Sequence[str],
        initial_times: NDArray[np.datetime64],
        lead_times: NDArray[np.timedelta64],
        grid: Grid,
        *,
        climatology: str | None = None,
        members: int | None = None,
    ) -> Campaign:
        """Open the truth, and say what of the scores will be lacking; every rank calls this.

        Raises UserError, on all of them, where the truth does not fit what will be forecast.
        """
        ordered = names(in_canonical_order(map(parse_channel, channels)))
        with waiting_for("the first rank to open the truth"):
            pairing = meshes.from_first_rank(
                lambda: Pairing.of(
                    truth,
                    _FORECAST,
                    ordered,
                    initial_times,
                    lead_times,
                    {_FORECAST: grid},
                    climatology=climatology,
                )
            )
        if meshes.is_first_rank():
            for warning in pairing.warnings():
                say(f"Note: {warning}.")
        return cls(Path(scores), pairing, climatology, members)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What ``verify`` scores by default."""
        usable = usable_metrics(METRICS, has_climatology=self.pairing.truth.has_climatology)
        if self.members is None:
            return usable
        return (*usable, *ENSEMBLE_METRICS, *rank_metrics(self.members))

    def begin(
        self, description: ForecastDescription, out: Path | None, job: Job, model: nn.Module
    ) -> Scorer:
        """Begin to score, or find what was scored before; every rank calls this.

        Fields are written to ``out``, where there is one. Raises UserError, on all of them, where
        what was begun is another campaign.
        """
        attributes = description.attributes
        campaign = {
            **{name: attributes[name] for name in ("run", "checkpoint", "weights")},
            "set of weights": [digest_of_weights(model)],
            "set of overrides": attributes["overrides"],
            "store": attributes["initial_conditions"],
            "truth": without_credentials(self.pairing.truth.path),
            "climatology": self.climatology and without_credentials(self.climatology),
            "number of members": self.members,
            "set of initial times": to_seconds(description.initial_times).tolist(),
            "set of lead times": to_seconds(description.lead_times).tolist(),
            "set of channels": description.channels,
            "grid": [description.latitude.tolist(), description.longitude.tolist()],
            "set of times in the truth": [_digest(self.pairing.pairs)],
            "set of metrics": [metric.name for metric in self.metrics],
            "mesh": "×".join(map(str, (axis.size for axis in job.mesh.axes))),
            "forecast": None if out is None else str(out),
        }

        def create() -> None:
            make_folder(self.scores)  # before the work: it may be impossible
            ScoresInProgress.begin(self.scores, campaign)

        meshes.from_first_rank(create)
        return Scorer(
            self.pairing,
            self.metrics,
            description,
            ScoresInProgress(self.scores),
            job.mesh,
            part=job.part.channels,
            longitudes=job.architecture.longitude_dimension,
        )

    def finish(self, description: ForecastDescription, out: Path | None) -> Verification:
        """Make the scores of all ranks' sums, and write them; the first rank alone calls this.

        ``out`` is the whole forecast, where there is one, of which maps are drawn. Raises UserError
        where sums are lacking, or scores cannot be written.
        """
        pairing, in_progress = self.pairing, ScoresInProgress(self.scores)
        sums = in_progress.total(pairing.channels, len(pairing.initial_times))
        forecasts = {} if out is None else {MODEL: str(out)}
        made_by = description.attributes
        result = verification_of(pairing, self.metrics, sums, forecasts, made_by=made_by)
        result = result.with_ranks_apart()
        fields = None
        if out is not None and pairing.grid.has_area:
            path, truth = out, pairing.truth.path

            def fields() -> Comparison:
                return Comparison.open(path, truth, climatology=self.climatology)

        result = write_results(result, self.scores, fields)
        in_progress.remove()
        return result


def _digest(values: NDArray[np.bool_]) -> str:
    return hashlib.blake2b(np.packbits(values).tobytes(), digest_size=8).hexdigest()

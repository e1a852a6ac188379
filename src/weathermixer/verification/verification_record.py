"""What a verification leaves: scores by region, spectra, and what was compared; ``scores.json``.

Made by ``verify``, read again by the report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from weathermixer.credentials import without_credentials
from weathermixer.errors import UserError
from weathermixer.verification.differences import Differences
from weathermixer.verification.metrics import METRICS, Metric, Units
from weathermixer.verification.rank_histogram import RankHistogram
from weathermixer.verification.regions import GLOBAL, over_region
from weathermixer.verification.scores import MODEL, Scores
from weathermixer.verification.spectrum import Spectra
from weathermixer.verification.tables import render

SCORES_FILE = "scores.json"


@dataclass(frozen=True)
class MetricLabel:
    """The ``title`` of a metric, and whether it has the channel's ``units`` or none."""

    title: str
    units: Units

    @classmethod
    def of(cls, metric: Metric) -> Self:
        """The label of a metric that can be computed."""
        return cls(metric.title, metric.units)


@dataclass(frozen=True)
class Verification:
    """Scores of a forecast beside others and baselines, by region, and its spectra.

    The first of ``regions`` is all that was compared: the globe, or the part of it that the data
    cover. ``metric_labels`` are by name. ``initial_times (time,)`` are those of which at least one
    lead time was scored; ``num_unscored`` pairs were not, for lack of truth. ``forecasts`` are the
    paths by name, the model's first; they and ``truth`` are unknown in some older records.
    ``warnings`` are sentences for the user. ``made_by`` is what made a forecast that was scored
    while it was made, as the attributes of its Zarr would say it; else nothing. ``rank_histogram``
    is that of an ensemble, ``differences`` are from the forecasts beside it, both over the first
    region.
    """

    regions: Mapping[str, Scores]
    spectra: Spectra
    metric_labels: Mapping[str, MetricLabel]
    initial_times: tuple[np.datetime64, ...]
    num_unscored: int
    forecasts: Mapping[str, str]
    truth: str | None
    warnings: tuple[str, ...]
    made_by: Mapping[str, Any] = field(default_factory=dict)
    rank_histogram: RankHistogram | None = None
    differences: Differences | None = None

    @property
    def region(self) -> str:
        """The name of all that was compared: ``global``, or a part such as ``15N-75N 0E-45E``."""
        return next(iter(self.regions))

    @property
    def scores(self) -> Scores:
        """The scores over all that was compared."""
        return self.regions[self.region]

    def with_ranks_apart(self) -> Self:
        """The same with those metrics that are bins of a histogram in ``rank_histogram`` alone."""
        _, histogram = RankHistogram.taken_from(self.scores)
        regions = {
            name: RankHistogram.taken_from(scores)[0] for name, scores in self.regions.items()
        }
        kept = regions[self.region].metrics
        labels = {name: label for name, label in self.metric_labels.items() if name in kept}
        return replace(self, regions=regions, metric_labels=labels, rank_histogram=histogram)

    def with_differences(self, differences: Differences) -> Self:
        """The same with differences from forecasts beside it, and what they lack as a warning."""
        warnings = (*self.warnings, *map(without_credentials, differences.warnings()))
        return replace(self, differences=differences, warnings=warnings)

    def to_json(self) -> dict[str, Any]:
        """The verification as an object of JSON; of the spectra, those over the whole region."""
        histogram, differences = self.rank_histogram, self.differences
        return {
            **self.scores.to_json(),
            "region": self.region,
            "regions": {name: scores.to_json_of_region() for name, scores in self.regions.items()},
            "metrics": {
                name: {"title": label.title, "units": label.units}
                for name, label in self.metric_labels.items()
            },
            "spectrum": self.spectra.to_json(self.region),
            **({"rank_histogram": histogram.to_json()} if histogram is not None else {}),
            **({"significance": differences.to_json()} if differences is not None else {}),
            "initial_times": [str(time) for time in self.initial_times],
            "unscored_pairs": self.num_unscored,
            "forecast": self.forecasts.get(MODEL),
            "truth": self.truth,
            "forecasts_beside": {n: path for n, path in self.forecasts.items() if n != MODEL},
            "warnings": list(self.warnings),
            **({"made_by": dict(self.made_by)} if self.made_by else {}),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The verification from the object of JSON that ``to_json`` made, now or in version 0.1.

        Raises KeyError, TypeError, ValueError, AttributeError or IndexError where it is something
        else.
        """
        scores = Scores.from_json(record)
        region = record.get("region", GLOBAL)
        times = tuple(np.datetime64(str(time)) for time in record["initial_times"])
        if not times:
            raise ValueError("it has no initial time")
        forecasts = {MODEL: record.get("forecast"), **record.get("forecasts_beside", {})}
        truth = record.get("truth")
        return cls(
            regions={
                region: scores,
                **{
                    name: scores.of_region(of_region)
                    for name, of_region in record.get("regions", {}).items()
                    if name != region
                },
            },
            spectra=Spectra.from_json(record.get("spectrum"), region, scores),
            metric_labels=_labels(scores, record.get("metrics", {})),
            initial_times=times,
            num_unscored=int(record.get("unscored_pairs", 0)),
            forecasts={name: path for name, path in forecasts.items() if isinstance(path, str)},
            truth=truth if isinstance(truth, str) else None,
            warnings=tuple(map(str, record.get("warnings", []))),
            made_by=dict(record.get("made_by", {})),
            rank_histogram=RankHistogram.from_json(record.get("rank_histogram"), scores),
            differences=Differences.from_json(record.get("significance"), scores),
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read ``scores.json`` of a folder.

        Raises UserError where it cannot be read, is damaged, or is something else.
        """
        file = folder / SCORES_FILE
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(
                f"{file} cannot be read ({error.strerror or error}): correct its permissions"
            ) from error
        except ValueError as error:
            raise UserError(
                f"{file} is damaged ({error}): write it again with 'weathermixer verify --out'"
            ) from error
        if not (isinstance(record, dict) and isinstance(record.get("scores"), dict)):
            raise UserError(
                f"{file} holds no scores: write it again with 'weathermixer verify --out'"
            )
        try:
            return cls.from_json(record)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(
                f"{file} is not what 'weathermixer verify' writes "
                f"({type(error).__name__}: {error}): verify the forecast again"
            ) from error

    def render(self) -> str:
        """The headline numbers, as text for a terminal."""
        times = self.initial_times
        title = f"{len(times)} initial times, {times[0]} to {times[-1]}"
        if self.region != GLOBAL:
            title += f", {over_region(self.region)}"
        sure = () if self.differences is None else self.differences.summaries()
        notes = [f"Note: {warning}." for warning in self.warnings]
        return "\n".join([render(self.scores, title), *sure, *notes])


def _labels(scores: Scores, record: Mapping[str, Any]) -> dict[str, MetricLabel]:
    """The labels of all metrics; those that a record does not give are known, or plain names."""
    known = {metric.name: MetricLabel.of(metric) for metric in METRICS}
    labels = {}
    for name in scores.metrics:
        if name in record:
            units = _units(record[name]["units"])
            labels[name] = MetricLabel(str(record[name]["title"]), units)
        else:
            labels[name] = known.get(name, MetricLabel(name, "none"))
    return labels


def _units(text: str) -> Units:
    return "channel" if text == "channel" else "none"

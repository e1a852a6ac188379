"""The log that a training left, read again: numbers by step, and validations."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from weathermixer.errors import UserError

Course = list[tuple[int, float]]
"""Numbers by optimizer step: (step, number)."""


@dataclass(frozen=True)
class TrainingLog:
    """What ``log.jsonl`` of a run says: ``columns`` of numbers by name, each ``(logged step,)``.

    ``validation`` holds (step, loss, mean RMSE relative to persistence), and ``channels`` for each
    channel (step, RMSE relative to persistence). Of validations that forecast, ``relative
    {baseline: {lead hours: course}}`` is the mean RMSE of all channels relative to a baseline's,
    and ``scores {metric: {channel: {lead hours: course}}}`` are the others.
    """

    columns: Mapping[str, np.ndarray]
    validation: Sequence[tuple[int, float, float]]
    channels: Mapping[str, Sequence[tuple[int, float]]]
    relative: Mapping[str, Mapping[float, Course]] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, Mapping[float, Course]]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> TrainingLog:
        """Read ``log.jsonl``: an empty log where there is no file yet.

        Raises UserError where it cannot be read.
        """
        rows: list[dict[str, float]] = []
        validation = []
        channels: dict[str, Course] = {}
        relative_to: dict[str, dict[float, Course]] = {}
        forecasts: dict[str, dict[str, dict[float, Course]]] = {}
        for record in _records(path):
            numbers = {name: value for name, value in record.items() if _is_number(value)}
            rows.append(numbers)
            scores = record.get("validation")
            if isinstance(scores, dict) and _is_number(scores.get("loss")):
                relative = {
                    name: ratio for name, ratio in scores.get("relative_rmse", {}).items() if ratio
                }
                mean = float(np.mean(list(relative.values()))) if relative else math.nan
                step = int(numbers["step"])
                validation.append((step, float(scores["loss"]), mean))
                for name, ratio in relative.items():
                    channels.setdefault(name, []).append((step, float(ratio)))
                for baseline, by_lead in scores.get("rmse_relative_to", {}).items():
                    _add(relative_to.setdefault(baseline, {}), step, by_lead)
                for metric, by_channel in scores.get("scores", {}).items():
                    of_metric = forecasts.setdefault(metric, {})
                    for name, by_lead in by_channel.items():
                        _add(of_metric.setdefault(name, {}), step, by_lead)
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}
        return cls(columns, validation, channels, relative_to, forecasts)

    @property
    def last_step(self) -> int:
        """The last step that was logged; 0 where there is none."""
        steps = self.columns.get("step")
        return 0 if steps is None or not steps.size else int(steps[-1])

    @property
    def samples_per_second(self) -> float:
        """The median speed, which pauses do not move; NaN where nothing was logged."""
        return self.median("samples_per_second")

    def median(self, column: str) -> float:
        """The median of a column's numbers; NaN where nothing was logged."""
        values = self.columns.get(column, np.empty(0))
        return float(np.nanmedian(values)) if np.isfinite(values).any() else math.nan

    @property
    def hours(self) -> float:
        """Hours of training, from the samples and their speed; NaN where they are not logged."""
        samples = self.columns.get("samples", np.empty(0))
        if samples.size < 2 or "samples_per_second" not in self.columns:
            return math.nan
        between = np.diff(samples, prepend=0.0)
        return float(np.nansum(between / self.columns["samples_per_second"]) / 3600.0)


def _add(courses: dict[float, Course], step: int, by_lead: Mapping[str, Any]) -> None:
    """Go on with the course at each lead time, in hours as text, that has a number."""
    for hours, value in by_lead.items():
        if _is_number(value):
            courses.setdefault(float(hours), []).append((step, float(value)))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    continue  # torn when the process was killed
                if isinstance(record, dict) and _is_number(record.get("step")):
                    yield record
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): correct its permissions"
        ) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

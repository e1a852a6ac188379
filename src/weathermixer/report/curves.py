"""The log of a training as curves: all of it where it is short, else means of stretches."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weathermixer.config import Training
from weathermixer.errors import UserError
from weathermixer.report.numbers import drawn

_MOST_POINTS = 1200
# A running mean is over this part of what was logged.
_PART_AVERAGED = 0.03

Values = list[float | None]


@dataclass(frozen=True)
class Log:
    """What ``log.jsonl`` says: ``columns`` of numbers by name, each ``(logged step,)``.

    ``validation`` holds (step, loss, mean RMSE relative to persistence).
    """

    columns: Mapping[str, np.ndarray]
    validation: Sequence[tuple[int, float, float]]

    @classmethod
    def read(cls, path: Path) -> Log:
        """An empty log where there is no file yet. Raises UserError where it cannot be read."""
        rows: list[dict[str, float]] = []
        validation = []
        for record in _records(path):
            numbers = {name: value for name, value in record.items() if _is_number(value)}
            rows.append(numbers)
            scores = record.get("validation")
            if isinstance(scores, dict) and _is_number(scores.get("loss")):
                relative = [one for one in scores.get("relative_rmse", {}).values() if one]
                mean = float(np.mean(relative)) if relative else math.nan
                validation.append((int(numbers["step"]), float(scores["loss"]), mean))
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}
        return cls(columns, validation)

    @property
    def last_step(self) -> int:
        steps = self.columns.get("step")
        return 0 if steps is None or not steps.size else int(steps[-1])

    @property
    def samples_per_second(self) -> float:
        """The median, which pauses do not move; NaN where nothing was logged."""
        speeds = self.columns.get("samples_per_second", np.empty(0))
        return float(np.nanmedian(speeds)) if np.isfinite(speeds).any() else math.nan

    @property
    def hours(self) -> float:
        """Hours of training, from the samples and their speed; NaN where they are not logged."""
        samples = self.columns.get("samples", np.empty(0))
        if samples.size < 2 or "samples_per_second" not in self.columns:
            return math.nan
        between = np.diff(samples, prepend=0.0)
        return float(np.nansum(between / self.columns["samples_per_second"]) / 3600.0)


def charts(log: Log, training: Training) -> list[dict[str, Any]]:
    """The curves of a training, each as the page's script draws it; none without a log."""
    if log.last_step == 0:
        return []
    made = [
        _chart("loss", "Loss", "", log, training),
        _chart("learning_rate", "Learning rate", "", log, training),
        _chart("grad_norm", "Norm of the gradient, before clipping", "", log, training),
        _chart(
            "samples_per_second", "Speed", "samples per second", log, training, may_be_log=False
        ),
    ]
    validated = [one for one in log.validation if math.isfinite(one[2])]
    if validated:
        line = _line(
            "mean of all channels", "model",
            [one[0] for one in validated], [one[2] for one in validated], dots=True,
        )  # fmt: skip
        made.insert(
            2,
            {
                **_frame("Validation: RMSE relative to persistence", "", log.last_step),
                "y": {"label": "", "zero": True},
                "lines": [line],
            },
        )
    return [chart for chart in made if chart is not None]


def _chart(
    column: str, title: str, unit: str, log: Log, training: Training, *, may_be_log: bool = True
) -> dict[str, Any] | None:
    values = log.columns.get(column)
    if values is None or not np.isfinite(values).any():
        return None
    steps, means = _thinned(log.columns["step"], values)
    lines = []
    if column == "learning_rate":
        lines.append(_line("learning rate", "model", steps, means))
    else:
        window = max(1, round(_PART_AVERAGED * len(values)))
        smooth_steps, smooth = _thinned(log.columns["step"], _running_mean(values, window))
        name = {"loss": "training"}.get(column, "") + (", running mean" if window > 1 else "")
        lines.append(_line(name.lstrip(", ") or title, "model", smooth_steps, smooth))
        if column == "loss" and log.validation:
            at, loss = [one[0] for one in log.validation], [one[1] for one in log.validation]
            lines.append(_line("validation", "second", at, loss, dots=True))
        if window > 1:
            lines.append(_line("as logged", "faint", steps, means))
    frame = _frame(title, unit, log.last_step)
    frame["wide"] = column == "loss"
    frame["y"] = {"label": unit, "mayBeLog": may_be_log, "zero": not may_be_log}
    marks = training.rollout if column == "loss" and isinstance(training.rollout, dict) else {}
    frame["marks"] = [
        {"x": step, "text": f"rollout of {length}"}
        for step, length in sorted(marks.items())
        if 0 < step < log.last_step
    ]
    return {**frame, "lines": lines}


def _frame(title: str, unit: str, last_step: int) -> dict[str, Any]:
    return {"title": title, "x": {"label": "step", "max": last_step}, "unit": unit}


def _line(
    name: str, style: str, x: Sequence[float], y: Sequence[float], *, dots: bool = False
) -> dict[str, Any]:
    return {"name": name, "style": style, "x": drawn(x), "y": drawn(y), "dots": dots}


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[list[float], list[float]]:
    """At most so many points that they can be told apart: means of equal stretches."""
    size = math.ceil(len(values) / _MOST_POINTS)
    starts = np.arange(0, len(values), size)
    counts = np.diff(np.append(starts, len(values)))
    at = steps[starts + counts - 1]
    return at.tolist(), (np.add.reduceat(values, starts) / counts).tolist()


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of up to ``window`` values around each; fewer at the ends."""
    filled = np.where(np.isfinite(values), values, 0.0)
    total = np.convolve(filled, np.ones(window), "same")
    number = np.convolve(np.isfinite(values).astype(float), np.ones(window), "same")
    mean = np.full_like(total, np.nan)
    return np.divide(total, number, out=mean, where=number > 0.0)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
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

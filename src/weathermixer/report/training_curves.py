"""The log of a training as curves: all of it where it is short, else means of stretches."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from weathermixer.config import Training
from weathermixer.report.formatting import label_of, short_lead, units_of, values_to_draw
from weathermixer.report.training_log import Course, TrainingLog
from weathermixer.training.forecast_scores import METRICS_BY_NAME
from weathermixer.verification.headline import TABLE_HOURS, headline_channels, headline_leads

_MOST_POINTS = 1200
# A running mean is over this part of what was logged.
_PART_AVERAGED = 0.03
# That can be told apart.
_MOST_LEADS = 6


def training_charts(log: TrainingLog, training: Training) -> list[dict[str, Any]]:
    """The curves of a training, each as the page's script draws it; none without a log."""
    if log.last_step == 0:
        return []
    plain = {"may_be_log": False}
    made: list[dict[str, Any] | None] = [
        _chart("loss", "Loss", "", log, training),
        _chart("learning_rate", "Learning rate", "", log, training),
        _chart("grad_norm", "Norm of the gradient, before clipping", "", log, training),
        _chart("samples_per_second", "Speed", "samples per second", log, training, **plain),
        _chart(
            "peak_fraction", "Of the machine’s rate of matrix products", "", log, training, **plain
        ),
        _waits_chart(log),
    ]
    of_validations: list[dict[str, Any]] = []
    validated = [entry for entry in log.validation if math.isfinite(entry[2])]
    if validated:
        line = _line(
            "mean of all channels", "model",
            [entry[0] for entry in validated], [entry[2] for entry in validated], dots=True,
        )  # fmt: skip
        of_validations.append(
            {
                **_frame("Validation: RMSE relative to persistence", "", log.last_step),
                "y": {"label": "", "zero": True},
                "lines": [line],
            }
        )
    made[2:2] = [*of_validations, *_forecast_charts(log)]
    return [chart for chart in made if chart is not None]


def _forecast_charts(log: TrainingLog) -> Iterator[dict[str, Any]]:
    """What validations score of their forecasts, with a line for each lead time.

    The RMSE is that of all channels, relative to a baseline's. Scores without a unit are means over
    all channels, and of others the first channel of the usual ones is shown.
    """
    for baseline, courses in log.relative.items():
        title = f"Validation forecasts: RMSE relative to {baseline}, mean of all channels"
        chart = _by_lead(title, "", courses, log.last_step)
        yield {**chart, "y": {"label": "", "zero": True}, "limit": 1.0}
    for name, by_channel in log.scores.items():
        metric = METRICS_BY_NAME.get(name)
        if metric is None or not by_channel or name == "rmse":
            continue
        if metric.units == "none":
            title = f"Validation forecasts: {metric.title}, mean of all channels"
            yield _by_lead(title, "", _mean_courses(by_channel.values()), log.last_step)
            continue
        channel = headline_channels(list(by_channel))[0]
        unit, factor = units_of(channel)
        title = f"Validation forecasts: {metric.title}, {label_of(channel)}"
        yield _by_lead(title, unit, by_channel[channel], log.last_step, factor=factor)


def _by_lead(
    title: str,
    unit: str,
    courses: Mapping[float, Course],
    last_step: int,
    *,
    factor: float = 1.0,
) -> dict[str, Any]:
    leads = sorted(courses)
    if len(leads) > _MOST_LEADS:
        leads = [leads[place] for place in headline_leads(leads, TABLE_HOURS)]
    if len(leads) == 1:  # a line alone has no name on the page
        title += f", at {short_lead(leads[0])}"
    lines = [
        _line(
            short_lead(hours),
            f"lead-{number}",
            [step for step, _ in courses[hours]],
            [factor * value for _, value in courses[hours]],
            dots=True,
        )
        for number, hours in enumerate(leads)
    ]
    return {
        **_frame(title, unit, last_step),
        "y": {"label": unit, "zero": False},
        "lines": lines,
    }


def _mean_courses(channels: Iterable[Mapping[float, Course]]) -> dict[float, Course]:
    """The means of channels at each lead time and step, of those that have a score there."""
    values: dict[float, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for courses in channels:
        for hours, course in courses.items():
            for step, value in course:
                values[hours][step].append(value)
    return {
        hours: [(step, float(np.mean(at_step))) for step, at_step in sorted(by_step.items())]
        for hours, by_step in values.items()
    }


def _chart(
    column: str,
    title: str,
    unit: str,
    log: TrainingLog,
    training: Training,
    *,
    may_be_log: bool = True,
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
            at, loss = (
                [entry[0] for entry in log.validation],
                [entry[1] for entry in log.validation],
            )
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


def _waits_chart(log: TrainingLog) -> dict[str, Any] | None:
    """Shares of a step in which samples and other ranks were waited for."""
    lines = []
    for column, name, style in (
        ("waited_for_data", "for samples", "model"),
        ("waited_for_ranks", "for other ranks", "second"),
    ):
        waits, seconds = log.columns.get(column), log.columns.get("seconds_per_step")
        if waits is not None and seconds is not None:
            steps, shares = _thinned(log.columns["step"], waits / seconds)
            lines.append(_line(name, style, steps, shares))
    if not lines:
        return None
    frame = _frame("Share of a step that the rank that waits longest waits", "", log.last_step)
    return {**frame, "y": {"label": "", "zero": True}, "lines": lines}


def _frame(title: str, unit: str, last_step: int) -> dict[str, Any]:
    return {"title": title, "x": {"label": "step", "max": last_step}, "unit": unit}


def _line(
    name: str, style: str, x: Sequence[float], y: Sequence[float], *, dots: bool = False
) -> dict[str, Any]:
    return {
        "name": name,
        "style": style,
        "x": values_to_draw(x),
        "y": values_to_draw(y),
        "dots": dots,
    }


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[list[float], list[float]]:
    """A curve of no more points than can be told apart: means of equal stretches."""
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

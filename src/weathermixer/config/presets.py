"""Defaults that depend on others: the published recipe, and how defaults give way.

What a user sets is kept as it is. A default beside it that would contradict it is replaced by one
that fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import PositiveFloat, PositiveInt, TypeAdapter, ValidationError

from weathermixer.config.dates import Period, parse_period, periods_overlap

# Of arXiv 2507.05753. 1979 to 2016 has 55,520 six-hourly samples; with one in each step, that is an
# epoch of warm-up, and a hundred make a cosine.
PUBLISHED: dict[str, dict[str, Any]] = {
    "model": {
        "prediction": "state",
        "patch": [1, 60],
        "channels": 4320,
        "blocks": 3,
        "token_hidden": 0.5,
        "channel_hidden": 1.0,
        "dropout": 0.001,
    },
    "data": {
        "train": "1979-01-01/2016-12-31T18",
        "validation": "2018-01-01/2018-12-31T18",
    },
    "training": {
        "steps": 5_607_520,
        "instance_batch": 1,
        "loss": "published",
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "edge_learning_rate": 2e-5,
        "betas": [0.9, 0.999],
        "weight_decay": 3e-6,
        "warmup_steps": 55_520,
        "warmup_learning_rate": 1e-6,
        "final_learning_rate": 1e-5,
        "cycle_steps": 5_552_000,
    },
}

_Number = TypeVar("_Number", int, float)
_STEPS = TypeAdapter[int](PositiveInt)
_RATE = TypeAdapter[float](PositiveFloat)
_LOWER_RATES = ("warmup_learning_rate", "final_learning_rate", "edge_learning_rate")


def with_published_defaults(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Fill what a configuration leaves unset from the published recipe, as far as the two agree."""
    filled = dict(chosen)
    for section, defaults in PUBLISHED.items():
        values = chosen.get(section)
        if values is None:
            values = {}
        if isinstance(values, Mapping):
            fitted = _FITTED.get(section, lambda _, defaults: defaults)(values, defaults)
            filled[section] = {**fitted, **values}
    return filled


def fitting_schedule(chosen: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Change the defaults of a schedule to fit the steps and the learning rate that were chosen.

    Warm-up that would not end within the steps takes a tenth of them, and one cosine the rest;
    other schedules have no cycles. No other rate is above the highest.
    """
    fitted = dict(defaults)
    steps = _valid(_STEPS, chosen.get("steps", defaults["steps"]))
    warmup_is_default = "warmup_steps" not in chosen
    if steps is not None and warmup_is_default and steps <= defaults["warmup_steps"]:
        fitted["warmup_steps"] = steps // 10
        fitted["cycle_steps"] = None
    if chosen.get("schedule", "cosine") != "cosine":
        fitted["cycle_steps"] = None
    highest = _valid(_RATE, chosen.get("learning_rate", defaults["learning_rate"]))
    for name in _LOWER_RATES:
        if highest is not None and defaults[name] is not None:
            fitted[name] = min(defaults[name], highest)
    return fitted


def _fitting_periods(chosen: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The default periods without one that would share times with the one that was chosen."""
    fitted = dict(defaults)
    for name, other in (("train", "validation"), ("validation", "train")):
        period = _period(chosen.get(other))
        if period is not None and periods_overlap(period, parse_period(defaults[name])):
            fitted[name] = None
    return fitted


_FITTED = {"data": _fitting_periods, "training": fitting_schedule}


def _valid(kind: TypeAdapter[_Number], value: Any) -> _Number | None:
    """A value as its setting takes it; None where it is refused, which is said elsewhere."""
    try:
        return kind.validate_python(value)
    except ValidationError:
        return None


def _period(value: Any) -> Period | None:
    try:
        return parse_period(value) if isinstance(value, str) else None
    except ValueError:
        return None

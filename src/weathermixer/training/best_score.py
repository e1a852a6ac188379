"""The score of a validation by which ``checkpoint.best`` tells the best checkpoint."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence

from weathermixer.config import Training
from weathermixer.errors import UserError
from weathermixer.training.validation import Validation
from weathermixer.verification.scores import PERSISTENCE

_WHOLE = ("loss", "mean_relative_rmse")
_HIGHER_IS_BETTER = ("acc",)
_DIRECTED = ("rmse", "crps", *_HIGHER_IS_BETTER)


def score_of(scores: Validation, name: str) -> float:
    """The score of a ``name`` that ``require_score`` lets pass; NaN where there is none."""
    match name.split("/"):
        case ["loss" | "mean_relative_rmse"]:
            return float(getattr(scores, name))
        case [channel]:
            return scores.relative_rmse.get(channel, math.nan)
        case ["mean_relative_rmse", hours]:
            return scores.rmse_relative_to.get(PERSISTENCE, {}).get(hours, math.nan)
        case [metric, channel, hours]:
            return scores.scores.get(metric, {}).get(channel, {}).get(hours, math.nan)
    return math.nan


def is_better(name: str, score: float, than: float) -> bool:
    """Whether a score of that name is better than another: lower, but for a correlation."""
    metric, _, _ = name.partition("/")
    return score > than if metric in _HIGHER_IS_BETTER else score < than


def require_score(name: str | None, channels: Sequence[str], training: Training) -> None:
    """Raise UserError where ``checkpoint.best`` is no score of a validation by which one is better.

    ``channels`` are those of the network.
    """
    if name is None:
        return
    leads = [f"{hours:g}" for hours in training.validation_leads]
    of_forecasts = [f"mean_relative_rmse/{hours}" for hours in leads] + [
        f"{metric}/{channel}/{hours}"
        for metric in training.validation_scores
        if metric in _DIRECTED
        for channel in channels
        for hours in leads
    ]
    if name in (*_WHOLE, *channels, *of_forecasts):
        return
    if "/" in name and not leads:
        raise UserError(
            f"checkpoint.best={name} is a score of forecasts, and training.validation_leads lists "
            "no lead time: list some, or choose another"
        )
    near = difflib.get_close_matches(name, [*channels, *of_forecasts], n=1)
    known = ", ".join([*_WHOLE, near[0] if near else channels[0]])
    raise UserError(
        f"checkpoint.best={name} is no score of a validation: choose among {known}"
        f"{'' if near else ' and the other channels'}"
    )

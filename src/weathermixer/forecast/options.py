"""What may be asked of a forecast: refused before anything is loaded where it makes no sense."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weathermixer.errors import UserError

_ADJUSTABLE = (
    "training.dtype",
    "training.latent_rollout",
    "data.reader",
    "parallel.data",
    "parallel.domain",
    "parallel.tensor",
)
ADJUSTABLE_OF_ENSEMBLES = (*_ADJUSTABLE, "training.seed")
"""The settings that may change a forecast, an ensemble at the most."""

UNBOUND = (
    "parallel.data=1",
    "parallel.domain=null",
    "parallel.tensor=null",
    "training.validation_leads=[]",
)
"""What training had of a mesh, and what it was validated by, does not bind a forecast."""


def check_wanted(
    out: Path | None,
    truth: Path | str | None,
    scores: Path | None,
    climatology: str | None,
    *,
    steps: int,
    members: int | None,
) -> None:
    """Refuse a forecast of nothing, one of which nothing would be kept, and half of a score."""
    if steps < 1:
        raise UserError(f"--steps {steps} is impossible: forecast at least one step")
    if members is not None and members < 2:
        raise UserError(
            f"--members {members} is no ensemble: give 2 or more, or leave it out for a single "
            "forecast, which draws nothing"
        )
    if scores is None and (truth is not None or climatology is not None):
        given = "--climatology" if truth is None else "--truth"
        raise UserError(f"{given} is for scores: give --scores too, a folder for them")
    if scores is not None and truth is None:
        raise UserError(f"--scores {scores} needs --truth: give the store of what happened")
    if out is None and scores is None:
        raise UserError(
            "nothing of the forecast would be kept: give --out for its fields, --scores with "
            "--truth for its scores, or both"
        )


def check_overrides(overrides: Sequence[str], members: int | None) -> None:
    """Refuse what a forecast would silently ignore: all that training has settled."""
    adjustable = _ADJUSTABLE if members is None else ADJUSTABLE_OF_ENSEMBLES
    for override in overrides:
        if key_of(override) not in adjustable:
            raise UserError(
                f"{override} cannot change a forecast: only {', '.join(adjustable)} can be set, "
                "everything else is as the run was trained"
            )


def key_of(override: str) -> str:
    """The setting that an override such as ``--training.seed=5`` sets."""
    return override.removeprefix("--").partition("=")[0]

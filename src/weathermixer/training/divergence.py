"""Losses that explode: told from ordinary ones, and the samples that led there left out.

After Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, section 5.1: go back to a checkpoint
from before, and go on with other samples. What is decided depends on the losses of all ranks alone,
and on a file of the run, so that every rank decides alike, and a run that was continued as one that
was not.
"""

from __future__ import annotations

import json
import statistics
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weathermixer.config import Training
from weathermixer.errors import UserError, reason

_CHECKPOINTS_KEPT = 20  # for which recent losses are remembered


class Diverged(UserError):
    """A step whose loss or gradient exploded; ``what`` says how, without what to do about it.

    ``step`` is its number, counted from 1, and ``stop`` the sample after its last one.
    """

    def __init__(self, what: str, remedy: str, *, step: int, stop: int) -> None:
        super().__init__(f"{what} {remedy}")
        self.what, self.step, self.stop = what, step, stop


@dataclass(frozen=True)
class Skip:
    """Samples ``start`` to ``stop - 1``, as they are consumed, which led to a loss that exploded.

    The run went back to ``after_step`` from ``at_step``; ``why`` says what happened there.
    """

    at_step: int
    after_step: int
    start: int
    stop: int
    why: str


@dataclass
class Divergence:
    """What is known of a training's divergences: its recent losses, and what was left out.

    ``path`` is the run's file of it.
    """

    training: Training
    path: Path
    skips: list[Skip] = field(default_factory=list)
    _recent: deque[float] = field(default_factory=deque)
    _remembered: dict[int, list[float]] = field(default_factory=dict)

    @property
    def skipped(self) -> list[range]:
        """The samples to be left out, as they are counted."""
        return [range(skip.start, skip.stop) for skip in self.skips]

    @property
    def may_go_back(self) -> bool:
        """Whether the run goes back where it diverges, and has not done so too often."""
        training = self.training
        return training.on_divergence == "skip" and len(self.skips) < training.most_skips

    def spike(self, step: int, loss: float) -> str | None:
        """What is wrong with a loss of ``step``, counted from 1; None, and noted, where nothing is.

        Where the rollout's schedule goes on to another entry, losses are not to be compared with
        those before, and the window begins anew.
        """
        factor, window = self.training.spike_factor, self.training.spike_window
        if factor is None:
            return None
        if step - 1 in self.training.stages:
            self._recent.clear()
        if len(self._recent) >= window:
            median = statistics.median(self._recent)
            if loss > factor * median:
                return (
                    f"the loss of step {step}, {loss:.4g}, is {loss / median:.3g} times the median "
                    f"of the {window} before"
                )
            self._recent.popleft()
        self._recent.append(loss)
        return None

    def spiked(self, what: str, *, step: int, stop: int, checkpoint: Path | None) -> Diverged:
        """The error of a loss that is a spike, as ``what`` says; ``stop`` as that has it."""
        remedy = (
            f"and training stopped: {checkpoint or 'no checkpoint'} was saved last; lower "
            "training.learning_rate, or go on from there with training.on_divergence=skip"
        )
        return Diverged(what, remedy, step=step, stop=stop)

    def remember(self, step: int) -> bool:
        """Keep the recent losses with the checkpoint of ``step``; whether there is anything new."""
        if self.training.spike_factor is None:
            return False
        self._remembered[step] = list(self._recent)
        for old in sorted(self._remembered)[:-_CHECKPOINTS_KEPT]:
            del self._remembered[old]
        return True

    def return_to(self, step: int) -> None:
        """Take up the losses that were recent when ``step`` was saved."""
        window = self.training.spike_window
        self._recent = deque(self._remembered.get(step, [])[-window:])
        self._remembered = {old: kept for old, kept in self._remembered.items() if old <= step}

    def leave_out(self, diverged: Diverged, *, after_step: int, start: int) -> str:
        """Leave out samples ``start`` to those of a step that diverged; says so in a sentence.

        The run has gone back to ``after_step``.
        """
        self.skips.append(Skip(diverged.step, after_step, start, diverged.stop, diverged.what))
        return (
            f"{diverged.what}: went back to step {after_step} and left out samples {start + 1} to "
            f"{diverged.stop} ({len(self.skips)} of at most {self.training.most_skips} times)"
        )

    def read(self) -> Divergence:
        """What the run's file says, or nothing without one; UserError where it is damaged."""
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            skips = [Skip(**each) for each in values["skips"]]
            remembered = {int(step): kept for step, kept in values["recent_losses"].items()}
        except FileNotFoundError:
            return Divergence(self.training, self.path)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{self.path}, which says what samples are left out, cannot be read "
                f"({_in_words(error)}): copy it again, or remove it to meet those samples again"
            ) from error
        return Divergence(self.training, self.path, skips, _remembered=remembered)

    def write(self) -> None:
        """Write it into the run's file; UserError where that is impossible."""
        values: dict[str, Any] = {
            "skips": [vars(skip) for skip in self.skips],
            "recent_losses": self._remembered,
        }
        partial = self.path.with_name(self.path.name + ".partial")
        try:
            partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
            partial.replace(self.path)
        except OSError as error:
            raise UserError(
                f"{self.path}, which says what samples are left out, cannot be written "
                f"({reason(error)}): free some space or make the folder writable"
            ) from error


def _in_words(error: Exception) -> str:
    return reason(error) if isinstance(error, OSError) else "it is damaged"

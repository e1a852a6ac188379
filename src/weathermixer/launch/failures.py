"""Why ranks ended, what each said of it, and which of several failures caused the others."""

from __future__ import annotations

import json
import signal
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self


class RankFailed(RuntimeError):
    """A rank failed, and the others were stopped; its message is the sentence for the user.

    ``status`` is that of the command; ``details`` are a traceback or what else the rank wrote.
    """

    def __init__(self, sentence: str, status: int, details: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.details = details


class RanksMissing(RuntimeError):
    """Ranks that did not come in time, in a sentence for the user.

    Not taken for the user's mistake: a node may have failed, and another attempt may do.
    """


@dataclass(frozen=True)
class LastWords:
    """Why a rank failed, as it said itself.

    ``sentence`` is for the user, ``status`` the one to exit with, and ``traceback`` that of the
    error. ``rank_lost`` says that it only noticed another's end, ``interrupted`` that it obeyed a
    signal, and ``is_verdict`` that the ranks gave up one that had stopped answering, or all of
    them. ``time`` is that of its machine, in seconds.
    """

    sentence: str
    status: int
    rank_lost: bool
    interrupted: bool
    traceback: str
    time: float
    is_verdict: bool = False

    @classmethod
    def of(cls, error: BaseException, sentence: str, status: int, *, rank_lost: bool) -> Self:
        """The last words for an error that is being handled now."""
        return cls(
            sentence,
            status,
            rank_lost,
            # The command line's library puts an exception of its own around it.
            isinstance(error.__cause__ or error, KeyboardInterrupt),
            "".join(traceback.format_exception(error)),
            time.time(),
        )

    def write(self, folder: Path, rank: int) -> None:
        """Write the words where the process that started this rank looks; OSError if impossible."""
        file = _file(folder, rank)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self)), encoding="utf-8")
        partial.replace(file)

    @classmethod
    def read(cls, folder: Path, rank: int) -> Self | None:
        """Read the words that a rank wrote into ``folder``; None where it wrote none."""
        file = _file(folder, rank)
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


@dataclass(frozen=True)
class Failure:
    """How a rank failed.

    ``status`` is its exit status as ``subprocess`` counts it, None where nobody asked; ``host``
    its machine, where ranks run on several; ``words`` is what it said itself, ``time`` when it was
    heard of, in seconds, ``output`` what else it wrote, and ``place`` where in the program it was
    heard last, if it was.
    """

    rank: int
    status: int | None
    words: LastWords | None
    time: float
    host: str = ""
    output: str = ""
    place: str = ""

    def is_consequence_of(self, signal_number: int | None) -> bool:
        """Whether a signal that was sent to all ranks explains this failure."""
        if signal_number is None:
            return False
        if self.words is None:
            return self.status == -signal_number
        return self.words.interrupted or self.words.rank_lost

    def error(self, remedy: str) -> RankFailed:
        """The error for the user: the rank's own words or, where it left none, what became of it.

        ``remedy`` ends the sentence on a rank that left no words.
        """
        if self.words is not None:
            return RankFailed(self.words.sentence, self.words.status, self.words.traceback)
        if self.status is None:
            end = "ended without a word"
        elif self.status < 0:
            end = f"was killed by {signal.Signals(-self.status).name}"
        else:
            end = f"ended with status {self.status} and without a word"
        where = f" on {self.host}" if self.host else ""
        place = f" (last heard {self.place})" if self.place else ""
        return RankFailed(
            f"Error: rank {self.rank}{where} {end}{place}, so the other ranks were stopped: "
            f"{remedy}",
            1,
            self.output,
        )


def first_cause(failures: Sequence[Failure]) -> Failure:
    """The failure that most likely caused the others.

    Times alone would not do, since a rank that loses another may be heard of first.
    """
    return min(failures, key=_weakness)


def _weakness(failure: Failure) -> tuple[int, float]:
    """Orders failures: first what is more likely to be the cause of the others, then by time."""
    words = failure.words
    if words is None:
        # A library that loses its connection may abort.
        return (3 if failure.status == -signal.SIGABRT else 1), failure.time
    if words.is_verdict:
        return -1, words.time
    if words.rank_lost:
        return 4, words.time
    if words.interrupted:
        return 3, words.time
    return (0 if words.status == 2 else 2), words.time


def _file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.json"

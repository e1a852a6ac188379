"""The last words of a rank, left in a file for the process that started it to judge."""

from __future__ import annotations

import json
import os
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from weathermixer.launch.place import place_in

REPORTS = "WEATHERMIXER_REPORTS"
"""Names the folder for reports, to ranks that were started by ``start.py``."""


@dataclass(frozen=True)
class Report:
    """Why a rank failed.

    ``rank_lost`` says that it only noticed another's end, ``interrupted`` that it obeyed a signal.
    ``time`` is that of the machine, in seconds.
    """

    sentence: str
    status: int
    rank_lost: bool
    interrupted: bool
    traceback: str
    time: float

    @classmethod
    def of(cls, error: BaseException, sentence: str, status: int, *, rank_lost: bool) -> Self:
        """What there is to say of an error now."""
        return cls(
            sentence,
            status,
            rank_lost,
            # The command line's library puts an exception of its own around it.
            isinstance(error.__cause__ or error, KeyboardInterrupt),
            "".join(traceback.format_exception(error)),
            time.time(),
        )

    def leave(self) -> None:
        """Write it where the process that started this rank looks."""
        file = _file(Path(os.environ[REPORTS]), place_in(os.environ).rank)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self)), encoding="utf-8")
        partial.replace(file)

    @classmethod
    def of_rank(cls, folder: Path, rank: int) -> Self | None:
        """What a rank left, where it did."""
        file = _file(folder, rank)
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def _file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.json"

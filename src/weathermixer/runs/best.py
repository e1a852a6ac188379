"""Which checkpoint of a run scored best: ``checkpoints/best.json``.

A score is known before its checkpoint is whole. So the file also names the best before it, and the
best is the last of those named that is there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from weathermixer.errors import UserError
from weathermixer.runs.checkpoint import checkpoint_path


def best_file(folder: Path) -> Path:
    """The file of the best checkpoint in a folder of checkpoints."""
    return folder / "best.json"


@dataclass(frozen=True)
class Scored:
    """The score of a step, of which there is a checkpoint, or will be."""

    step: int
    score: float


def write_best(folder: Path, name: str, scored: Sequence[Scored]) -> None:
    """Write which steps scored best by the score ``name``, the best last; OSError if impossible."""
    file = best_file(folder)
    partial = file.with_name(file.name + ".partial")
    record = {"score": name, "checkpoints": [asdict(each) for each in scored]}
    partial.write_text(json.dumps(record) + "\n", encoding="utf-8")
    partial.replace(file)


def read_best(folder: Path, name: str | None = None) -> list[Scored]:
    """The steps that scored best by the score ``name``, or by that of the run; the best last.

    None of them where they were of another score. Raises UserError where the file is damaged.
    """
    file = best_file(folder)
    try:
        record = json.loads(file.read_bytes())
        if name is not None and record["score"] != name:
            return []
        return [Scored(int(each["step"]), float(each["score"])) for each in record["checkpoints"]]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): make it readable") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is damaged: remove it, and the best is found again from the next validation on"
        ) from error


def best_checkpoint(folder: Path, scored: Sequence[Scored]) -> Path | None:
    """The path of the best checkpoint that is whole; None where there is none."""
    paths = (checkpoint_path(folder, each.step) for each in reversed(scored))
    return next((path for path in paths if path.is_dir()), None)

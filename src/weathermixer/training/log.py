"""What a training records for later: ``log.jsonl``, and the same numbers as TensorBoard's events.

``log.jsonl`` holds one JSON object for each logged step. A record that cannot be written is said
once and left out; it never ends a training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weathermixer.errors import reason
from weathermixer.training.notices import Notices
from weathermixer.training.tail import replace_tail

if TYPE_CHECKING:
    from weathermixer.training.events import EventFile


class RunLog:
    """The records of a run, by step, in ``log.jsonl`` and, where wanted, in TensorBoard's events.

    Records of steps after ``start_step`` are removed first: an interrupted training took these
    steps after its last checkpoint, and they will be taken again. The first new record also says
    what is in ``about``, which describes the training that begins.
    """

    def __init__(
        self,
        path: Path,
        *,
        tensorboard: bool,
        start_step: int,
        about: Mapping[str, Any],
        notices: Notices,
    ) -> None:
        self._path, self._notices = path, notices
        self._start_step, self._about = start_step, about
        self._record: dict[str, Any] = {}  # the newest, which starts at this byte
        self._start = self._end = 0
        self._wants_events = tensorboard
        self._events: EventFile | None = None
        try:
            self._keep_until(start_step)
        except OSError as error:
            self._say(error)

    def lacks_validation(self, step: int) -> bool:
        """Whether the newest record is not of ``step``, or holds no validation."""
        return self._record.get("step") != step or "validation" not in self._record

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Record what is known after ``step`` steps; values are numbers, or mappings of them.

        A second record of the same step is joined to the first.
        """
        joined = self._record if self._record.get("step") == step else {}
        start = self._start if joined else self._end
        about = self._about if step > self._start_step else {}
        whole = {"step": step, **joined, **record, **about}
        line = json.dumps(whole).encode() + b"\n"
        try:
            # Somebody may have removed it.
            start = min(start, self._path.stat().st_size if self._path.exists() else 0)
            replace_tail(self._path, start, line)
        except OSError as error:
            self._say(error)
        else:
            self._record, self._start, self._end = whole, start, start + len(line)
            self._about = {} if about else self._about
        if self._wants_events:
            self._write_events(step, record)

    def _keep_until(self, last_step: int) -> None:
        """Cut the file after its last record that is not of a later step."""
        if not self._path.exists():
            return
        content = self._path.read_bytes()
        place = 0
        for line in content.splitlines(keepends=True):
            record = _parsed(line)
            if record is not None and record["step"] <= last_step:
                self._record, self._start, self._end = record, place, place + len(line)
            place += len(line)
        if self._end < place:
            replace_tail(self._path, self._end, b"")

    def _write_events(self, step: int, record: Mapping[str, Any]) -> None:
        try:
            if self._events is None:
                from weathermixer.training.events import EventFile  # slow to import

                self._events = EventFile(self._path.parent, first_step=self._start_step + 1)
            self._events.write(step, dict(flat_numbers(record)))
        except (OSError, ImportError, TypeError) as error:
            # A protobuf that does not suit TensorBoard is a TypeError.
            self._notices.say_once(
                "events",
                f"TensorBoard's events cannot be written into {self._path.parent} "
                f"({reason(error)}): training goes on without them; free some space, make the "
                "folder writable, or set logging.tensorboard=false",
            )

    def _say(self, error: OSError) -> None:
        self._notices.say_once(
            "log",
            f"the log {self._path} cannot be written ({reason(error)}): training goes on, and what "
            "it records is lost until some space is freed or the folder can be written again",
        )


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The record in a line, or None where the line was torn when a process was killed."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    whole = line.endswith(b"\n") and isinstance(record, dict) and "step" in record
    return record if whole else None


def flat_numbers(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """The numbers of a record, with names of mappings before theirs.

    >>> flat_numbers({"loss": 2, "validation": {"loss": 0.5}})
    [('loss', 2.0), ('validation/loss', 0.5)]
    """
    flat = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat += flat_numbers(value, f"{prefix}{name}/")
        else:
            flat.append((prefix + name, float(value)))
    return flat

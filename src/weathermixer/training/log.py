"""What a training says: a line for the person who waits, and records for later.

``log.jsonl`` holds one JSON object for each logged step; TensorBoard's events hold the same
numbers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from weathermixer.errors import UserError

_SECONDS_BETWEEN_LINES = 15.0


class _Scalars(Protocol):
    """The part of TensorBoard's writer that is used here."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...
    def close(self) -> None: ...


class RunLog:
    """Appends records to ``log.jsonl`` and, where wanted, to TensorBoard's events.

    Records of steps after ``start_step`` are removed first: an interrupted training took these
    steps after its last checkpoint, and they will be taken again.
    """

    def __init__(self, path: Path, *, tensorboard: bool, start_step: int) -> None:
        _truncate(path, start_step)
        # Without a buffer, what a full disk did not take is not tried again on closing.
        self._file = path.open("ab", buffering=0)
        self._events: _Scalars | None = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

            self._events = SummaryWriter(str(path.parent), purge_step=start_step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Record what is known after ``step`` steps; values are numbers, or mappings of them."""
        try:
            self._file.write(json.dumps({"step": step, **record}).encode() + b"\n")
        except OSError as error:
            raise UserError(
                f"the log {self._file.name} cannot be written ({error.strerror or error}): free "
                "some space, then continue with --resume"
            ) from error
        if self._events is not None:
            for tag, value in _flat(record):
                self._events.add_scalar(tag, value, step)


class ProgressLine:
    """Steps done, numbers of the moment and the time left: a bar on a terminal, lines elsewhere."""

    def __init__(self, console: Console, start_step: int, steps: int) -> None:
        self._console = console
        self._start_step = start_step
        self._steps = steps
        self._stack = ExitStack()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._said = self._began - _SECONDS_BETWEEN_LINES
        if self._console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"))
            self._bar = self._stack.enter_context(Progress(*columns, console=self._console))
            self._bar.add_task("", total=self._steps, completed=self._start_step, numbers="")
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.close()

    def update(self, step: int, loss: float, rate: float, samples_per_second: float) -> None:
        """Say where the training stands after ``step`` steps."""
        now = time.monotonic()
        if self._bar is None and now - self._said < _SECONDS_BETWEEN_LINES and step < self._steps:
            return
        self._said = now
        left = (now - self._began) / (step - self._start_step) * (self._steps - step)
        numbers = (
            f"loss {loss:.4g}, rate {rate:.2e}, {samples_per_second:.3g} samples/s, "
            f"{_duration(left)} left"
        )
        if self._bar is None:
            self.say(f"step {step} of {self._steps}: {numbers}")
        else:
            self._bar.update(self._bar.task_ids[0], completed=step, numbers=numbers)

    def say(self, sentence: str) -> None:
        """A line of its own."""
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def _truncate(path: Path, last_step: int) -> None:
    if not path.exists():
        return
    kept = [
        line
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        if _is_until(line, last_step)
    ]
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(path)


def _is_until(line: str, last_step: int) -> bool:
    try:
        return bool(json.loads(line)["step"] <= last_step)
    except json.JSONDecodeError:
        return False  # torn when the process was killed


def _flat(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    flat = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{name}/")
        else:
            flat.append((prefix + name, float(value)))
    return flat


def _duration(seconds: float) -> str:
    """
    >>> [_duration(seconds) for seconds in (8.4, 95, 7300)]
    ['8 s', '1 min 35 s', '2 h 1 min']
    """
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"

"""What a training shows while it runs: a bar on a terminal, an occasional line elsewhere."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from weathermixer.training.notices import Notices

_SECONDS_BETWEEN_LINES = 15.0


def notices_on(console: Console) -> Notices:
    """Notices that are written to a console, as plain text."""
    return Notices(lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True))


class ProgressLine:
    """Shows steps done, the newest numbers and the time left, from ``start_step`` to ``steps``.

    A console that cannot be written any more is left alone.
    """

    def __init__(self, console: Console, notices: Notices, start_step: int, steps: int) -> None:
        self._console, self._notices = console, notices
        self._start_step, self._steps = start_step, steps
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._said = self._began - _SECONDS_BETWEEN_LINES
        if self._console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"))
            bar = Progress(*columns, console=self._console)
            bar.add_task("", total=self._steps, completed=self._start_step, numbers="")
            self._bar = bar if self._notices.try_to_show(bar.start) else None
        return self

    def __exit__(self, *details: object) -> None:
        if self._bar is not None:
            self._notices.try_to_show(self._bar.stop)

    def update(
        self,
        step: int,
        loss: float,
        rate: float,
        samples_per_second: float,
        peak_fraction: float | None = None,
    ) -> None:
        """Show where the training stands after ``step`` steps; ``rate`` is the learning rate.

        ``peak_fraction`` is what is reached of the machine's rate of matrix products, if known.
        """
        now = time.monotonic()
        if self._bar is None and now - self._said < _SECONDS_BETWEEN_LINES and step < self._steps:
            return
        self._said = now
        left = (now - self._began) / (step - self._start_step) * (self._steps - step)
        # What is nothing to speak of, as on a model of a few thousand weights, is not spoken of.
        share = peak_fraction or 0.0
        reached = f"{100 * share:.2g}% of peak, " if share > 1e-3 else ""
        numbers = (
            f"loss {loss:.4g}, rate {rate:.2e}, {samples_per_second:.3g} samples/s, "
            f"{reached}{_duration(left)} left"
        )
        if self._bar is None:
            self._notices.say(f"step {step} of {self._steps}: {numbers}")
        else:
            self._bar.update(self._bar.task_ids[0], completed=step, numbers=numbers)


def _duration(seconds: float) -> str:
    """A number of seconds as people read it.

    >>> [_duration(seconds) for seconds in (8.4, 95, 7300)]
    ['8 s', '1 min 35 s', '2 h 1 min']
    """
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"

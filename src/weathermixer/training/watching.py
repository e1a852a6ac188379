"""What watches a training: its log, events and progress, and when it validates.

Nothing here changes a weight, and nothing that fails here ends a training: it is said, once for
each kind of trouble, and the steps go on.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any, Self

from rich.console import Console

from weathermixer.errors import UserError, reason
from weathermixer.jigsaw.mesh import from_first_rank, is_first_rank
from weathermixer.launch.ranks import this_rank
from weathermixer.training.history import StepReport
from weathermixer.training.log import RunLog, flat_numbers
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.measures import RankMeasure, measured_together, numbers_of
from weathermixer.training.power import PowerMeter
from weathermixer.training.profiling import StepProfiler
from weathermixer.training.progress import ProgressLine
from weathermixer.training.rank_log import RankLog, RankNotes
from weathermixer.training.result import TrainResult, sizes_of
from weathermixer.training.schedule import learning_rate
from weathermixer.training.stalls import StallWatch
from weathermixer.training.trackers import Trackers
from weathermixer.verification.scores import PERSISTENCE


class Watch:
    """Watches a training loop on every rank; the first one records steps and says what there is.

    Steps are recorded before they are saved, and validated after it. A record of a validation that
    was cut off, or could not be made, is made up for when the run is continued.
    """

    def __init__(self, loop: TrainingLoop, console: Console) -> None:
        self._loop, self._config = loop, loop.job.config
        self._newest = start = loop.state.step
        self._log = self._open_log(start)
        end = self._config.training.steps
        if not is_first_rank():
            console = Console(quiet=True)
        self._trackers: Trackers | None = None
        if is_first_rank() and (self._config.logging.mlflow or self._config.logging.wandb):
            self._trackers = Trackers(self._config, loop.run.path, loop.notices)
        self._line = ProgressLine(console, loop.notices, start, end)
        self._logged = loop.history.effort  # what steps had taken when one was last logged
        is_first_here = this_rank().local_rank == 0
        self._power = PowerMeter(loop.job.mesh.device, answers=is_first_here)
        rank = loop.job.mesh.layout.rank
        self._profiler = StepProfiler(
            self._config.logging.profiled_steps,
            loop.run.profiles,
            rank=rank,
            device=loop.job.mesh.device,
            notices=loop.notices,
        )
        self._notes: RankNotes | None = None
        note: Callable[[str], None] = _nothing
        if self._config.logging.writes_ranks(loop.job.mesh.layout.world_size):
            log = RankLog(loop.run.rank_log(rank), loop.notices)
            note, self._notes = log.write, RankNotes(log)
            loop.notices.listen(note)
        self._stalls = StallWatch(loop.notices.say, note, lambda: loop.state.step, rank=rank)

    def __enter__(self) -> Self:
        self._line.__enter__()
        step = self._loop.state.step
        if self._notes is not None:
            self._notes.begin(self._loop.job.mesh, step=step, checkpoint=self._loop.checkpoint)
        self._stalls.__enter__()
        # As the first rank, which has the log, knows.
        if self._is_due(step) and from_first_rank(
            lambda: self._log is not None and self._log.lacks_validation(step)
        ):
            self._validate()
        if is_first_rank() and self._loop.state.step < self._config.training.steps:
            self._loop.notices.say(self._loop.job.choice.reason)
        steps, profiled = self._config.training.steps, self._config.logging.profiled_steps
        if any(each.stop > steps + 1 for each in profiled):
            self._loop.notices.say(
                f"logging.profile lists steps after the last one, {steps}, of which there will be "
                "no profile"
            )
        self._profiler.before(step + 1)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._stalls.__exit__()
        if self._trackers is not None:
            self._trackers.close()
        self._profiler.after(self._loop.state.step, is_last=True)
        if self._notes is not None:
            self._notes.end(self._loop.state.step, error)
        self._line.__exit__(kind, error, traceback)

    def record(self, step: StepReport) -> None:
        """Show and record a step, where it is one to be logged."""
        if step.number <= self._newest:
            self._begin_again(step.number - 1)
        self._newest = step.number
        self._stalls.take_note(step.seconds)
        self._profiler.after(step.number)
        training, every = self._config.training, self._config.logging.every
        is_last = step.stopped_by is not None or step.number == training.steps
        if not (is_last or step.number % every == 0):
            return
        rate = learning_rate(step.number - 1, training)
        job, effort = self._loop.job, self._loop.history.effort
        own = RankMeasure.now(effort.since(self._logged), job.mesh.device, self._power.watts())
        self._logged = effort
        if self._notes is not None:
            self._notes.step(step.number, step.loss, own)
        batch = training.instance_batch * job.mesh.layout.data // training.pool
        numbers = numbers_of(measured_together(own), samples_per_step=batch, choice=job.choice)
        self._line.update(
            step.number,
            step.loss,
            rate,
            numbers["samples_per_second"],
            numbers.get("peak_fraction"),
        )
        self._write(
            step.number,
            {
                "samples": self._loop.state.samples,
                "loss": step.loss,
                "grad_norm": step.grad_norm,
                "learning_rate": rate,
                **numbers,
            },
        )

    def validate(self, step: StepReport) -> None:
        """Validate after a step where that is due, unless the training is to stop."""
        if step.stopped_by is None and self._is_due(step.number):
            self._validate()
        if step.number < self._config.training.steps:
            self._profiler.before(step.number + 1)

    def save_result(self, result: TrainResult) -> None:
        """Write the result of the training into the folder of its run, and say what steps took.

        Only the first rank does.
        """
        if not is_first_rank():
            return
        if result.seconds_per_step:
            # The first step also begins everything.
            seconds = statistics.median(result.seconds_per_step[1:] or result.seconds_per_step)
            predicted = self._loop.job.choice.seconds
            of_those = "" if math.isnan(predicted) else f", predicted were {predicted:.3g} s"
            self._loop.notices.say(f"a step took {seconds:.3g} s (median){of_those}")
        path = self._loop.run.training_result
        try:
            result.save(path)
        except OSError as error:
            self._loop.notices.say_once(
                "result",
                f"the result {path} cannot be written ({reason(error)}): the checkpoint "
                f"{result.checkpoint} is whole; free some space or make the folder writable",
            )

    def _open_log(self, start: int) -> RunLog | None:
        """The log, on the first rank, without what it says of steps after ``start``."""
        if not is_first_rank():
            return None
        return RunLog(
            self._loop.run.log,
            tensorboard=self._config.logging.tensorboard,
            start_step=start,
            about={"layout": sizes_of(self._loop.job.mesh.layout)},
            notices=self._loop.notices,
        )

    def _begin_again(self, start: int) -> None:
        """Record that the training diverged, and went back to after the step ``start``."""
        self._log = self._open_log(start)
        skip = self._loop.divergence.skips[-1]
        self._write(
            start, {"skipped": {"at_step": skip.at_step, "start": skip.start, "stop": skip.stop}}
        )

    def _is_due(self, step: int) -> bool:
        training = self._config.training
        due = step % training.validate_every == 0 or step == training.steps
        return step > 0 and due and len(self._loop.validation_samples) > 0

    def _validate(self) -> None:
        number, notices = self._loop.state.step, self._loop.notices
        try:
            scores = self._loop.validate()
        except UserError as error:
            notices.say_once(
                "validation",
                f"the validation of step {number} is left out ({error}): training goes on, and "
                "will try again at the next",
            )
            return
        of_forecasts = "".join(
            f", {ratio:.3f} at {hours} h"
            for hours, ratio in scores.rmse_relative_to.get(PERSISTENCE, {}).items()
        )
        notices.say(
            f"step {number}: validation loss {scores.loss:.4g}, errors "
            f"{scores.mean_relative_rmse:.3f} of persistence's on average{of_forecasts}"
        )
        self._write(number, {"validation": scores.to_json()})
        self._loop.keep_if_best(scores)

    def _write(self, step: int, record: dict[str, Any]) -> None:
        if self._log is not None:
            self._log.write(step, record)
        if self._trackers is not None:
            self._trackers.write(step, dict(flat_numbers(record)))


def _nothing(_: str) -> None:
    """Take no note, where ranks write no logs."""

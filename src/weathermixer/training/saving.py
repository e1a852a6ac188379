"""Saving a training while it goes on: begun after one step, written during those that follow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from weathermixer.config import Checkpoint
from weathermixer.errors import UserError, reason
from weathermixer.jigsaw.mesh import from_first_rank, is_first_rank, world_size
from weathermixer.runs import checkpoint
from weathermixer.runs.best import Scored, best_checkpoint, read_best, write_best
from weathermixer.runs.checkpoint_index import DamagedCheckpoint
from weathermixer.runs.run import Run
from weathermixer.runs.saving import CheckpointWriter
from weathermixer.training.best_score import is_better, score_of
from weathermixer.training.notices import Notices
from weathermixer.training.state import TrainingState
from weathermixer.training.validation import Validation


class Saver:
    """Saves a training's state; every rank calls each method at the same step.

    ``newest`` is the newest checkpoint that is whole, and ``seconds`` how long this rank's steps
    were held up by saving. Saving raises UserError, alike on all ranks and with the checkpoint
    before kept, where one cannot be written; old ones that cannot be removed are only said.

    Kept are the newest few, and the one whose validation was best by ``settings.best``. Before a
    checkpoint is begun, ``begins`` is called.
    """

    def __init__(
        self,
        run: Run,
        settings: Checkpoint,
        state: TrainingState,
        notices: Notices,
        *,
        begins: Callable[[], None],
    ) -> None:
        self.newest: Path | None = None
        self.seconds = 0.0
        self._run, self._settings, self._state, self._notices = run, settings, state, notices
        self._begins = begins
        self._writer = CheckpointWriter(self._tidy)
        self._last_step = -1  # of which there is a checkpoint, or will be
        self._trouble: str | None = None  # that the thread has met
        self._scored: list[Scored] = []  # the best, and the best before it
        state.optimizer.register_step_pre_hook(lambda *_: self.hold_back())

    def load(self, paths: Sequence[Path]) -> None:
        """Take over what was saved in the first of some checkpoints that is not damaged.

        Those before it are set aside, and that is said. Raises UserError, alike on all ranks, where
        one does not fit, and DamagedCheckpoint, of the first, where all are damaged.
        """
        self.finish()
        damaged: list[tuple[Path, DamagedCheckpoint]] = []
        for path in paths:
            try:
                self._state.load(path, self._notices)
            except DamagedCheckpoint as error:
                damaged.append((path, error))
            else:
                break
        else:
            raise damaged[0][1]
        self.newest, self._last_step = path, self._state.step
        self._scored = from_first_rank(self._scored_before)
        for other, found in damaged:
            aside = from_first_rank(partial(checkpoint.set_aside, other))
            self._notices.say(
                f"{found.problem}: this checkpoint is {aside.name} from now on, and {path.name} is "
                "used"
            )

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint was begun and is not whole yet."""
        return self._writer.is_busy

    @property
    def has_written(self) -> bool:
        """Whether this rank has something to tell the others with its next step."""
        return self._writer.has_ended

    def begin(self) -> None:
        """Begin to save the state as it is, unless that was done; waits for the one before."""
        if self._last_step == self._state.step:
            return
        with self._holding_up():
            if self.is_busy:
                self._notices.say_once(
                    "slow checkpoints",
                    f"the checkpoint after step {self._last_step} is still being written when the "
                    "next is due, so training waits for it: raise checkpoint.every",
                )
                self._finish()
            self._begins()
            path = checkpoint.checkpoint_path(self._run.checkpoints, self._state.step)
            self._writer.begin(path, self._state.tensors())
        self._last_step = self._state.step

    def consider(self, scores: Validation) -> None:
        """Keep the state as it is where its validation is better than all before."""
        name = self._settings.best
        if name is None:
            return
        score = score_of(scores, name)
        if math.isnan(score):
            self._notices.say_once("score", f"the validation has no {name}, so none is the best")
            return
        if self._scored and not is_better(name, score, self._scored[-1].score):
            return
        self.begin()
        self._scored = [*self._scored[-1:], Scored(self._state.step, score)]
        if is_first_rank():
            try:
                write_best(self._run.checkpoints, name, self._scored)
            except OSError as error:
                self._notices.say_once(
                    "best",
                    f"which checkpoint is the best cannot be written into {self._run.checkpoints} "
                    f"({reason(error)}): training goes on; free some space, or make the folder "
                    "writable",
                )

    def go_on(self, num_written: int) -> None:
        """Go on with what is being written where all ranks have told that they have come so far."""
        if self.is_busy and num_written == world_size():
            with self._holding_up():
                self._note(self._writer.advance())

    def hold_back(self) -> None:
        """Call before weights change: on an accelerator, that waits until they are copied."""
        self._writer.hold_back()

    def finish(self) -> None:
        """Wait until what was begun is written."""
        with self._holding_up():
            self._finish()

    def close(self) -> None:
        """End the thread that writes; what it has not written is no checkpoint.

        One rank alone, which need not ask others, writes what it has begun.
        """
        if world_size() == 1:
            with suppress(UserError):  # there is another error, or nobody asked for a checkpoint
                self._finish()
        self._writer.close()

    def _finish(self) -> None:
        self._note(self._writer.finish())

    def _note(self, written: Path | None) -> None:
        if written is not None:
            self.newest = written
        if self._trouble is not None:
            self._notices.say_once("old checkpoints", self._trouble)

    def _scored_before(self) -> list[Scored]:
        """What is known of the best until this step; later steps will be taken again."""
        if self._settings.best is None:
            return []
        scored = read_best(self._run.checkpoints, self._settings.best)
        return [each for each in scored if each.step <= self._state.step]

    def _tidy(self, path: Path) -> None:
        """Remove old checkpoints, on the thread of the first rank, since ``path`` is whole."""
        best = best_checkpoint(path.parent, self._scored)
        try:
            checkpoint.remove_old(path.parent, self._settings.keep, but=[best] if best else [])
        except OSError as error:
            self._trouble = (
                f"old checkpoints in {path.parent} cannot be removed ({reason(error)}): training "
                "goes on; remove them yourself, or make the folder writable"
            )

    @contextmanager
    def _holding_up(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began

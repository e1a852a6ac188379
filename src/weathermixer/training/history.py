"""What the steps of a training came to and what they took, and the result that sums them up.

A training of weeks takes millions of steps: what there is of each is kept once, by the first rank,
and on disk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from weathermixer.jigsaw.mesh import Mesh, from_first_rank, gather_objects, is_first_rank
from weathermixer.jigsaw.pieces import local_parameters
from weathermixer.training.effort import Effort
from weathermixer.training.measures import peak_memory_bytes
from weathermixer.training.optimizer import optimizer_tensors, total_bytes
from weathermixer.training.result import TrainResult
from weathermixer.training.spool import Spool
from weathermixer.training.state import TrainingState
from weathermixer.training.validation import Validation


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step came to; ``number`` is its number in the run, counted from 1.

    ``loss`` is the weighted mean over all samples of all replicas, ``grad_norm`` that of the whole
    gradient before clipping, and ``seconds`` what the step took on this rank, with its waits.
    ``stopped_by`` names the signal by which any rank was asked to stop, if one was.
    """

    number: int
    loss: float
    grad_norm: float
    seconds: float
    stopped_by: str | None = None


class History:
    """The steps that this training has taken since ``start_step``, and the ``effort`` they took."""

    def __init__(self, start_step: int = 0) -> None:
        self.start_step = start_step
        self.effort = Effort()
        self._keeps = is_first_rank()
        self._steps, self._validations = Spool(), Spool()

    def add(self, step: StepReport, effort: Effort) -> None:
        """Count in a step and what it took on this rank."""
        self.effort += effort
        if self._keeps:
            self._steps.append((step.loss, step.grad_norm, step.seconds))

    def rewind(self, step: int) -> None:
        """Forget what steps after ``step`` came to, which are going to be taken again."""
        if self._keeps:
            self._steps.append([max(0, step - self.start_step)])  # how many are left

    def add_validation(self, step: int, scores: Validation) -> None:
        """Note the scores that were computed after a step; those of an earlier time are void."""
        if self._keeps:
            self._validations.append((step, scores.to_json()))

    def result(
        self,
        state: TrainingState,
        mesh: Mesh,
        *,
        dtype: str,
        checkpoint: Path,
        saving_seconds: float,
        stopped_by: str | None,
    ) -> TrainResult:
        """Sum up the training so far; all ranks call this together, and get the same result.

        ``checkpoint`` is the one that it led to, ``saving_seconds`` how long saving held up this
        rank, and ``stopped_by`` the signal that ended it, if any.
        """
        effort, taken = self.effort, max(1, self.effort.steps)
        averages = optimizer_tensors(state.replicas.parameters(), state.optimizer)
        by_rank = zip(
            *gather_objects(
                (
                    effort.bytes_sent // taken,
                    effort.bytes_read // taken,
                    effort.flops // taken,
                    effort.exchanges // taken,
                    effort.waited_for_data / taken,
                    effort.waited_for_ranks_per_step,
                    peak_memory_bytes(mesh.device),
                    total_bytes(state.model.parameters()),
                    total_bytes(averages.values()),
                    saving_seconds,
                )
            ),
            strict=True,
        )
        (
            sent, read, flops, exchanges, for_data, for_ranks, memory, parameters, optimizer, saving
        ) = map(list, by_rank)  # fmt: skip

        def result() -> TrainResult:
            loss, grad_norm, seconds = _columns(self._steps)
            return TrainResult(
                layout=mesh.layout.at(0),
                dtype=dtype,
                parameters=sum(
                    math.prod(local.piece.block.shape) for local in local_parameters(state.model)
                ),
                start_step=self.start_step,
                loss=loss,
                grad_norm=grad_norm,
                seconds_per_step=seconds,
                bytes_sent_per_step=sent,
                bytes_read_per_step=read,
                flops_per_step=flops,
                exchanges_per_step=exchanges,
                waited_for_data=for_data,
                waited_for_ranks=for_ranks,
                peak_memory_bytes=memory,
                parameter_bytes=parameters,
                optimizer_bytes=optimizer,
                saving_seconds=saving,
                samples_seen=state.samples,
                checkpoint=checkpoint,
                validation={
                    step: Validation.from_json(scores) for step, scores in self._validations
                },
                stopped_by=stopped_by,
            )

        return from_first_rank(result)


def _columns(steps: Spool) -> tuple[list[float], list[float], list[float]]:
    columns: tuple[list[float], list[float], list[float]] = ([], [], [])
    for step in steps:
        if len(step) == 1:
            for column in columns:
                del column[step[0] :]
            continue
        for column, number in zip(columns, step, strict=True):
            column.append(number)
    return columns

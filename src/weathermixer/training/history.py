"""What the steps of a training came to and what they took, and the result that sums them up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from weathermixer.jigsaw.count import Counter
from weathermixer.jigsaw.mesh import Mesh, gather_objects
from weathermixer.jigsaw.pieces import local_parameters
from weathermixer.training.optimizer import optimizer_tensors, total_bytes
from weathermixer.training.result import TrainResult, peak_memory_bytes
from weathermixer.training.state import TrainingState
from weathermixer.training.validation import Validation


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step came to; ``number`` is its number in the run, counted from 1.

    ``loss`` is the weighted mean over all samples of all replicas, ``grad_norm`` that of the whole
    gradient before clipping, and ``seconds`` what the step took on this rank, with its wait for
    data. ``stopped_by`` names the signal by which any rank was asked to stop, if one was.
    """

    number: int
    loss: float
    grad_norm: float
    seconds: float
    stopped_by: str | None = None


@dataclass
class History:
    """The steps that this training has taken since ``start_step``, and what they took in all.

    ``loss``, ``grad_norm`` and ``seconds`` have one number per step; ``bytes_read``, ``bytes_sent``
    and ``flops`` (operations) are this rank's, over all steps. ``validation`` holds scores by the
    step after which they were computed.
    """

    start_step: int = 0
    loss: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    bytes_read: int = 0
    bytes_sent: int = 0
    flops: int = 0
    validation: dict[int, Validation] = field(default_factory=dict)

    def add(self, step: StepReport, *, bytes_read: int, counted: Counter) -> None:
        """Count in a step, with the bytes that this rank read and what it sent and computed."""
        self.loss.append(step.loss)
        self.grad_norm.append(step.grad_norm)
        self.seconds.append(step.seconds)
        self.bytes_read += bytes_read
        self.bytes_sent += counted.bytes_sent
        self.flops += 2 * counted.multiply_adds

    def result(
        self,
        state: TrainingState,
        mesh: Mesh,
        *,
        dtype: str,
        checkpoint: Path,
        stopped_by: str | None,
    ) -> TrainResult:
        """Sum up the training so far; all ranks call this together, and get the same result.

        ``checkpoint`` is the one that it led to, ``stopped_by`` the signal that ended it, if any.
        """
        taken = max(1, len(self.loss))
        averages = optimizer_tensors(state.replicas.parameters(), state.optimizer)
        by_rank = zip(
            *gather_objects(
                (
                    self.bytes_sent // taken,
                    self.bytes_read // taken,
                    self.flops // taken,
                    peak_memory_bytes(mesh.device),
                    total_bytes(state.model.parameters()),
                    total_bytes(averages.values()),
                )
            ),
            strict=True,
        )
        sent, read, flops, memory, parameters, optimizer = map(list, by_rank)
        return TrainResult(
            layout=mesh.layout.at(0),
            dtype=dtype,
            parameters=sum(
                math.prod(local.piece.block.shape) for local in local_parameters(state.model)
            ),
            start_step=self.start_step,
            loss=self.loss,
            grad_norm=self.grad_norm,
            seconds_per_step=self.seconds,
            bytes_sent_per_step=sent,
            bytes_read_per_step=read,
            flops_per_step=flops,
            peak_memory_bytes=memory,
            parameter_bytes=parameters,
            optimizer_bytes=optimizer,
            samples_seen=state.samples,
            checkpoint=checkpoint,
            validation=self.validation,
            stopped_by=stopped_by,
        )

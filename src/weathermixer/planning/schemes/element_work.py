"""Passes over memory that a network's layers make between their matrix products.

Counted as PyTorch runs them one kernel at a time: how many numbers each kernel reads and writes.
A number of the data counts as often as it goes to or from memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from weathermixer.planning.machine import Work
from weathermixer.planning.step_time import ElementWork

# ``torch.optim.Adam`` over lists of tensors (its default on GPUs), with weight decay: decay 3,
# first average 3, second average 2 + 4, root 2, two corrections 4, and the step itself 4, less one
# where a number just written is read again. One kernel that does all of it reads four and writes
# three.
ADAM_PASSES, FUSED_ADAM_PASSES = 21.0, 7.0
# DistributedDataParallel copies gradients into its buckets, and their means back.
BUCKET_PASSES = 4.0
_NORM_FORWARD, _NORM_BACKWARD = 3.0, 6.0
_MASK = 0.25  # a dropout's zeroes, a byte an element


@dataclass(frozen=True)
class Elements:
    """Makes element work on tensors whose numbers have so many bytes."""

    element_bytes: int

    def work(
        self, elements: float, passes: float, kind: Work = "copy", kernels: int = 1
    ) -> ElementWork:
        """Kernels that go so many times over so many elements."""
        return ElementWork(
            kind, round(elements), round(elements * passes * self.element_bytes), kernels
        )

    def norm(self, rows: float, columns: float) -> tuple[ElementWork, ...]:
        """A layer norm over the columns of each row, forward."""
        return (self.work(rows * columns, _NORM_FORWARD, "norm"),)

    def norm_backward(self, rows: float, columns: float) -> tuple[ElementWork, ...]:
        """A layer norm, backward; gains and biases have a sum over all rows each."""
        return (
            self.work(rows * columns, _NORM_BACKWARD, "norm_backward", kernels=2),
            ElementWork("row_sum", round(rows), 0, kernels=1),
        )

    def activation(self, elements: float) -> tuple[ElementWork, ...]:
        """GELU and dropout, forward."""
        return (self.work(elements, 2.0, "activation"), self.dropout(elements))

    def activation_backward(self, elements: float) -> tuple[ElementWork, ...]:
        """GELU and dropout, backward."""
        return (self.dropout(elements), self.work(elements, 3.0, "activation_backward"))

    def dropout(self, elements: float) -> ElementWork:
        """Dropout in either direction."""
        return self.work(elements, 2.0 + _MASK)

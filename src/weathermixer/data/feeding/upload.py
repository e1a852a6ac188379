"""Copying a batch to an accelerator while it computes, on a stream of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Upload:
    """Tensors on their way from pinned memory to the device of a stream, which does nothing else.

    Begun while the step before is computed; :meth:`wait` is for the step that needs them.
    """

    def __init__(self, tensors: Sequence[Tensor], stream: torch.Stream) -> None:
        self._device = stream.device
        with stream:
            self._tensors = [tensor.to(self._device, non_blocking=True) for tensor in tensors]
        self._arrival = stream.record_event()

    def wait(self) -> list[Tensor]:
        """The tensors on the device, for what is given to its current stream from now on.

        That stream waits for them; the processor does not.
        """
        computing = torch.accelerator.current_stream(self._device)
        computing.wait_event(self._arrival)
        # Their memory belongs to the other stream, which must not use it again before the last use.
        for tensor in self._tensors:
            tensor.record_stream(computing)
        return self._tensors

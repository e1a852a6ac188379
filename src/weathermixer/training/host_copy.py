"""Reading what a device has computed without making it wait for more work."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """The values of a small tensor ``(values,)``, on their way from its device to the processor.

    They are those of the moment at which the copy was made, and arrive without waiting for what the
    device is given afterwards.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.to("cpu", non_blocking=True)
        self._arrival = None
        if values.device.type != "cpu":
            self._arrival = torch.accelerator.current_stream(values.device).record_event()

    def wait(self) -> list[float]:
        """The values, once they are here."""
        if self._arrival is not None:
            self._arrival.synchronize()
        values: list[float] = self._values.tolist()
        return values

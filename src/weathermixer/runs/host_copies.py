"""Tensors copied to the processor's memory, to be written by a thread while they change."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from torch import Tensor


class HostCopies:
    """Copies of the same tensors as they are at one moment after another, by any keys.

    The memory is taken once, pinned where tensors lie on an accelerator. That copies on a stream of
    its own: call :meth:`hold_back` before the tensors change, and :meth:`wait` before the copies
    are looked at. One thread may do the latter while another does the former.
    """

    def __init__(self) -> None:
        self._copies: dict[Hashable, Tensor] = {}
        self._stream: torch.Stream | None = None
        self._arrival: torch.Event | None = None

    def __getitem__(self, key: Hashable) -> Tensor:
        return self._copies[key]

    @torch.no_grad()
    def renew(self, tensors: Mapping[Hashable, Tensor]) -> None:
        """Copy tensors as they are now, of the shapes and types that they had before."""
        device = next((each.device for each in tensors.values() if each.device.type != "cpu"), None)
        if device is None:
            for key, tensor in tensors.items():
                self._place(key, tensor, pinned=False).copy_(tensor)
            return
        self._stream = self._stream or torch.Stream(device)
        self._stream.wait_stream(torch.accelerator.current_stream(device))
        with self._stream:
            for key, tensor in tensors.items():
                self._place(key, tensor, pinned=True).copy_(tensor, non_blocking=True)
        self._arrival = self._stream.record_event()

    def hold_back(self) -> None:
        """Let what the accelerator is given from now on wait until the copies are made."""
        if self._stream is not None and self._arrival is not None:
            torch.accelerator.current_stream(self._stream.device).wait_event(self._arrival)

    def wait(self) -> None:
        """Return when the copies are made."""
        if self._arrival is not None:
            self._arrival.synchronize()

    def _place(self, key: Hashable, tensor: Tensor, *, pinned: bool) -> Tensor:
        if key not in self._copies:
            self._copies[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
        return self._copies[key]

"""The memory of this rank: that of its GPU as PyTorch allocates it, or that of its process."""

from __future__ import annotations

from pathlib import Path

import torch


def current_bytes(device: torch.device) -> int:
    """What this rank holds now: allocated on the GPU, or resident in memory."""
    if device.type == "cpu":
        return _status_bytes("VmRSS")
    return torch.accelerator.memory_allocated()


def peak_bytes(device: torch.device) -> int:
    """The most that this rank has held since the last :func:`reset_peak`."""
    if device.type == "cpu":
        return _status_bytes("VmHWM")
    return torch.accelerator.max_memory_allocated()


def reset_peak(device: torch.device) -> None:
    """Forgets the past: from now on the peak is that of what comes."""
    if device.type == "cpu":
        # Linux: the value 5 resets the peak resident size of the process that writes it.
        Path("/proc/self/clear_refs").write_text("5")
    else:
        torch.accelerator.reset_peak_memory_stats()


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise ValueError(f"/proc/self/status has no {field}: peak memory of a process needs Linux")

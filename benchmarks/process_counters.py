"""What a rank holds, reads and writes, as Linux counts it, or as PyTorch counts a GPU's memory."""

from __future__ import annotations

from pathlib import Path

import torch


def current_bytes(device: torch.device) -> int:
    """Bytes that this rank holds now: allocated on the GPU, or resident in memory."""
    if device.type == "cpu":
        return 1024 * _count("status", "VmRSS")
    return torch.accelerator.memory_allocated()


def peak_bytes(device: torch.device) -> int:
    """The most bytes that this rank has held since the last ``reset_peak``."""
    if device.type == "cpu":
        return 1024 * _count("status", "VmHWM")
    return torch.accelerator.max_memory_allocated()


def reset_peak(device: torch.device) -> None:
    """Begin to measure the peak anew, from what is held now."""
    if device.type == "cpu":
        # Linux: the value 5 resets the peak resident size of the process that writes it.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    else:
        torch.accelerator.reset_peak_memory_stats()


def read_bytes() -> int:
    """Bytes that this process has read so far, from files and sockets alike."""
    return _count("io", "rchar")


def written_bytes() -> int:
    """Bytes that this process has written so far, to sockets and files alike, without headers.

    gloo writes to its sockets with ``writev``, which counts here. Bytes given to ``send`` do not.
    """
    return _count("io", "wchar")


def _count(file: str, field: str) -> int:
    """A number that Linux keeps of this process; those of ``status`` are in kibibytes."""
    for line in Path("/proc/self", file).read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise ValueError(f"/proc/self/{file} has no {field}: this measurement needs Linux")

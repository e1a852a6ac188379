"""Bytes that the memory allocator has given out, counted exactly over all threads of a rank.

On processors that is glibc's. Started with :data:`COUNT_BLOCKS` in its environment, it maps every
block of 16 KiB and more by itself and counts what is mapped, whichever thread asks for a block or
gives it back; PyTorch's profiler sees one thread alone, and other threads end gloo's exchanges.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import tempfile
from typing import Any

import torch

COUNT_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": str(16 * 1024), "MKL_DISABLE_FAST_MM": "1"}
"""Environment of a process whose blocks are to be counted, in which MKL keeps no workspaces."""


class _MallocInfo(ctypes.Structure):
    """``struct mallinfo2`` of ``malloc.h``."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks")),
        ("keepcost", ctypes.c_size_t),
    ]


def allocated_bytes(device: torch.device) -> int:
    """Bytes that are given out now."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
        return torch.accelerator.memory_allocated()
    library = _library()
    library.mallinfo2.restype = _MallocInfo
    return int(library.mallinfo2().hblkhd)


def most_allocated_bytes(device: torch.device) -> int:
    """The most bytes that were given out at one time since the process began."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
        return torch.accelerator.max_memory_allocated()
    found = re.search(r"max mmap bytes\s*=\s*(\d+)", _malloc_stats())
    assert found is not None
    return int(found[1])


def _malloc_stats() -> str:
    """What ``malloc_stats`` says, which writes to the standard error alone."""
    library = _library()
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        standard_error = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            library.malloc_stats()
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
        file.seek(0)
        return file.read().decode()


def _library() -> Any:
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2") or any(
        os.environ.get(name) != value for name, value in COUNT_BLOCKS.items()
    ):
        raise RuntimeError(
            f"blocks are not counted: this needs glibc 2.33 or later and {COUNT_BLOCKS} in the "
            "environment of the process"
        )
    return library

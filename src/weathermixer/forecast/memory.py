"""Memory that is freed and yet counts as this process's: what the C library keeps for later.

Zarr takes chunks apart and puts them together on several threads. glibc lets each of them have an
arena of its own and keeps what it freed there: together more than a hundred megabytes, as much as a
rank's whole part of a state at 0.25°. On other systems nothing is done.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_ARENA_MAX = -8  # of malloc.h


def share_one_arena() -> None:
    """Have threads that are started from now on share the process's arena, not have one each."""
    _call("mallopt", _ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Return freed memory to the system, on Linux; of threads' own arenas, not all of it."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    if sys.platform == "linux":
        function: Any = getattr(ctypes.CDLL(None), name, None)  # musl has neither
        if function is not None:
            function(*arguments)

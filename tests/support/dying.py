"""A training in a process of its own that dies without warning, as on a node that fails."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from support.ranks import end_with_parent
from weathermixer.config import Config
from weathermixer.training.trainer import train


def start_training(
    config: Config, out: Path, *, die_at_call: int | None = None
) -> multiprocessing.process.BaseProcess:
    """Train or continue in a new process.

    With ``die_at_call`` it kills itself at that call, counted from 1, of those by which files
    become durable, get their names, or disappear.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["weathermixer.training.trainer", "torch._dynamo"])
    process = context.Process(target=_train, args=(config, out, die_at_call))
    process.start()
    return process


def _train(config: Config, out: Path, die_at_call: int | None) -> None:
    gc.freeze()
    threading.Thread(target=end_with_parent, daemon=True).start()
    if die_at_call is not None:
        calls = iter(range(1, 1_000_000))

        def dying(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                if next(calls) == die_at_call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return call

        os.fsync = dying(os.fsync)
        os.rename = dying(os.rename)
        shutil.rmtree = dying(shutil.rmtree)  # type: ignore[assignment]
    train(config, out, resume=True, console=Console(quiet=True))

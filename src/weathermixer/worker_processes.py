"""One function over many tasks on all cores, in processes that end with the one that started them.

Nothing of weather or files is known here.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

import zarr

from weathermixer.console import Progress
from weathermixer.errors import UserError
from weathermixer.interpreter import environment_of_children, num_cores

Task = TypeVar("Task")
Tick = Callable[[], None]
"""Is called by a task as it advances, whence progress is shown."""

_REPORT_SECONDS = 0.2


class _Stopped(Exception):
    """Another task has failed, so this one need not go on."""


def for_each(
    function: Callable[[Task, Tick], None],
    tasks: Sequence[Task],
    *,
    processes: int,
    ticks: int,
    progress: Progress | None = None,
) -> None:
    """Call ``function(task, tick)`` for every task, in up to ``processes`` new processes.

    ``function`` calls ``tick()`` as it advances, ``ticks`` times over all tasks, whence
    ``progress(done, ticks)``. With one process nothing is started. What a task raises is raised
    here, when the others have stopped at their next tick; UserError where a process was killed.
    """
    if min(processes, len(tasks)) <= 1:
        _for_each_here(function, tasks, ticks, progress)
        return
    context = multiprocessing.get_context("spawn")
    done: Any = context.Value("q", 0)
    stop: Any = context.RawValue("b", 0)
    executor = ProcessPoolExecutor(
        min(processes, len(tasks)), context, initializer=_start_worker, initargs=(done, stop)
    )
    try:
        with _children_start_alike():
            pending = {executor.submit(_call, function, task) for task in tasks}
        while pending:
            finished, pending = wait(pending, _REPORT_SECONDS, return_when=FIRST_EXCEPTION)
            if progress is not None:
                # Without the lock, which a process may have held when it was killed.
                progress(done.get_obj().value, ticks)
            for future in finished:
                future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process was killed while preparing data, most likely for want of memory: run the "
            "same command again with a smaller --processes, and it will continue"
        ) from error
    finally:
        stop.value = 1
        executor.shutdown(cancel_futures=True)


def default_processes(bytes_per_process: int) -> int:
    """How many processes to start: as many as there are cores, and as fit into half the memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(num_cores(), memory // 2 // bytes_per_process))


def _for_each_here(
    function: Callable[[Task, Tick], None],
    tasks: Sequence[Task],
    ticks: int,
    progress: Progress | None,
) -> None:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, ticks)

    for task in tasks:
        function(task, tick)


@contextmanager
def _children_start_alike() -> Iterator[None]:
    """While entered, processes start without the user's folder on their search path for modules.

    ``multiprocessing`` takes the environment of a child from this process's own.
    """
    changes = environment_of_children()
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, text in before.items():
            if text is None:
                del os.environ[name]
            else:
                os.environ[name] = text


class _Worker:
    """What a process shares with the one that started it."""

    done: Any
    stop: Any


def _start_worker(done: Any, stop: Any) -> None:
    _Worker.done, _Worker.stop = done, stop
    # An interrupt from the keyboard reaches every process: this one then dies without a word,
    # unless the command was started where nobody may interrupt it.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The processes are as many as the cores, so each computes in one thread.
    zarr.config.set({"threading.max_workers": 1})


def _end_with_parent() -> None:
    """End when the parent does: else a worker would write into the store of a later command."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(function: Callable[[Task, Tick], None], task: Task) -> None:
    def tick() -> None:
        if _Worker.stop.value:
            raise _Stopped
        with _Worker.done.get_lock():
            _Worker.done.value += 1

    function(task, tick)

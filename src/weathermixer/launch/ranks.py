"""Being a rank: beginning together with the others, and ending, also when something fails.

Nothing heavy is imported before it is known that there are several ranks.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from weathermixer.console import muted, say, waiting_for
from weathermixer.credentials import without_credentials
from weathermixer.errors import UserError
from weathermixer.launch.environment import (
    MeetingAddress,
    RankInfo,
    rank_info,
)
from weathermixer.launch.failures import LastWords
from weathermixer.launch.other_launchers import RanksRefused

if TYPE_CHECKING:
    from weathermixer.jigsaw.heartbeat import Ending
    from weathermixer.launch.other_ranks import OtherRanks

_FILES_PER_RANK, _OTHER_FILES = 8, 1024
_SECONDS_TO_REPORT = 120.0  # in which one that fails before it has met the others finds rank 0


class _ThisProcess:
    """This process as a rank: its own facts, and the other ranks where it has met them."""

    info = RankInfo()
    others: OtherRanks | None = None
    has_looked_for_others = False


def this_rank() -> RankInfo:
    """This process as a rank: the only one, unless it was begun as one of several."""
    return _ThisProcess.info


@contextmanager
def run_as_rank(remedy: str = "start the same command again") -> Iterator[RankInfo]:
    """While entered, be the rank that the environment describes, connected with the others.

    The only rank begins nothing. Where the block raises, connections are left as they are, since
    closing them may wait for a rank that is gone: leave the process with ``exit_with_error``. Until
    then ranks other than the first say nothing of progress and waits. ``remedy`` is what helps
    where a rank died.

    Raises UserError as ``rank_info`` does and where there are too few GPUs, RanksMissing where not
    all ranks come, and RankLost where the ranks come and cannot connect.
    """
    info = _ThisProcess.info = rank_info(os.environ)
    # Read by PyTorch before its first large tensor: with small pages, steps of large layers spend
    # up to half of their time on having memory mapped.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if isinstance(info.meeting, Path):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    if info.world_size == 1:
        yield info
        return
    loading = "PyTorch to be loaded"
    if isinstance(info.meeting, MeetingAddress):
        others = info.world_size - 1
        loading += f", then for {others} {'rank' if others == 1 else 'ranks'} at {info.meeting}"
    with nullcontext() if info.is_first else muted(), waiting_for(loading):
        import torch

        from weathermixer.jigsaw import heartbeat, mesh
        from weathermixer.launch.meeting import meet, shared_store

    _allow_connections(info.world_size)
    with ExitStack() as stack:
        if isinstance(info.meeting, MeetingAddress):
            _ThisProcess.has_looked_for_others = True
            store, other_ranks = meet(info, info.meeting, remedy=remedy)
            _ThisProcess.others = other_ranks
            stack.enter_context(_sigterm_interrupts())
            other_ranks.wait_for_all()
        else:
            assert info.meeting is not None, "several ranks have a place to meet"
            store = shared_store(info.meeting, info.world_size)
        if not info.is_first:
            stack.enter_context(muted())
        if info.threads is not None:
            torch.set_num_threads(info.threads)
        device = torch.device("cpu")
        if torch.cuda.is_available():
            device = mesh.local_device(info.gpu_number(torch.cuda.device_count()))
        try:
            with waiting_for("the other ranks to connect"):
                mesh.start(info.rank, info.world_size, device=device, store=store)
        except RuntimeError as error:
            raise mesh.RankLost(
                f"rank {info.rank} of {info.world_size} did not meet the others at {info.meeting} "
                f"({error})"
            ) from error
        board: heartbeat.Board = (
            heartbeat.FolderBoard(info.meeting)
            if isinstance(info.meeting, Path)
            else heartbeat.StoreBoard(store)
        )
        beating = heartbeat.Heartbeat(
            board, info.rank, info.world_size, partial(_end_job, remedy=remedy)
        )
        if _ThisProcess.others is not None:
            _ThisProcess.others.place_of = beating.place_of
        yield info
        with waiting_for("the other ranks to finish"):
            mesh.stop()
        beating.stop()
        if _ThisProcess.others is not None:
            _ThisProcess.others.close()
            _ThisProcess.others = None


def exit_with_error(
    error: BaseException,
    sentence: str,
    status: int,
    *,
    show_traceback: bool = False,
    run_by_all_ranks: bool = False,
) -> NoReturn:
    """Say why this process fails, to the user or to whoever speaks for all ranks, and exit.

    ``run_by_all_ranks`` says that every rank of torchrun or srun runs this command: then one that
    fails before it has met the others looks for them, so that what all have to say is said once.
    """
    if is_rank_lost(error):
        sentence = f"Error: {error}"
    sentence = without_credentials(sentence)
    words = LastWords.of(error, sentence, status, rank_lost=is_rank_lost(error))
    told_status = _tell_others(
        words, show_traceback=show_traceback, run_by_all_ranks=run_by_all_ranks
    )
    if told_status is not None:
        status = told_status
    elif not (isinstance(error, RanksRefused) and not error.is_first):
        if show_traceback:
            traceback.print_exception(error)
        say(sentence)
    distributed = sys.modules.get("torch.distributed")
    if _ThisProcess.others is not None or (
        distributed is not None and distributed.is_available() and distributed.is_initialized()
    ):
        # An orderly end would wait for the other ranks.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def is_rank_lost(error: BaseException) -> bool:
    """Whether an error says no more than that another rank is gone."""
    mesh = sys.modules.get("weathermixer.jigsaw.mesh")
    return mesh is not None and isinstance(error, mesh.RankLost)


def _tell_others(words: LastWords, *, show_traceback: bool, run_by_all_ranks: bool) -> int | None:
    """Leave the telling to another process; the status to exit with, None where there is none."""
    try:
        info = rank_info(os.environ)
    except UserError:
        return None
    if isinstance(info.meeting, Path):
        try:
            words.write(info.meeting, info.rank)
        except OSError:
            return None
        return words.status
    if info.world_size == 1 or info.meeting is None:
        return None
    if _ThisProcess.others is None and run_by_all_ranks and not _ThisProcess.has_looked_for_others:
        from weathermixer.launch.meeting import meet

        try:
            _, _ThisProcess.others = meet(
                info, info.meeting, remedy="start all ranks again", seconds=_SECONDS_TO_REPORT
            )
        except (UserError, OSError, RuntimeError):
            return None
    if _ThisProcess.others is None:
        return None
    return _ThisProcess.others.report(words, show_traceback=show_traceback)


def _end_job(ending: Ending, *, remedy: str) -> NoReturn:
    """End this process, since a rank is lost, or all of them wait for each other.

    A rank other than the first speaks where the first is lost, which speaks for all otherwise.
    """
    from weathermixer.launch.other_ranks import tell_user

    sentence = f"Error: {ending.sentence}, so the job was ended: {remedy}"
    words = LastWords(
        sentence,
        1,
        rank_lost=False,
        interrupted=False,
        traceback="",
        time=time.time(),
        is_verdict=True,
    )
    info, told = _ThisProcess.info, None
    if info.is_first or not ending.speaks or isinstance(info.meeting, Path):
        told = _tell_others(words, show_traceback=False, run_by_all_ranks=False)
    if ending.speaks:
        if told is None:
            tell_user(sentence)
        _end_step()
    ending.exit()


def _end_step() -> None:
    """End all that srun started with this process: those that are stopped obey no other signal."""
    job, step = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_STEP_ID")
    if job and step and shutil.which("scancel"):
        command = ["scancel", "--signal=KILL", f"{job}.{step}"]
        subprocess.run(command, check=False, timeout=10.0, capture_output=True)


def _allow_connections(world_size: int) -> None:
    """Let this process open as many files as it has connections, as far as the system allows it.

    Rank 0 has several to each of the others, and with gloo so has every rank. The usual limit, 1024
    files, is what four hundred ranks need.
    """
    most_open, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_PER_RANK * world_size + _OTHER_FILES
    if allowed != resource.RLIM_INFINITY:
        wanted = min(wanted, allowed)
    if most_open != resource.RLIM_INFINITY and most_open < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, allowed))


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """While entered, SIGTERM is an interruption, so that who dies of it can still be told of.

    torchrun sends it to the others as soon as it sees that a rank has died.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """Standard input is a pipe that nothing is written to, and that closes when the parent ends."""
    while os.read(0, 1):
        pass
    os._exit(1)

"""Writing checkpoints while the ranks compute: nobody waits for the disk.

The format is that of ``torch.distributed.checkpoint`` (DCP): each rank writes a file of its own
records, and the first an index of all. A checkpoint is written aside and renamed when it is whole.

A thread of each rank writes. It exchanges nothing, since exchanges of a training step may be under
way: ranks tell each other by :attr:`CheckpointWriter.has_ended`, which travels with what they
exchange anyway, and meet in :meth:`CheckpointWriter.advance` when all have come so far.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.storage import WriteResult

from weathermixer.errors import UserError, reason
from weathermixer.jigsaw.mesh import gather_objects, is_first_rank, own_rank
from weathermixer.runs.checkpoint_index import write_seal
from weathermixer.runs.host_copies import HostCopies
from weathermixer.runs.shards import Shard, ShardSavePlanner, own_share

PARTIAL = ".partial"
"""What the name of a checkpoint ends with until all of it is on disk."""

_Phases = Generator[Future[Any], None, None]


class CheckpointWriter:
    """Writes checkpoints of the same tensors, one after another, on all ranks together.

    :meth:`begin` copies the tensors, which may then change. Writing has phases, in each of which a
    thread of this rank has something to do, or nothing. When all ranks' :attr:`has_ended`, all of
    them call :meth:`advance`; :meth:`finish` waits for what is left. ``tidy(path)`` is called by
    the first rank's thread when the checkpoint ``path`` is whole.
    """

    def __init__(self, tidy: Callable[[Path], None] = lambda _: None) -> None:
        self._tidy = tidy
        self._copies = HostCopies()
        self._thread: ThreadPoolExecutor | None = None
        self._path = Path()
        self._phases: _Phases | None = None
        self._task: Future[Any] = Future()
        self._plan: SavePlan | None = None
        self._written: list[WriteResult] | None = None  # where this rank's records are in its file
        self._records: _Records | None = None  # of all ranks; on the first

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint was begun and is not written yet."""
        return self._phases is not None

    @property
    def has_ended(self) -> bool:
        """Whether this rank has done its part in the phase that is under way."""
        return self._phases is not None and self._task.done()

    def begin(self, path: Path, tensors: Mapping[str, Tensor | Shard]) -> None:
        """Copy the tensors and begin to write them to ``path``; no other may be being written."""
        assert not self.is_busy, "one checkpoint is written at a time"
        planner = ShardSavePlanner()
        planner.set_up_planner(own_share(tensors), StorageMeta(), is_first_rank())
        plan = planner.create_local_plan()
        assert self._plan in (None, plan), "every checkpoint has the same tensors"
        self._plan = plan
        self._copies.renew({item.index: planner.lookup_object(item.index) for item in plan.items})
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._path = path
        self._phases = self._write(path, plan)
        self._task = next(self._phases)

    def hold_back(self) -> None:
        """Call before the tensors change: on an accelerator, let that wait for their copies."""
        if self._phases is not None:
            self._copies.hold_back()

    def advance(self) -> Path | None:
        """Go on to the next phase when all ranks have ended this one; all ranks call this.

        Returns the path of the checkpoint when it is whole, and None before. Raises UserError,
        alike on all ranks, where any of them could not write; nothing is left of it then.
        """
        assert self._phases is not None, "a checkpoint is being written"
        error = self._task.exception()  # once it is done
        news = gather_objects((None if error is None else _cause(error), self._news()))
        problem = next((problem for problem, _ in news if problem is not None), None)
        if problem is not None:
            self._phases = None
            self._written = None  # the first rank may not have taken it up
            if is_first_rank():
                shutil.rmtree(_partial(self._path), ignore_errors=True)
            raise UserError(
                f"the checkpoint {self._path} cannot be written ({problem}): free some space or "
                "make the folder writable, then continue with --resume from the one before"
            ) from error
        if is_first_rank() and news[0][1] is not None:
            self._records = _Records.of([pickle.loads(each) for _, each in news])
        try:
            self._task = next(self._phases)
        except StopIteration:
            self._phases = None
            return self._path
        return None

    def finish(self) -> Path | None:
        """Wait until what was begun is written; all ranks call this. Raises as ``advance``."""
        path = None
        while self.is_busy:
            path = self.advance()
        return path

    def close(self) -> None:
        """Forget what is not written, which a later ``remove_leftovers`` removes."""
        self._phases = None
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._thread = None

    def _write(self, path: Path, plan: SavePlan) -> _Phases:
        """What this rank's thread has to do in each phase."""
        assert self._thread is not None
        submit, first, partial = self._thread.submit, is_first_rank(), _partial(path)
        yield submit(_make_folder, partial) if first else _nothing()
        yield submit(self._write_records, partial, plan)
        yield submit(self._complete, partial, path) if first else _nothing()

    def _write_records(self, partial: Path, plan: SavePlan) -> list[WriteResult]:
        self._copies.wait()
        planner = _CopiedTensors(self._copies)
        plan = replace(plan, storage_data=_FileNames(f"__{own_rank()}_"))
        # Of an accelerator, a writer that copies ahead itself would ask in every thread.
        writer = ShardWriter(partial, per_thread_copy_ahead=0)
        written: list[WriteResult] = writer.write_data(plan, planner).wait()
        return written

    def _news(self) -> bytes | None:
        """What the first rank needs to know of this one's records, if it does not know it yet."""
        result = None if self._task.exception() is not None else self._task.result()
        if not isinstance(result, list) or result == self._written:
            return None
        self._written = result
        return pickle.dumps((self._plan, result))

    def _complete(self, partial: Path, path: Path) -> None:
        assert self._records is not None, "the others have told where theirs are"
        ShardWriter(partial).finish(self._records.index, [self._records.places])
        write_seal(partial)
        _sync(partial)
        partial.rename(path)
        _sync(path.parent)
        self._tidy(path)


def save(path: Path, tensors: Mapping[str, Tensor | Shard]) -> None:
    """Write a checkpoint, and wait until it is whole; all ranks call this.

    Raises UserError, alike on all ranks, where the disk is full or may not be written.
    """
    writer = CheckpointWriter()
    try:
        writer.begin(path, tensors)
        writer.finish()
    finally:
        writer.close()


class ShardWriter(FileSystemWriter):
    """DCP's writer, without the path and the random number that it would record."""

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()


class _CopiedTensors(ShardSavePlanner):
    """DCP's planner, once there is a plan: it hands out copies."""

    def __init__(self, copies: HostCopies) -> None:
        super().__init__()
        self._copies = copies

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return self._copies[index]


@dataclass(frozen=True)
class _FileNames:
    """What DCP's writer needs to know to name the files of a rank."""

    prefix: str


@dataclass(frozen=True)
class _Records:
    """What is in a checkpoint, and where: an index without places, and the place of each record."""

    index: Metadata
    places: list[WriteResult]

    @classmethod
    def of(cls, parts: Sequence[tuple[SavePlan, list[WriteResult]]]) -> _Records:
        """The records of all ranks, of the plan and the places of each."""
        planner = ShardSavePlanner()
        planner.set_up_planner({}, StorageMeta(), is_coordinator=True)
        _, index = planner.create_global_plan([plan for plan, _ in parts])
        return cls(index, [place for _, places in parts for place in places])


def _make_folder(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)


def _nothing() -> Future[None]:
    done: Future[None] = Future()
    done.set_result(None)
    return done


def _partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)


def _cause(error: BaseException) -> str:
    """Why a checkpoint could not be written."""
    # Of a full disk, torch's writer reports its own confusion first.
    return reason(error.__context__ if isinstance(error.__context__, OSError) else error)


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Ranks that beat, and how those are told of that fall silent or wait for each other."""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
from torch._C._distributed_c10d import FileStore, Store, TCPStore

from support.processes import free_port
from support.ranks import Pool
from support.selection import exhaustive
from weathermixer.jigsaw import heartbeat
from weathermixer.jigsaw.activity import Activity
from weathermixer.jigsaw.heartbeat import Board, Ending, FolderBoard, Heartbeat, StoreBoard
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh

RANKS = Layout(tensor=3)
PATIENCE = 1.5
# In which a rank that is given up too early would be.
LONG = 2 * PATIENCE
DEADLINE_SECONDS = 60.0
PLACE = "exchange 8114 (up, backward) of step 83"


class Beating(NamedTuple):
    """A rank that beats: what it does, and how it was told to end."""

    activity: Activity
    ends: queue.SimpleQueue[Ending]

    def end(self) -> Ending | None:
        """How it was told to end, if it was."""
        return None if self.ends.empty() else self.ends.get()


@contextmanager
def beating(board: Board, rank: int, num_ranks: int) -> Iterator[Beating]:
    """A heart that beats fast, of a rank at ``PLACE``."""
    activity = Activity()
    activity.exchanges, activity.steps, activity.where = 8114, 82, "up, backward"
    ends: queue.SimpleQueue[Ending] = queue.SimpleQueue()
    with (
        patch.object(heartbeat, "SECONDS_BETWEEN_BEATS", 0.1),
        patch.object(heartbeat, "_SECONDS_TO_SPEAK", 0.1),
        patch.object(heartbeat, "ACTIVITY", activity),
    ):
        heart = Heartbeat(board, rank, num_ranks, ends.put, patience=PATIENCE)
        yield Beating(activity, ends)
        heart.stop()


# Where ranks leave their notes: a folder, a store in a file, or one that this process serves.
Place = tuple[str, Path, int]


@pytest.fixture(params=["folder", "server", *exhaustive("file")])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    port = free_port()
    server = served(port) if request.param == "server" else None
    yield request.param, tmp_path, port
    del server


def served(port: int) -> TCPStore:
    return TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)


def board_at(place: Place) -> Board:
    kind, folder, port = place
    if kind == "folder":
        return FolderBoard(folder)
    store: Store = (
        FileStore(str(folder / "store"), RANKS.world_size)
        if kind == "file"
        else TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
    )
    return StoreBoard(store)


def wait_for(files: Sequence[Path]) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while not all(file.exists() for file in files):
        assert time.monotonic() < end, "the others did not come"
        time.sleep(0.05)


# A rank that falls silent


def stop_one(mesh: Mesh, place: Place, silent: int) -> Ending | None:
    rank = mesh.layout.rank
    with beating(board_at(place), rank, RANKS.world_size) as own:
        time.sleep(0.5)
        if rank == silent:
            os.kill(os.getpid(), signal.SIGSTOP)
        ending = own.ends.get(timeout=DEADLINE_SECONDS)
        ending.kill_lost()
        return ending


@pytest.mark.parametrize(("silent", "speaker"), [(0, 1), *exhaustive((2, 0))])
def test_a_rank_that_falls_silent_is_named_by_all_told_by_one_and_killed(
    pool: Pool, place: Place, silent: int, speaker: int
) -> None:
    ends = pool.run(stop_one, RANKS, place, silent, dying=[silent])
    del ends[silent]
    assert len({end.sentence for end in ends}) == 1
    sentence = ends[0].sentence
    assert sentence.startswith(f"rank {silent} on {socket.gethostname()} has not answered for ")
    assert sentence.endswith(f"it was in {PLACE}")
    others = [rank for rank in range(RANKS.world_size) if rank != silent]
    assert [end.speaks for end in ends] == [rank == speaker for rank in others]


# Ranks that wait


def wait_in_a_ring(mesh: Mesh, place: Place) -> Ending | None:
    rank = mesh.layout.rank
    with beating(board_at(place), rank, RANKS.world_size) as own:
        following = (rank + 1) % RANKS.world_size
        with own.activity.waiting_for(f"rank {following} along tensor", 1000):
            return own.ends.get(timeout=DEADLINE_SECONDS)


def test_ranks_that_wait_for_each_other_are_told_of_with_whom_each_waits_for(
    pool: Pool, place: Place
) -> None:
    ends = pool.run(wait_in_a_ring, RANKS, place)
    assert len({end.sentence for end in ends}) == 1
    said = [f"rank {a} in {PLACE}, waiting for rank {b} along tensor" for a, b in
            ((0, 1), (1, 2), (2, 0))]  # fmt: skip
    assert ends[0].sentence.startswith("all ranks have waited for each other for ")
    assert ends[0].sentence.endswith("; " + "; ".join(said))
    assert [end.speaks for end in ends] == [True, False, False]


def wait_while_one_computes(mesh: Mesh, folder: Path, slow: int) -> Ending | None:
    rank, done = mesh.layout.rank, folder / "done"
    with beating(FolderBoard(folder), rank, RANKS.world_size) as own:
        if rank == slow:
            end = time.monotonic() + LONG
            while time.monotonic() < end:
                sum(range(1000))
            done.touch()
        else:
            with own.activity.waiting_for(f"rank {slow} along tensor"):
                wait_for([done])
        return own.end()


@pytest.mark.parametrize("slow", [2, *exhaustive(0)])
def test_a_rank_that_computes_for_long_is_waited_for(pool: Pool, tmp_path: Path, slow: int) -> None:
    assert pool.run(wait_while_one_computes, RANKS, tmp_path, slow) == [None] * 3


def wait_for_much(mesh: Mesh, folder: Path) -> Ending | None:
    with beating(FolderBoard(folder), mesh.layout.rank, RANKS.world_size) as own:
        with own.activity.waiting_for("rank 1 along tensor", 10**9):
            time.sleep(LONG)
        return own.end()


def test_ranks_that_wait_for_many_bytes_are_given_the_time_that_these_take(
    pool: Pool, tmp_path: Path
) -> None:
    assert pool.run(wait_for_much, RANKS, tmp_path) == [None] * 3


# Processes that stand still, all together


def be_stopped(mesh: Mesh, folder: Path) -> Ending | None:
    with beating(FolderBoard(folder), mesh.layout.rank, RANKS.world_size) as own:
        time.sleep(0.5)
        (folder / f"{os.getpid()}.pid").touch()
        wait_for([folder / "continued"])
        time.sleep(LONG)
        return own.end()


def stop_all(folder: Path) -> None:
    """Stop the ranks for a while, as a laptop does that sleeps."""
    end = time.monotonic() + DEADLINE_SECONDS
    while len(pids := [int(file.stem) for file in folder.glob("*.pid")]) < RANKS.world_size:
        if time.monotonic() > end:
            return
        time.sleep(0.05)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in pids:
            os.kill(pid, number)
        if number is signal.SIGSTOP:
            time.sleep(LONG)
    (folder / "continued").touch()


@pytest.mark.exhaustive
def test_ranks_that_stood_still_themselves_accuse_nobody(pool: Pool, tmp_path: Path) -> None:
    stopping = threading.Thread(target=stop_all, args=(tmp_path,))
    stopping.start()
    try:
        assert pool.run(be_stopped, RANKS, tmp_path) == [None] * 3
    finally:
        stopping.join()


# A board that is gone


def remove_folder(folder: Path) -> tuple[Board, Callable[[], object]]:
    own = folder / "board"
    own.mkdir()
    # At once: a rank that beats while files are removed one by one would leave another.
    return FolderBoard(own), lambda: own.rename(folder / "elsewhere")


def end_server(folder: Path) -> tuple[Board, Callable[[], object]]:
    port = free_port()
    servers = [served(port)]
    return board_at(("server", folder, port)), servers.clear


@pytest.mark.parametrize("make", [remove_folder, end_server])
def test_a_rank_whose_board_is_gone_ends_and_says_so_itself(
    make: Callable[[Path], tuple[Board, Callable[[], object]]], tmp_path: Path
) -> None:
    board, lose = make(tmp_path)
    with beating(board, 1, 2) as own:
        time.sleep(0.5)
        lose()
        end = own.ends.get(timeout=DEADLINE_SECONDS)
    assert end.speaks
    start = f"rank 1 on {socket.gethostname()} has not reached the others for "
    assert end.sentence.startswith(start)
    assert end.sentence.endswith(f"it was in {PLACE}")


def test_a_board_that_comes_back_in_time_is_forgiven(tmp_path: Path) -> None:
    board, lose = remove_folder(tmp_path)
    with beating(board, 0, 1) as own:
        lose()
        time.sleep(0.5)
        (tmp_path / "board").mkdir()
        time.sleep(LONG)
        assert own.end() is None


# The end


@pytest.mark.parametrize("kind", ["folder", "server", *exhaustive("file")])
def test_hearts_that_are_stopped_say_nothing(kind: str, tmp_path: Path) -> None:
    place = (kind, tmp_path, free_port())
    server = served(place[2]) if kind == "server" else None
    before = threading.active_count()
    with beating(board_at(place), 0, 2) as first, beating(board_at(place), 1, 2) as second:
        time.sleep(0.5)
    time.sleep(LONG)
    assert (first.end(), second.end()) == (None, None)
    assert threading.active_count() == before
    del server

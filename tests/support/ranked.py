"""A command for ranks that do little but fail in many ways: ``ranked.py work WHAT FOLDER``.

It is started through the real command line, so that the real ways to end are what is tested.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from weathermixer.cli import commands, main
from weathermixer.errors import STOPPED_EARLY, UserError
from weathermixer.launch.environment import RankInfo
from weathermixer.launch.ranks import run_as_rank
from weathermixer.launch.start import should_start_ranks, start_ranks, without_option

RANKED = Path(__file__)
RANK = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def report_environment(folder: Path) -> None:
    (folder / f"{RANK}.json").write_text(json.dumps(dict(os.environ)), encoding="utf-8")


def print_much(folder: Path) -> None:
    print(f"result of rank {RANK}")
    print(f"words of rank {RANK}", file=sys.stderr)


def all_mistaken(folder: Path) -> None:
    raise UserError("the same thing is wrong on every rank: put it right")


def one_mistaken(folder: Path) -> None:
    if RANK == 1:
        raise UserError("what only rank 1 can see is wrong: put it right")


def end_silently(folder: Path) -> None:
    if RANK == 1:
        print("the reason", file=sys.stderr, flush=True)
        os._exit(3)


def crash(folder: Path) -> None:
    if RANK == 1:
        ctypes.string_at(0)


def wait(folder: Path) -> None:
    (folder / f"{RANK}.pid").write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(600)


def stop_when_asked(folder: Path) -> None:
    from weathermixer.training.interrupt import StopRequest, held_back_warnings

    with held_back_warnings():
        with StopRequest() as stop:
            (folder / f"{RANK}.pid").write_text(str(os.getpid()), encoding="utf-8")
            while stop.received is None:
                time.sleep(0.01)
            time.sleep(0.3)  # a step to finish, during which a second signal would kill
        (folder / f"{RANK}.stopped").write_text(stop.received, encoding="utf-8")
        if RANK == 0:
            print(f"stopped by {stop.received}", flush=True)
        os.kill(os.getpid(), signal.SIGUSR1)  # nothing is left to stop
        sys.exit(STOPPED_EARLY)


def exchange_until(rank: int, act: Callable[[], None]) -> Callable[[RankInfo, Path], None]:
    """Sums over all ranks without end; one of them acts after its third."""

    def work(info: RankInfo, folder: Path) -> None:
        import torch

        from weathermixer.jigsaw import mesh
        from weathermixer.jigsaw.exchange import all_reduce
        from weathermixer.jigsaw.layout import Layout

        tensor = mesh.connect(Layout(tensor=info.world_size)).tensor
        (folder / f"{info.rank}.pid").write_text(str(os.getpid()), encoding="utf-8")
        for step in range(1_000_000):
            all_reduce(tensor, torch.ones(1000))
            if step == 2 and info.rank == rank:
                act()

    return work


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def find_a_mistake() -> None:
    raise UserError("what only rank 1 can see is wrong: put it right")


def have_an_error() -> None:
    raise ZeroDivisionError("this should not happen")


def disagree(info: RankInfo, folder: Path) -> None:
    from weathermixer.config import Config
    from weathermixer.launch.consistency import require_equal_settings, settings_of, versions

    config = Config.model_validate({"data": {"store": "s"}})
    require_equal_settings(settings_of(config) | versions())
    if info.rank == 1:
        config = Config.model_validate({"data": {"store": "s"}, "training": {"seed": 1}})
    require_equal_settings(settings_of(config) | versions())


def count(info: RankInfo, folder: Path) -> None:
    import torch

    if info.is_first:
        print(f"{info.world_size} ranks with {torch.get_num_threads()} threads")


ALONE = {
    function.__name__: function
    for function in (
        report_environment,
        print_much,
        all_mistaken,
        one_mistaken,
        end_silently,
        crash,
        wait,
        stop_when_asked,
    )
}
TOGETHER = {
    "count": count,
    "disagree": disagree,
    "exchange": exchange_until(-1, kill_itself),
    "kill_itself": exchange_until(2, kill_itself),
    "find_a_mistake": exchange_until(1, find_a_mistake),
    "have_an_error": exchange_until(1, have_an_error),
}


@click.command()
@click.argument("what")
@click.argument("folder", type=Path)
@click.option("--nproc", type=int)
def work(what: str, folder: Path, nproc: int | None) -> None:
    if should_start_ranks(nproc):
        from weathermixer.training.interrupt import held_back_warnings

        words = without_option(click.get_current_context().obj, "--nproc")
        # As a training: what comes before it listens is not lost, nor does it end it.
        with held_back_warnings():
            start_ranks([sys.executable, __file__, *words], nproc or 1, remedy="begin again")
    elif what in ALONE:
        ALONE[what](folder)
    else:
        with run_as_rank(remedy="begin again") as info:
            TOGETHER[what](info, folder)


if __name__ == "__main__":
    # Here alone: tests that import this file look at all commands of the program.
    commands.add_command(work)
    main()

"""Kill ranks of a training at random moments, and see that it ends with the same weights.

A small network is trained on ranks of this machine. Again and again one of them is killed without
warning (SIGKILL): at a random time, or in the middle of a random file operation of a checkpoint.
The others end as they do when a rank is lost, and all are started again with --resume. When a
training has come to its end, its last checkpoint has to be that of one that nothing disturbed, byte
for byte. Ranks are forked from a process that has loaded the program, so a restart costs a second.

    python benchmarks/fault_drill.py --kills 200 --json drill.json
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import statistics
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from harness import parser, write_record
from rich.console import Console

from weathermixer.config import Config
from weathermixer.data.making.synthetic import write_synthetic
from weathermixer.runs.run import Run

RANKS = 4
STEPS, EVERY = 100, 5
_LATEST_SECONDS = 1.0  # after the first step
_GRACE_SECONDS = 0.2  # for ranks to see that one is gone
_PATIENCE_SECONDS = 600.0
_PRELOADED = ["weathermixer.training.trainer", "torch._dynamo", "zarr", "numcodecs.blosc"]


@dataclass(frozen=True)
class Kill:
    """Which rank dies, and when: so long after the first step, or at which of its file operations.

    Operations are those by which files become durable, get their names, or disappear.
    """

    rank: int
    seconds: float | None = None
    operation: int | None = None

    @classmethod
    def drawn(cls, numbers: random.Random) -> Kill:
        """A random rank at a random moment."""
        rank = numbers.randrange(RANKS)
        if numbers.random() < 0.5:
            return cls(rank, seconds=numbers.uniform(0.0, _LATEST_SECONDS))
        # The first rank also makes, renames and removes.
        return cls(rank, operation=numbers.randint(1, 16 if rank == 0 else 3))


@dataclass
class Figures:
    """What happened: each list has a number for each kill, or for each start."""

    kills: int = 0
    kills_while_saving: int = 0
    restarts: int = 0
    trainings: int = 0
    steps_lost: list[int] = field(default_factory=list)
    seconds_to_restart: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The figures with lists summed up."""
        return {
            **asdict(self),
            "steps_lost": {
                "mean": statistics.mean(self.steps_lost),
                "most": max(self.steps_lost),
            },
            "seconds_to_restart": {
                "median": statistics.median(self.seconds_to_restart),
                "most": max(self.seconds_to_restart),
            },
        }


def drill(kills: int, seed: int, folder: Path) -> Figures:
    """Kill ranks so many times, in as many trainings as it takes; raises AssertionError.

    That is where the weights of a training are not those of one that nothing disturbed.
    """
    write_synthetic(folder / "waves.zarr", times=40, grid=(8, 16), seed=0)
    config = _config(folder / "waves.zarr")
    figures, numbers = Figures(), random.Random(seed)
    _start(config, folder / "undisturbed", None, figures)
    expected = _last_checkpoint(folder / "undisturbed")
    while figures.kills < kills:
        run = folder / "disturbed"
        is_whole = False
        while not is_whole:
            kill = Kill.drawn(numbers) if figures.kills < kills else None
            is_whole = _start(config, run, kill, figures)
            figures.restarts += not is_whole
        figures.trainings += 1
        assert _last_checkpoint(run) == expected, f"other weights, seed {seed}: {run}"
        shutil.rmtree(run)
    return figures


def _config(store: Path) -> Config:
    return Config.model_validate(
        {
            "model": {"patch": [4, 4], "channels": 16, "blocks": 1, "dropout": 0.1},
            "data": {"store": store, "variables": ["2m_temperature"], "levels": []},
            "parallel": {"data": 2, "domain": 2, "tensor": 1, "shard_optimizer": True},
            "training": {"steps": STEPS, "instance_batch": 2, "validate_every": 40},
            "checkpoint": {"every": EVERY, "keep": 2},
            "logging": {"every": 1, "tensorboard": False},
        }
    )


def _last_checkpoint(run: Path) -> dict[str, bytes]:
    path = Run(run).checkpoints / f"step-{STEPS:08d}"
    return {file.name: file.read_bytes() for file in path.iterdir()}


def _start(config: Config, run: Path, kill: Kill | None, figures: Figures) -> bool:
    """Train or continue, and kill a rank where one is to die; whether the training was ended."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as meeting:
        ranks = [_Rank(config, run, Path(meeting), number, kill) for number in range(RANKS)]
        try:
            first = ranks[0].wait_for_step()
            if first is not None:
                figures.seconds_to_restart.append(time.perf_counter() - began)
            if kill is None:
                for rank in ranks:
                    rank.require_success()
                return True
            victim = ranks[kill.rank].process
            if kill.seconds is not None:
                victim.join(kill.seconds)
                victim.kill()
            else:
                wait([rank.process.sentinel for rank in ranks], _PATIENCE_SECONDS)
            victim.join(_PATIENCE_SECONDS)
            is_saving = any((run / "checkpoints").glob("step-*.partial"))
            if victim.exitcode != -signal.SIGKILL:
                for rank in ranks:
                    rank.require_success()
                return True
            for rank in ranks:
                rank.process.join(_GRACE_SECONDS)
        finally:
            for rank in ranks:
                rank.process.kill()
                rank.process.join()
    figures.kills += 1
    figures.kills_while_saving += is_saving
    newest = Run(run).newest_checkpoint()
    saved = 0 if newest is None else int(newest.name.partition("-")[2])
    figures.steps_lost.append(max(0, ranks[0].newest_step() - saved))
    return False


class _Rank:
    """A process that is a rank of a training, and tells of the steps that it has taken."""

    def __init__(
        self, config: Config, run: Path, meeting: Path, number: int, kill: Kill | None
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self._news, theirs = context.Pipe(duplex=False)
        operation = kill.operation if kill is not None and kill.rank == number else None
        self.process = context.Process(
            target=_train, args=(config, run, meeting, number, operation, theirs), daemon=True
        )
        self.process.start()
        theirs.close()
        self._number, self._said = number, list[Any]()

    def wait_for_step(self) -> int | None:
        """The first step that it takes; None where it ends before."""
        if not self._news.poll(_PATIENCE_SECONDS):
            raise TimeoutError(f"rank {self._number} took no step")
        return next((each for each in self._heard() if isinstance(each, int)), None)

    def newest_step(self) -> int:
        """The newest step of which it has told."""
        return max((each for each in self._heard() if isinstance(each, int)), default=0)

    def require_success(self) -> None:
        """Wait for its end; AssertionError, with what it said, where it failed."""
        self.process.join(_PATIENCE_SECONDS)
        errors = [each for each in self._heard() if isinstance(each, str)]
        assert self.process.exitcode == 0, f"rank {self._number}: {errors}"

    def _heard(self) -> list[Any]:
        try:
            while self._news.poll():
                self._said.append(self._news.recv())
        except EOFError:
            pass
        return self._said


def _train(
    config: Config,
    run: Path,
    meeting: Path,
    number: int,
    operation: int | None,
    news: Connection,
) -> None:
    """Be a rank, and die at a file operation where one is given."""
    import torch
    from torch._C._distributed_c10d import FileStore

    from weathermixer.jigsaw import mesh
    from weathermixer.training.loop import TrainingLoop
    from weathermixer.training.trainer import train

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    if operation is not None:
        _die_at(operation)
    take_step = TrainingLoop.step

    def telling(loop: TrainingLoop, *batch: Any) -> Any:
        report = take_step(loop, *batch)
        news.send(report.number)
        return report

    if number == 0:
        TrainingLoop.step = telling  # type: ignore[assignment, method-assign]
    try:
        store = FileStore(str(meeting / "store"), RANKS)
        mesh.start(number, RANKS, store=store, device=torch.device("cpu"))
        train(config, run, resume=True, console=Console(quiet=True))
        mesh.stop()
    except BaseException:  # noqa: BLE001 - of any kind, it is told
        news.send(traceback.format_exc())
        news.close()
        os._exit(1)  # an orderly end would wait for the rank that is gone


def _die_at(operation: int) -> None:
    operations: Iterator[int] = iter(range(1, 1_000_000))

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(operations) == operation:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    os.fsync = dying(os.fsync)
    os.rename = dying(os.rename)
    shutil.rmtree = dying(shutil.rmtree)  # type: ignore[assignment]


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def main() -> None:
    """Drill, print the figures, and write them to a file where one is wanted."""
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    # Who is killed leaves its semaphores to a process that warns of them.
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
    with tempfile.TemporaryDirectory() as folder:
        figures = drill(chosen.kills, chosen.seed, Path(folder)).summary()
    for name, figure in figures.items():
        print(f"{name.replace('_', ' ')}: {figure}")
    setting = {"ranks": RANKS, "steps": STEPS, "every": EVERY, "seed": chosen.seed}
    write_record(chosen.json, "cpu", **setting, **figures)


if __name__ == "__main__":
    main()

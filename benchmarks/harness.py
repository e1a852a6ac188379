"""What all measurements share: ranks to run them on, and the record of what they ran on.

Ranks are started as the program starts its own, or by torchrun. What they are to do is a function
of a module beside this one, found there by its name, and not of the script that was started.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from weathermixer.interpreter import program
from weathermixer.launch.ranks import run_as_rank
from weathermixer.launch.start import start_ranks

P = ParamSpec("P")
T = TypeVar("T")

MEGABYTE = 1e6


@dataclass(frozen=True)
class Rank:
    """A rank among all that measure together; its number on its machine is ``local_number``.

    They meet on gloo, which sleeps while it waits: NCCL would keep a GPU and a core busy.
    """

    number: int
    local_number: int
    world_size: int
    device: torch.device
    meeting: dist.ProcessGroup

    def meet(self) -> None:
        """Return when all ranks have come here."""
        dist.barrier(self.meeting)

    def gather(self, value: T) -> list[T]:
        """Gather a value from each rank, in their order; every rank gets all."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, self.meeting)
        return values

    def synchronize(self) -> None:
        """Return when the accelerator has done what it was given."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize()


def on_ranks(
    work: Callable[Concatenate[Rank, P], T],
    num_ranks: int,
    device: str,
    *arguments: P.args,
    **settings: P.kwargs,
) -> T:
    """Call ``work(rank, *arguments, **settings)`` on each rank; returns what the first one returns.

    The ranks are new processes on this machine that compute with one thread each. Under torchrun
    they are its own, ``num_ranks`` of them, and all but the first leave the program here.
    """
    task = pickle.dumps((work, device, arguments, settings))
    if under_torchrun():
        result = _be_a_rank(task)
        if int(os.environ["RANK"]) > 0:
            sys.exit()
        return pickle.loads(result)
    os.environ["OMP_NUM_THREADS"] = "1"
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "task").write_bytes(task)
        start_ranks([sys.executable, __file__, folder], num_ranks, remedy="begin again")
        return pickle.loads(Path(folder, "result").read_bytes())


def under_torchrun() -> bool:
    """Whether this process is a rank that torchrun started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _be_a_rank(task: bytes) -> bytes:
    work, device_type, arguments, settings = pickle.loads(task)
    with run_as_rank() as own:
        device = torch.device(device_type)
        if device.type == "cuda":
            device = torch.device("cuda", own.local_rank)
            torch.accelerator.set_device_index(own.local_rank)
        else:
            torch.set_num_threads(1)
        if own.world_size == 1:  # which the schemes of others need started all the same
            dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
        rank = Rank(
            own.rank, own.local_rank, own.world_size, device, dist.new_group(backend="gloo")
        )
        result = pickle.dumps(work(rank, *arguments, **settings))
        if own.world_size == 1:
            dist.destroy_process_group()
        return result


def run_program(*words: object, threads: int | None = None) -> str:
    """Run a command of the program, and return what it prints.

    Its ranks have so many threads each, by default as many as it chooses. A command that fails ends
    the measurement.
    """
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(
        program(*map(str, words)), env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))} failed: see above")
    return done.stdout


def training_seconds(
    config: Path, settings: Sequence[str], *, ranks: int, threads: int | None = None
) -> list[float]:
    """Train on so many ranks, keep nothing of it, and return the seconds of each step."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", config, *settings, "--logging.tensorboard=false"]
        words += ["--nproc", ranks, "--out", Path(folder, "run"), "--json"]
        result = json.loads(run_program(*words, threads=threads).splitlines()[-1])
    seconds: list[float] = result["seconds_per_step"]
    return seconds


def parser(description: str) -> argparse.ArgumentParser:
    """A parser that shows a module's docstring as it stands."""
    title, _, details = description.partition("\n\n")
    return argparse.ArgumentParser(
        description=title, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def write_record(path: Path | None, device: str, **measured: Any) -> None:
    """Write what was measured, with the machine and the time, as JSON, where a file is wanted."""
    if path is not None:
        date = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"machine": machine(device), "date": date, **measured}
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def machine(device: str) -> Mapping[str, str | int]:
    """Describe the machine and software that figures are measured on."""
    model = platform.processor()
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
    described: dict[str, str | int] = {
        "cpu": model,
        "cores": os.cpu_count() or 1,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device,
    }
    if device == "cuda":
        described["gpu"] = torch.cuda.get_device_name()
    return described


if __name__ == "__main__":
    # A rank imports this module under its name, as the work it is given does. Ranks are started
    # without the folder of the program among the places of modules.
    sys.path.insert(0, str(Path(__file__).parent))
    from harness import _be_a_rank as be_a_rank

    folder = Path(sys.argv[1])
    answer = be_a_rank(Path(folder, "task").read_bytes())
    if os.environ["RANK"] == "0":
        Path(folder, "result").write_bytes(answer)

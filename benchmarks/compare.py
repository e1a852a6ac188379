"""Jigsaw's mixer blocks and those of other schemes, side by side on the same ranks.

    python benchmarks/compare.py --check                     # are they all the same function?
    python benchmarks/compare.py --ranks 2 --blocks A,B,L    # seconds and bytes
    python benchmarks/compare.py --memory                    # peak memory
    torchrun --nproc-per-node 4 benchmarks/compare.py        # ranks that torchrun starts

The schemes take turns: one step each in every round, in an order drawn anew (the same in every
run), the ranks meeting before and after. Seconds are per sample: a step of ``fsdp2`` and ``ddp``
takes one sample per rank, and its time is divided by that. Bytes and memory are per rank and step,
as the rank with the most has them. Without a GPU each rank computes in one thread.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from peers import SCHEMES, interface, memory, serial
from peers.blocks import BlockSizes, Step
from peers.collectives import LeastBytes
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

# The token-mixing hidden layer is half as wide as the tokens are many in A and L, as wide in B.
BLOCKS = {
    "A": BlockSizes(tokens=1080, channels=1080, token_hidden=540, channel_hidden=1080, blocks=3),
    "B": BlockSizes(tokens=1080, channels=2160, token_hidden=1080, channel_hidden=2160, blocks=3),
    "L": BlockSizes(tokens=4320, channels=2160, token_hidden=2160, channel_hidden=2160, blocks=1),
}
MEGABYTE = 1e6
# In float64 a scheme may differ from serial by rounding, relative to the largest value.
ROUNDING = 1e-12

# What every rank does, given the arguments and its rank, all ranks and device: rank 0 returns it.
Work = Callable[[argparse.Namespace, int, int, torch.device], Any]


@dataclass(frozen=True)
class Row:
    """What was measured of one scheme on one block; None where it was not.

    ``speed_up`` is the median time of serial by that of this scheme. Per step, ``needed_mb`` is
    what the exchanges that PyTorch was asked for have to send at the least, and ``sent_mb`` what
    was written to the sockets, each of the rank with the most; ``interface_mb`` is what the
    kernel's interfaces sent, as a mean over ranks: it equals ``sent_mb`` where ranks send alike.
    ``balance`` is the most operations of a rank by the mean over ranks.
    """

    scheme: str
    block: str
    samples_per_step: int
    median_s: float | None = None
    minimum_s: float | None = None
    maximum_s: float | None = None
    speed_up: float | None = None
    needed_mb: float | None = None
    sent_mb: float | None = None
    interface_mb: float | None = None
    peak_memory_mb: float | None = None
    balance: float | None = None


@dataclass(frozen=True)
class Measurement:
    """One step: of the slowest rank, of the one that sent most, and per rank on the interfaces."""

    seconds: float
    sent_bytes: float
    interface_bytes: float


def main() -> None:
    arguments = parse()
    if arguments.check:
        differences = launch(check, arguments)
        if differences is not None:
            sys.exit(report_check(differences))
        return
    if arguments.memory:
        # Freed blocks go back to the system at once (glibc, in the processes started from here on),
        # so the peak is of memory in use, not of what the allocator kept.
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
        rows = [
            launch(
                measure_memory, argparse.Namespace(**vars(arguments), block=block, scheme=scheme)
            )
            for block in arguments.blocks
            for scheme in arguments.schemes
        ]
    else:
        rows = launch(time_schemes, arguments)
    if rows is None:
        return
    print_table(rows)
    if arguments.json:
        record = {
            "machine": machine(arguments.device),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "ranks": arguments.ranks,
            "rounds": arguments.rounds,
            "dtype": arguments.dtype,
            "rows": [asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")


def parse() -> argparse.Namespace:
    def names(known: dict[str, Any], text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return chosen

    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--blocks", type=functools.partial(names, BLOCKS), default="A,B,L")
    parser.add_argument(
        "--schemes", type=functools.partial(names, SCHEMES), default=",".join(SCHEMES)
    )
    parser.add_argument("--ranks", type=int, default=2, help="torchrun's own number where it runs")
    parser.add_argument("--rounds", type=int, default=7, help="after one that is not counted")
    parser.add_argument("--dtype", choices=("float32", "float64", "bfloat16"), default="float32")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: cuda where there is one"
    )
    parser.add_argument("--check", action="store_true", help="compare results with serial instead")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine, date and rows")
    arguments = parser.parse_args()

    arguments.device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if under_torchrun():
        arguments.ranks = int(os.environ["WORLD_SIZE"])
        if arguments.memory:
            parser.error("--memory starts fresh processes for each scheme: run it without torchrun")
    elif arguments.device == "cuda" and arguments.ranks > torch.cuda.device_count():
        parser.error(
            f"{arguments.ranks} ranks need a GPU each, but there are {torch.cuda.device_count()}: "
            "choose fewer with --ranks, or --device cpu"
        )
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


def under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(work: Work, arguments: argparse.Namespace) -> Any:
    """What rank 0 returns from ``work``; under torchrun None on the other ranks."""
    if under_torchrun():
        rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
        result = run_rank(work, arguments, rank, local_rank, "env://")
        return result if rank == 0 else None
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run_spawned, (work, arguments, folder), arguments.ranks)
        return torch.load(Path(folder, "result"), weights_only=False)


def run_spawned(rank: int, work: Work, arguments: argparse.Namespace, folder: str) -> None:
    rendezvous = Path(folder, "rendezvous").as_uri()
    result = run_rank(work, arguments, rank, rank, rendezvous)
    if rank == 0:
        torch.save(result, Path(folder, "result"))


def run_rank(
    work: Work, arguments: argparse.Namespace, rank: int, local_rank: int, rendezvous: str
) -> Any:
    torch.set_num_threads(1)
    device = torch.device("cpu")
    if arguments.device == "cuda":
        device = torch.device("cuda", local_rank)
        torch.accelerator.set_device_index(local_rank)
    dist.init_process_group(
        dist.get_default_backend_for_device(device),
        init_method=rendezvous,
        rank=rank,
        world_size=arguments.ranks,
    )
    result = work(arguments, rank, arguments.ranks, device)
    dist.destroy_process_group()
    return result


def sizes_of(arguments: argparse.Namespace, block: str) -> BlockSizes:
    return replace(BLOCKS[block], dtype=getattr(torch, arguments.dtype))


def time_schemes(
    arguments: argparse.Namespace, rank: int, world_size: int, device: torch.device
) -> list[Row]:
    """Seconds and bytes of every scheme on every block; the same rows on all ranks."""
    # Ranks meet on gloo, which sleeps while it waits: NCCL would keep a GPU and a core busy.
    meeting = dist.new_group(backend="gloo")
    counted = sys.platform == "linux" and dist.get_backend() == "gloo"
    rows = []
    for block in arguments.blocks:
        sizes = sizes_of(arguments, block)
        steps = {name: SCHEMES[name](sizes, rank, world_size, device) for name in arguments.schemes}
        measured: dict[str, list[Measurement]] = {name: [] for name in steps}
        for number in range(1 + arguments.rounds):
            # No scheme always follows the same one, nor the ranks' rest while one computes alone.
            for name in random.Random(number).sample(list(steps), len(steps)):
                measured[name].append(measure(steps[name], meeting, device, counted=counted))
        counted_steps = {name: count(step, meeting) for name, step in steps.items()}
        medians = {
            name: statistics.median(m.seconds / steps[name].samples for m in measurements[1:])
            for name, measurements in measured.items()
        }
        for name, (_, *measurements) in measured.items():
            seconds = [m.seconds / steps[name].samples for m in measurements]
            sent = statistics.median(m.sent_bytes for m in measurements)
            on_interfaces = statistics.median(m.interface_bytes for m in measurements)
            rows.append(
                Row(
                    name,
                    block,
                    steps[name].samples,
                    median_s=medians[name],
                    minimum_s=min(seconds),
                    maximum_s=max(seconds),
                    speed_up=medians["serial"] / medians[name] if "serial" in medians else None,
                    needed_mb=counted_steps[name][0] / MEGABYTE,
                    balance=counted_steps[name][1],
                    sent_mb=sent / MEGABYTE if counted else None,
                    interface_mb=on_interfaces / MEGABYTE if counted else None,
                )
            )
    return rows


def measure(
    step: Step, meeting: dist.ProcessGroup, device: torch.device, *, counted: bool
) -> Measurement:
    """One step of all ranks; the interfaces of each machine are read by its first rank."""
    reads_interfaces = counted and os.environ.get("LOCAL_RANK", str(dist.get_rank())) == "0"
    dist.barrier(meeting)
    on_interfaces = interface.transmitted_bytes() if reads_interfaces else 0
    dist.barrier(meeting)
    sent = interface.written_bytes() if counted else 0
    start = time.perf_counter()
    step.run()
    synchronize(device)
    seconds = time.perf_counter() - start
    sent = interface.written_bytes() - sent if counted else 0
    dist.barrier(meeting)
    on_interfaces = interface.transmitted_bytes() - on_interfaces if reads_interfaces else 0

    ranks = of_all_ranks((seconds, sent, on_interfaces), meeting)
    all_seconds, all_sent, all_on_interfaces = zip(*ranks, strict=True)
    return Measurement(max(all_seconds), max(all_sent), sum(all_on_interfaces) / len(ranks))


def count(step: Step, meeting: dist.ProcessGroup) -> tuple[float, float]:
    """The least that the exchanges of one step can send, of the rank with the most; the balance."""
    dist.barrier(meeting)
    with LeastBytes() as sent, FlopCounterMode(display=False) as computed:
        step.run()
    operations = of_all_ranks(computed.get_total_flops(), meeting)
    return max(of_all_ranks(sent.total, meeting)), max(operations) * len(operations) / sum(
        operations
    )


def of_all_ranks(value: Any, meeting: dist.ProcessGroup) -> list[Any]:
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, value, meeting)
    return everywhere


def synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def measure_memory(
    arguments: argparse.Namespace, rank: int, world_size: int, device: torch.device
) -> Row:
    """The most that two steps of one scheme hold above what the process held to start with."""
    meeting = dist.new_group(backend="gloo")
    before = memory.current_bytes(device)
    step = SCHEMES[arguments.scheme](sizes_of(arguments, arguments.block), rank, world_size, device)
    dist.barrier(meeting)
    # Weights are built whole before they are cut: that is not what a scheme needs.
    memory.reset_peak(device)
    for _ in range(2):
        step.run()
    synchronize(device)
    peak = max(of_all_ranks(memory.peak_bytes(device) - before, meeting))
    return Row(arguments.scheme, arguments.block, step.samples, peak_memory_mb=peak / MEGABYTE)


def check(
    arguments: argparse.Namespace, rank: int, world_size: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """By scheme, the largest relative difference from serial of anything that a step produces."""
    sizes = BlockSizes(
        tokens=12 * world_size,
        channels=8 * world_size,
        token_hidden=6 * world_size,
        channel_hidden=10 * world_size,
        blocks=2,
        dtype=torch.float64,
    )
    meeting = dist.new_group(backend="gloo")
    differences = {}
    for name in arguments.schemes:
        step = SCHEMES[name](sizes, rank, world_size, device)
        # Twice: gradients left over from the first step would show.
        step.run()
        parts = step.run()
        found = {}
        if parts is not None:
            expected = [serial.reference(sizes, i, device) for i in range(step.samples)]
            output, gradient, _ = expected[rank if step.samples > 1 else 0]
            found["output"] = difference(step.gather(parts[0]), output)
            found["gradient of the input"] = difference(step.gather(parts[1]), gradient)
            for weight, value in step.gradients().items():
                mean = torch.stack([weights[weight] for _, _, weights in expected]).mean(0)
                found[f"gradient of {weight}"] = difference(value, mean)
        everywhere = of_all_ranks(found, meeting)
        differences[name] = {
            what: max(there.get(what, 0.0) for there in everywhere) for what in everywhere[0]
        }
    return differences


def difference(value: Tensor, expected: Tensor) -> float:
    return ((value - expected).abs().max() / expected.abs().max()).item()


def report_check(differences: dict[str, dict[str, float]]) -> int:
    """Prints one line a scheme; 1 where one differs by more than rounding, else 0."""
    for name, found in differences.items():
        worst = max(found, key=lambda what: found[what])
        verdict = "differs" if found[worst] > ROUNDING else "agrees"
        print(f"{name:18} {verdict}: at most {found[worst]:.1e}, in the {worst}")
    return int(any(value > ROUNDING for found in differences.values() for value in found.values()))


def print_table(rows: list[Row]) -> None:
    def cell(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    print(
        f"{'':24}{'seconds per sample':>30}{'speed':>7}{'MB per rank and step':>27}{'peak':>8}"
        f"{'most by':>9}\n"
        f"{'scheme':18}{'block':6}{'median':>10}{'minimum':>10}{'maximum':>10}"
        f"{'-up':>7}{'needed':>9}{'sent':>9}{'iface':>9}{'MB':>8}{'mean':>9}"
    )
    for row in rows:
        print(
            f"{row.scheme:18}{row.block:6}{cell(row.median_s, 3):>10}{cell(row.minimum_s, 3):>10}"
            f"{cell(row.maximum_s, 3):>10}{cell(row.speed_up, 2):>7}{cell(row.needed_mb, 1):>9}"
            f"{cell(row.sent_mb, 1):>9}{cell(row.interface_mb, 1):>9}"
            f"{cell(row.peak_memory_mb, 0):>8}{cell(row.balance, 3):>9}"
        )


def machine(device: str) -> dict[str, str | int]:
    """What the figures were measured on."""
    model = platform.processor()
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
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
    main()

"""Two hosts and a link of a chosen rate between them: what computing hides, and what is predicted.

    python benchmarks/slow_link.py --rates 200,100,50 --json FILE     # as root, on Linux

Each rank runs on a host of its own, a network namespace of this machine, and a token bucket shapes
what either sends. On a loopback, processors carry the bytes, and there is nothing to hide. Here
a step takes at least what computing takes alone (``copies``), and what the bytes take at the
link's rate: the larger of both is the *ideal*. No schedule reaches it, for two reasons. The
processors that compute also hand the bytes to the link and take them from it. And a third of the
work is the forward pass, which moves half of the bytes, and neither pass can begin before the other
ends. The *bound* is what the slower of working and moving takes in each pass, where the work is
what the rank's threads were seen to do.

Beside each measured time stands the *predicted* one: ``weathermixer bench machine`` measures the
two hosts and their link, and on that machine the traces of the schemes' own code are simulated.
Nothing of a step is measured for it. Where gloo's collectives carry a scheme's bytes, what these
take alone is measured too (``gloo_collectives.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from compare import BLOCKS
from harness import parser, write_record
from peers.blocks import BlockSizes
from peers.recording import trace

from weathermixer.planning.machine import Machine, Rates
from weathermixer.planning.machine_files import find_machine
from weathermixer.planning.simulation.actions import Joins
from weathermixer.planning.simulation.flows import Route
from weathermixer.planning.simulation.machine_network import MachineNetwork
from weathermixer.planning.simulation.programs import TraceTimer, program_of
from weathermixer.planning.simulation.steps import SimulatedStep, simulate_step
from weathermixer.planning.step_time import StepTimer

ADDRESSES = ("10.77.0.1", "10.77.0.2")
COMPARE = str(Path(__file__).with_name("compare.py"))
COLLECTIVES = str(Path(__file__).with_name("gloo_collectives.py"))
SCHEMES = "copies,jigsaw,jigsaw-waiting,megatron,fsdp2"


@dataclass(frozen=True)
class LinkRow:
    """Seconds per sample of a scheme over a link, and by how much they exceed what it could be.

    ``ideal_s`` is the larger of computing alone and of moving this scheme's bytes. ``bound_s`` is
    the larger of working, ``processor_s``, and moving them, in the forward and in the backward
    pass. Of ``copies``, which moves nothing, all are alike. ``predicted_s`` is the simulated time.
    """

    block: str
    rate_mb_s: float
    scheme: str
    seconds: float
    processor_s: float
    ideal_s: float
    bound_s: float
    predicted_s: float

    @property
    def error(self) -> float:
        """How far the prediction is above what was measured, relative to it."""
        return self.predicted_s / self.seconds - 1.0


@dataclass(frozen=True)
class GlooNetwork(MachineNetwork):
    """The links of a machine, whose collectives take what they were measured to take."""

    collectives: Mapping[str, Rates]

    def collective(self, rank: int, exchange: Joins) -> Route:
        """The way of a collective, with the latency in its rate."""
        route = super().collective(rank, exchange)
        rate = self.collectives[exchange.kind].at(exchange.num_bytes)
        return replace(route, seconds=exchange.num_bytes / rate, latency_seconds=0.0)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rates", default="200,100,50", help="megabytes per second, each way")
    options.add_argument("--blocks", default="A,B,L")
    options.add_argument(
        "--schemes", default=SCHEMES, help="as compare.py has them, copies among them"
    )
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", type=Path, metavar="FILE", help="write machine, date and rows")
    arguments = options.parse_args()
    if sys.platform != "linux" or os.geteuid() or not (shutil.which("ip") and shutil.which("tc")):
        options.error("network namespaces need Linux, root, and the commands ip and tc (iproute2)")
    rows: list[LinkRow] = []
    machines: dict[str, Any] = {}
    print(
        f"{'block':6}{'MB/s':>6}  {'scheme':16}{'seconds':>9}{'works':>8}{'ideal':>8}{'ratio':>7}"
        f"{'bound':>8}{'ratio':>7}{'predicted':>11}{'error':>7}"
    )
    for rate in map(float, arguments.rates.split(",")):
        machine, measured = measure(rate, arguments)
        machines[f"{rate:g}"] = machine.model_dump(mode="json", exclude_none=True)
        for row in measured:
            rows.append(row)
            print(
                f"{row.block:6}{row.rate_mb_s:6.0f}  {row.scheme:16}{row.seconds:9.3f}"
                f"{row.processor_s:8.3f}{row.ideal_s:8.3f}{row.seconds / row.ideal_s:7.2f}"
                f"{row.bound_s:8.3f}{row.seconds / row.bound_s:7.2f}"
                f"{row.predicted_s:11.3f}{100 * row.error:+6.0f}%",
                flush=True,
            )
    errors = [abs(row.error) for row in rows]
    print(
        f"median error of {len(rows)} predictions: {100 * statistics.median(errors):.1f}%, "
        f"the largest {100 * max(errors):.0f}%"
    )
    write_record(
        arguments.json,
        "cpu",
        rounds=arguments.rounds,
        rows=[asdict(row) for row in rows],
        machines=machines,
    )


def measure(rate: float, arguments: argparse.Namespace) -> tuple[Machine, list[LinkRow]]:
    """Measure two hosts and one link, and have all schemes take turns over it."""
    with tempfile.TemporaryDirectory() as folder, two_hosts(rate) as hosts:
        record, machine_file = Path(folder, "rows.json"), Path(folder, "machine.yaml")
        rates_file = Path(folder, "collectives.json")
        measuring = ["--out", str(machine_file)]
        run_on(hosts, ["-m", "weathermixer", "bench", "machine", *measuring])
        machine = find_machine(str(machine_file))
        run_on(hosts, [COLLECTIVES, str(rates_file)])
        measured = json.loads(rates_file.read_text(encoding="utf-8"))
        timer = StepTimer(machine, len(ADDRESSES), threads=1)
        network = GlooNetwork(
            timer, {kind: Rates.model_validate(rates) for kind, rates in measured.items()}
        )
        options = ["--blocks", arguments.blocks, "--schemes", arguments.schemes]
        options += ["--rounds", str(arguments.rounds), "--json", str(record)]
        run_on(hosts, [COMPARE, *options])
        found = json.loads(record.read_text(encoding="utf-8"))["rows"]
    computing = {row["block"]: row["median_s"] for row in found if row["scheme"] == "copies"}
    rows = []
    for row in found:
        moving = row["needed_mb"] / rate / row["samples_per_step"]
        working = row["processor_s"]
        rows.append(
            LinkRow(
                row["block"],
                rate,
                row["scheme"],
                row["median_s"],
                working,
                max(computing[row["block"]], moving),
                least_seconds(working, moving),
                predict(network, row["scheme"], BLOCKS[row["block"]]).median
                / row["samples_per_step"],
            )
        )
    return machine, rows


def least_seconds(working: float, moving: float) -> float:
    """What a forward and a backward pass take where each hides all that can be hidden in it."""
    return max(working / 3, moving / 2) + max(2 * working / 3, moving / 2)


def predict(network: MachineNetwork, scheme: str, sizes: BlockSizes) -> SimulatedStep:
    """Simulate a step of a scheme on two ranks of a machine, one a node, with a thread each."""
    programs = {
        rank: program_of(trace(scheme, sizes, rank, len(ADDRESSES)), TraceTimer(network.timer))
        for rank in range(len(ADDRESSES))
    }
    return simulate_step(programs, network, sees_arrivals=True)


def run_on(hosts: tuple[str, str], program: list[str]) -> None:
    """Run a Python program as a rank on each host, and wait for both."""
    ranks = [start_rank(number, host, program) for number, host in enumerate(hosts)]
    if max(rank.wait() for rank in ranks):
        sys.exit("a rank failed: see above")


def start_rank(number: int, host: str, program: list[str]) -> subprocess.Popen[bytes]:
    """Start one of the two ranks on its host; the first one writes what is measured."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    launch += [f"--master-addr={ADDRESSES[0]}", "--master-port=29555", f"--node-rank={number}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"}
    return subprocess.Popen(
        ["ip", "netns", "exec", host, *launch, *program],
        env=environment,
        stdout=subprocess.DEVNULL,
    )


@contextmanager
def two_hosts(rate: float) -> Iterator[tuple[str, str]]:
    """Two network namespaces that a link of so many megabytes per second joins, each way."""
    hosts = f"mixer-{os.getpid()}-a", f"mixer-{os.getpid()}-b"
    ends = f"mixa{os.getpid()}", f"mixb{os.getpid()}"
    try:
        for host in hosts:
            run("ip", "netns", "add", host)
        run("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for host, end, address in zip(hosts, ends, ADDRESSES, strict=True):
            run("ip", "link", "set", end, "netns", host)
            run("ip", "-n", host, "link", "set", end, "name", "eth0")
            run("ip", "-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
            for name in ("lo", "eth0"):
                run("ip", "-n", host, "link", "set", name, "up")
            shape = (
                f"tc qdisc add dev eth0 root tbf rate {rate * 8:.0f}mbit burst 200kb latency 100ms"
            )
            run("ip", "netns", "exec", host, *shape.split())
        yield hosts
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "del", host], check=False, stderr=subprocess.DEVNULL)


def run(*command: str) -> None:
    """Run a command, whose own message says what is wrong where it fails."""
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()

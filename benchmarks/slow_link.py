"""Two hosts and a link of a chosen rate between them: how much of the exchanges computing hides.

    python benchmarks/slow_link.py --rates 200,100,50 --json FILE     # as root, on Linux

Each rank runs on a host of its own, a network namespace of this machine, and a token bucket shapes
what either sends. On a loopback, processors carry the bytes, and there is nothing to hide. Here
a step takes at least what computing takes alone (``copies``), and what the bytes take at the
link's rate: the larger of both is the *ideal*. No schedule reaches it, for two reasons. The
processors that compute also hand the bytes to the link and take them from it. And a third of the
work is the forward pass, which moves half of the bytes, and neither pass can begin before the other
ends. The *bound* is what the slower of working and moving takes in each pass, where the work is
what the rank's threads were seen to do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import parser, write_record

ADDRESSES = ("10.77.0.1", "10.77.0.2")
COMPARE = Path(__file__).with_name("compare.py")
SCHEMES = "copies,jigsaw,jigsaw-waiting,megatron,fsdp2"


@dataclass(frozen=True)
class LinkRow:
    """Seconds per sample of a scheme over a link, and by how much they exceed what it could be.

    ``ideal_s`` is the larger of computing alone and of moving this scheme's bytes. ``bound_s`` is
    the larger of working, ``processor_s``, and moving them, in the forward and in the backward
    pass. Of ``copies``, which moves nothing, all are alike.
    """

    block: str
    rate_mb_s: float
    scheme: str
    seconds: float
    processor_s: float
    ideal_s: float
    bound_s: float


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
    rows = []
    print(
        f"{'block':6}{'MB/s':>6}  {'scheme':16}{'seconds':>9}{'works':>8}{'ideal':>8}{'ratio':>7}"
        f"{'bound':>8}{'ratio':>7}"
    )
    for rate in map(float, arguments.rates.split(",")):
        for row in measure(rate, arguments):
            rows.append(row)
            print(
                f"{row.block:6}{row.rate_mb_s:6.0f}  {row.scheme:16}{row.seconds:9.3f}"
                f"{row.processor_s:8.3f}{row.ideal_s:8.3f}{row.seconds / row.ideal_s:7.2f}"
                f"{row.bound_s:8.3f}{row.seconds / row.bound_s:7.2f}",
                flush=True,
            )
    write_record(arguments.json, "cpu", rounds=arguments.rounds, rows=[asdict(row) for row in rows])


def measure(rate: float, arguments: argparse.Namespace) -> list[LinkRow]:
    """Have all schemes take turns over one link."""
    with tempfile.TemporaryDirectory() as folder, two_hosts(rate) as hosts:
        record = Path(folder, "rows.json")
        options = ["--blocks", arguments.blocks, "--schemes", arguments.schemes]
        options += ["--rounds", str(arguments.rounds), "--json", str(record)]
        ranks = [start_rank(number, host, options) for number, host in enumerate(hosts)]
        if max(rank.wait() for rank in ranks):
            sys.exit("a rank failed: see above")
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
            )
        )
    return rows


def least_seconds(working: float, moving: float) -> float:
    """What a forward and a backward pass take where each hides all that can be hidden in it."""
    return max(working / 3, moving / 2) + max(2 * working / 3, moving / 2)


def start_rank(number: int, host: str, options: list[str]) -> subprocess.Popen[bytes]:
    """Start one of the two ranks on its host; the first one writes the record."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    launch += [f"--master-addr={ADDRESSES[0]}", "--master-port=29555", f"--node-rank={number}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"}
    return subprocess.Popen(
        ["ip", "netns", "exec", host, *launch, str(COMPARE), *options],
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
                f"tc qdisc add dev eth0 root tbf rate {rate * 8:.0f}mbit burst 1mb latency 100ms"
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

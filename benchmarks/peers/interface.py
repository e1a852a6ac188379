"""Bytes sent, as the Linux kernel counts them: by this process, and by this machine's interfaces.

The two counters know nothing of each other, nor of what a scheme says that it sends. Neither sees
traffic that bypasses the kernel, as that of NCCL over NVLink or InfiniBand does.
"""

from __future__ import annotations

from pathlib import Path

# Ethernet 14, IPv4 20, TCP 20 and its time stamps 12.
HEADER_BYTES_PER_PACKET = 66


def written_bytes() -> int:
    """What this process has written so far, to sockets and files alike, without headers.

    gloo writes to its sockets with ``writev``, which counts here. Bytes given to ``send`` do not.
    """
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])


def transmitted_bytes() -> int:
    """What all interfaces of this machine, loopback too, have sent so far, without headers.

    All processes count, so this means something only while the ranks alone talk. Each packet is
    taken to have the headers of TCP over IPv4.
    """
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    total = 0
    for line in lines:
        fields = line.partition(":")[2].split()
        num_bytes, num_packets = int(fields[8]), int(fields[9])
        total += num_bytes - HEADER_BYTES_PER_PACKET * num_packets
    return total

"""Bytes sent, as the Linux kernel counts them on this machine's interfaces.

This counter knows nothing of the process's own (``process_counters.written_bytes``), nor of what a
scheme says that it sends. Neither sees traffic that bypasses the kernel, as that of NCCL over
NVLink or InfiniBand does.
"""

from __future__ import annotations

from pathlib import Path

# Ethernet 14, IPv4 20, TCP 20 and its time stamps 12.
HEADER_BYTES_PER_PACKET = 66


def transmitted_bytes() -> int:
    """Bytes that all interfaces of this machine, loopback too, have sent so far, without headers.

    All processes count, so this means something only while the ranks alone talk. Each packet is
    taken to have the headers of TCP over IPv4.
    """
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()[2:]
    total = 0
    for line in lines:
        fields = line.partition(":")[2].split()
        num_bytes, num_packets = int(fields[8]), int(fields[9])
        total += num_bytes - HEADER_BYTES_PER_PACKET * num_packets
    return total

"""What the allocator gives out is counted on all threads of a process, to the page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MEGABYTE = 1 << 20
PAGES = (
    8 * 4096
)  # of the blocks that were given out: each is whole pages, with what it needs itself

TENSORS_OF_TWO_THREADS = f"""
import sys, threading
sys.path.insert(0, {str(BENCHMARKS)!r})
import torch
from allocated_memory import allocated_bytes, most_allocated_bytes

device = torch.device("cpu")
held = [torch.empty(40, {MEGABYTE}, dtype=torch.uint8)]  # more than anything before
before = allocated_bytes(device)

def work():
    held.append(torch.empty(20, {MEGABYTE}, dtype=torch.uint8))
    del held[0]
    held.append(torch.empty(5, {MEGABYTE}, dtype=torch.uint8))

thread = threading.Thread(target=work)
thread.start()
thread.join()
print(before, allocated_bytes(device), most_allocated_bytes(device))
"""


def test_what_one_thread_makes_and_another_frees_is_counted_to_the_page() -> None:
    environment = {"MALLOC_MMAP_THRESHOLD_": str(16 * 1024), "MKL_DISABLE_FAST_MM": "1"}
    command = [sys.executable, "-c", TENSORS_OF_TWO_THREADS]
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    before, after, most = map(int, said.stdout.split())
    assert 0 <= after - before - (20 + 5 - 40) * MEGABYTE <= PAGES
    assert 0 <= most - before - 20 * MEGABYTE <= PAGES


def test_without_what_makes_blocks_be_counted_it_is_refused() -> None:
    command = [sys.executable, "-c", TENSORS_OF_TWO_THREADS]
    said = subprocess.run(command, capture_output=True, text=True, env={})
    assert said.returncode != 0
    assert "blocks are not counted" in said.stderr

"""What there is of every step of a training stays out of memory, and comes back as it was."""

from __future__ import annotations

import math
import tracemalloc

from support.disk import full_disk
from weathermixer.training.spool import Spool


def test_records_come_back_in_their_order_and_to_the_bit() -> None:
    records = [[step, 1.0 / (step + 3), {"a": math.pi * step}] for step in range(5_000)]
    spool = Spool()
    for number, record in enumerate(records):
        spool.append(record)
        if number in (0, 1023, 1024, 4_999):
            assert list(spool) == records[: number + 1]


def test_memory_does_not_grow_with_the_number_of_records() -> None:
    spool = Spool()
    for _ in range(2):
        tracemalloc.start()
        for step in range(20_480):
            spool.append([step / 7, step / 3, step / 11])
        grown, _peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert grown < 50_000
    assert sum(1 for _ in spool) == 2 * 20_480


def test_records_for_which_the_disk_has_no_room_stay_in_memory() -> None:
    spool, records = Spool(), list(range(10_000))
    for record in records[:2_000]:
        spool.append(record)
    with full_disk(after_bytes=6_000):
        for record in records[2_000:6_000]:
            spool.append(record)
        assert list(spool) == records[:6_000]
    for record in records[6_000:]:
        spool.append(record)
    assert list(spool) == records

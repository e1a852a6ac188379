"""The command line, on ranks of which one fails: ``failing_forecasts.py HOW WORDS...``.

Rank 1 fails when it writes its second batch of forecasts: its disk is ``full``, or it is
``killed``.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any
from unittest.mock import patch

from support.disk import full_disk
from weathermixer.cli import main
from weathermixer.forecast.writer import ForecastWriter

FAILING_RANK = 1
FAILING_BATCH = 2


def fail_late(how: str) -> None:
    write, batches = ForecastWriter._write_leads, 0

    def failing(self: ForecastWriter, *arguments: Any) -> None:
        nonlocal batches
        batches += 1
        if batches < FAILING_BATCH:
            write(self, *arguments)
        elif how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            with full_disk(after_bytes=64):
                write(self, *arguments)

    patch.object(ForecastWriter, "_write_leads", failing).start()


if __name__ == "__main__":
    how, *words = sys.argv[1:]
    if os.environ["RANK"] == str(FAILING_RANK):
        fail_late(how)
    main(words)

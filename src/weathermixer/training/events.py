"""TensorBoard's files of events, written at once and in this thread.

TensorBoard's own writer has a thread that ends with a traceback where the disk is full. Here a
record is in the file when ``write`` returns, or an OSError says that it is not.
"""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from weathermixer.training.tail import replace_tail

_FORMAT = "brain.Event:2"


class EventFile:
    """A new file of TensorBoard's events in ``folder``.

    What older files say of steps from ``first_step`` on is void. Raises OSError where it cannot be
    written.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / name
        self._size = 0
        self._append(Event(wall_time=time.time(), file_version=_FORMAT))
        restart = SessionLog(status=SessionLog.START)
        self._append(Event(wall_time=time.time(), step=first_step, session_log=restart))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append scalars by their tags, all of them or none; OSError where that is impossible."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _append(self, event: Event) -> None:
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        replace_tail(self._path, self._size, record.getvalue())
        self._size += len(record.getvalue())

"""In which order an accelerator is told to copy and to wait, with stand-ins for its streams.

The device's memory is the processor's here, so that states can be compared; that copies overlap
with what is computed can only be seen on a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.waves import CHANNELS, write_waves
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.feeding.read_ahead import StateReader, read_ahead
from weathermixer.data.forcings import Forcings
from weathermixer.data.store.store import Store

events: list[str] = []


class Event:
    """Stands for all that its stream was given when it was recorded."""

    def __init__(self, covers: int) -> None:
        self.covers = covers


class Stream:
    """A stream that notes what it is given."""

    def __init__(self, name: str = "copying") -> None:
        self.name, self.device, self.copies = name, torch.device("cpu"), 0

    def __enter__(self) -> Self:
        current.append(self)
        return self

    def __exit__(self, *details: object) -> None:
        current.pop()

    def record_event(self) -> Event:
        return Event(self.copies)

    def wait_event(self, event: Event) -> None:
        events.append(f"{self.name} waits for {event.covers}")


computing = Stream("computing")
current = [computing]
empty, to = torch.empty, torch.Tensor.to


def _empty(*args: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
    if pin_memory:
        events.append("pinned")
    return empty(*args, **options)


def _to(tensor: torch.Tensor, *args: Any, non_blocking: bool = False) -> torch.Tensor:
    assert non_blocking
    current[-1].copies += 1
    events.append(f"{current[-1].name} copies {current[-1].copies}")
    return to(tensor.clone(), *args)


def _record(tensor: torch.Tensor, stream: Stream) -> None:
    events.append(f"held for {stream.name}")


@pytest.fixture
def accelerator() -> Iterator[torch.device]:
    events.clear()
    with (
        mock.patch.multiple(torch.Tensor, to=_to, record_stream=_record),
        mock.patch.object(torch, "Stream", lambda _: Stream()),
        mock.patch.object(torch, "empty", _empty),
        mock.patch.object(torch.accelerator, "current_stream", lambda _: current[-1]),
    ):
        yield torch.device("cuda")


class Reader(StateReader):
    """A reader that has read as soon as it is asked."""

    def fill(self, slot: NDArray[np.floating], index: int) -> int:
        slot[...] = index
        return slot.nbytes


class Done:
    """A pool of threads that does at once what it is given."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.submit = self._submit

    def _submit(self, function: Any, *args: Any) -> Any:
        from concurrent.futures import Future

        future: Future[Any] = Future()
        future.set_result(function(*args))
        return future

    def shutdown(self, **options: Any) -> None: ...


@pytest.fixture
def reader(tmp_path: Path) -> StateReader:
    store = Store.open(write_waves(tmp_path / "s.zarr", times=4))
    normalisation = Normalisation.from_store(store, CHANNELS, (), (store.times[0], store.times[-1]))
    forcings = Forcings(("hour_of_day_cosine",), store.latitude, store.longitude, 6.0)
    return Reader(
        store, normalisation, torch.float32, num_states=4, memory_bytes=0, forcings=forcings
    )


def test_the_next_batch_is_copied_while_one_is_used(
    reader: StateReader, accelerator: torch.device
) -> None:
    plan = [np.array([[number, 10 + number]]) for number in range(4)]
    with mock.patch("weathermixer.data.feeding.read_ahead.ThreadPoolExecutor", Done):
        for number, batch in enumerate(read_ahead(reader, plan, device=accelerator, ahead=1)):
            events.append(f"used {number}")
            assert batch.states[0, :, 0, 0, 0].tolist() == [number, 10 + number]
            assert batch.forcings[0, 0, 0, 0, 0].item() == pytest.approx(
                [1, 0, -1, 0][number], abs=1e-6
            )
    steps = [event for event in events if event != "pinned"]
    assert events.count("pinned") == 8  # of each batch, states and forcings
    use = [
        [
            f"computing waits for {2 * n + 2}",
            *2 * ["held for computing"],
            f"copying copies {2 * n + 3}",
            f"copying copies {2 * n + 4}",
            f"used {n}",
        ]
        for n in range(3)
    ]
    first = ["copying copies 1", "copying copies 2"]
    last = ["computing waits for 8", *2 * ["held for computing"], "used 3"]
    assert steps == [*first, *(event for events in use for event in events), *last]


def test_on_the_processor_nothing_is_copied(reader: StateReader, accelerator: torch.device) -> None:
    with mock.patch("weathermixer.data.feeding.read_ahead.ThreadPoolExecutor", Done):
        list(read_ahead(reader, [np.array([[0]])], device=torch.device("cpu")))
        list(read_ahead(reader, [np.array([[0]])]))
    assert not events

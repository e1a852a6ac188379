"""A training step reads one thing of the device, which is not asked for before the optimizer ran.

No GPU is needed: what would make the processor wait for one is seen in what is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from support.ranks import Pool
from support.selection import exhaustive
from support.waves import wave_config
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.training.host_copy import HostCopy
from weathermixer.training.loop import TrainingLoop

aten = torch.ops.aten

# Operations whose result, or the shape of it, has to be known by the processor.
READING = {
    aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.nonzero, aten.masked_select,
    aten.unique_dim, aten._unique2, aten.bincount, aten.repeat_interleave,
}  # fmt: skip
# What Python asks a tensor for, or makes of numbers that it has: a copy from pageable memory.
ASKING = {
    torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu,
    torch.Tensor.__bool__, torch.Tensor.__float__, torch.Tensor.__int__, torch.Tensor.__index__,
    torch.tensor, torch.as_tensor,
}  # fmt: skip


class _Operations(TorchDispatchMode):
    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        masks = packet in (aten.index, aten.index_put, aten.index_put_) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if packet in READING or masks:
            self.events.append(str(packet))
        if packet in (aten._fused_adamw_, aten._fused_adam_):
            self.events.append("optimizer")
        return func(*args, **(kwargs or {}))


class _Questions(TorchFunctionMode):
    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in ASKING:
            self.events.append(func.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def watched() -> Iterator[list[str]]:
    """What happens within: reads of the device, the optimizer's steps, and how copies are made."""
    events: list[str] = []

    class Watched(HostCopy):
        def __init__(self, values: torch.Tensor) -> None:
            events.append("copy begins")
            super().__init__(values)

        def wait(self) -> list[float]:
            events.append("copy is waited for")
            with torch._C.DisableTorchFunction():
                return super().wait()

    with (
        mock.patch("weathermixer.training.step.HostCopy", Watched),
        _Operations(events),
        _Questions(events),
    ):
        yield events


def events_of_a_step(mesh: Mesh, waves: Path, out: Path, sections: dict[str, Any]) -> list[str]:
    layout = mesh.layout
    parallel = {"data": layout.data, "domain": layout.domain, "tensor": layout.tensor}
    config = wave_config(
        waves,
        model={"dropout": 0.1, **sections.get("model", {})},
        training={"rollout": 2, **sections.get("training", {})},
        parallel={**parallel, **sections.get("parallel", {})},
    )
    with TrainingLoop.begin(config, out) as loop:
        loop.step()
        batch = loop.next_batch()
        with watched() as events:
            loop.step(batch)
    return events


SECTIONS: dict[str, dict[str, Any]] = {
    "bfloat16": {"training": {"dtype": "bfloat16"}},
    "recompute": {"training": {"recompute": True}},
    "published": {
        "model": {"prediction": "state"},
        "training": {"loss": "published", "optimizer": "adam"},
    },
}
ONE_READ = ["copy begins", "optimizer", "copy is waited for"]


@pytest.mark.parametrize("name", SECTIONS)
def test_the_only_read_of_a_step_is_waited_for_after_the_optimizer(
    waves: Path, tmp_path: Path, name: str
) -> None:
    events = events_of_a_step(Mesh.describe(), waves, tmp_path / "run", SECTIONS[name])
    # The optimizer is called for each group of parameters.
    assert list(dict.fromkeys(events)) == ONE_READ
    assert events.count(ONE_READ[0]) == events.count(ONE_READ[-1]) == 1


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        (Layout(domain=2), "bfloat16"),
        *exhaustive((Layout(tensor=2), "recompute"), (Layout(tensor=2), "published")),
    ],
    ids=str,
)
def test_no_rank_of_a_mesh_reads_more(
    waves: Path, tmp_path: Path, pool: Pool, layout: Layout, name: str
) -> None:
    for events in pool.run(events_of_a_step, layout, waves, tmp_path / "run", SECTIONS[name]):
        assert list(dict.fromkeys(events)) == ONE_READ
        assert events.count(ONE_READ[0]) == events.count(ONE_READ[-1]) == 1


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.item(),
        lambda x: bool(x > 0),
        lambda x: torch.arange(3)[torch.arange(3) < x],
        lambda x: x.tolist(),
        lambda x: torch.tensor(1.0),
    ],
)
def test_what_would_wait_is_seen(read: Any) -> None:
    with watched() as events:
        read(torch.ones(()))
    assert events

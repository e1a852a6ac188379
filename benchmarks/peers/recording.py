"""Traces of the schemes: what a rank computes, exchanges and waits for in a step, in its order.

Their real code runs on PyTorch's fake process group, as one of ranks that are not there, so that
what ``weathermixer.planning.simulation`` makes of a trace can be held against a measured step. The
bytes of a collective are those that gloo sends, whose reduce-scatter is an all-reduce of which a
rank keeps its part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import _resolve_process_group
from torch.distributed import ProcessGroup
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from peers import SCHEMES, jigsaw
from peers.blocks import BlockSizes, forward_and_backward
from weathermixer.jigsaw.dry_run import Recorder, recording
from weathermixer.jigsaw.fake import fake_mesh
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.trace import Event, ExchangeBegun, ExchangeWaited, OperationTaken

# Jigsaw by its names in the table, and whether its exchanges overlap products.
_JIGSAW = {"jigsaw": True, "jigsaw-waiting": False}
_GATHERS = {"all_gather_into_tensor", "_allgather_base_"}
_SUMS = {"reduce_scatter_tensor", "_reduce_scatter_base_", "all_reduce", "all_reduce_"}
_BLOCKING = {"_allgather_base_", "_reduce_scatter_base_"}


def trace(scheme: str, sizes: BlockSizes, rank: int, world_size: int) -> Sequence[Event]:
    """The events of a step of a scheme on a rank, after another step that came before.

    The step is computed in truth, on what no other rank has sent.
    """
    if scheme in _JIGSAW:
        layout = jigsaw.cheapest_layout(sizes, world_size).at(rank)
        return _trace_jigsaw(sizes, layout, overlap=_JIGSAW[scheme])
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        step = SCHEMES[scheme](sizes, rank, world_size, torch.device("cpu"))
        step.run()
        with _CollectiveRecorder() as recorder:
            step.run()
        return recorder.events
    finally:
        dist.destroy_process_group()


def _trace_jigsaw(sizes: BlockSizes, layout: Layout, *, overlap: bool) -> Sequence[Event]:
    with (
        fake_mesh(layout, overlap=overlap, has_link=True) as bare,
        recording(bare) as (mesh, recorder),
    ):
        model = jigsaw.stack(sizes, mesh, "cpu")
        part = jigsaw.own_part(sizes, mesh)
        x = torch.empty(part.local_shape, dtype=sizes.dtype, requires_grad=True)
        upstream = torch.empty(part.local_shape, dtype=sizes.dtype)
        for _ in range(2):
            recorder.mark()
            forward_and_backward(model, x, upstream)
        return recorder.events


class _CollectiveRecorder(Recorder):
    """Takes down the collectives that PyTorch is given, too, as gloo does them."""

    def __init__(self) -> None:
        super().__init__(Mesh.describe())
        self._begun: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do what was to be done, and take it down."""
        if any(issubclass(kind, DTensor | AsyncCollectiveTensor) for kind in types):
            # These become operations on local tensors, which come here in their turn.
            return NotImplemented
        name = func._schema.name.partition("::")[2]
        if name == "wait_tensor":
            self._wait(args[0])
        outputs = super().__torch_dispatch__(func, types, args, kwargs)
        if func.namespace == "fsdp":
            # Copies of everything that is the first argument, into one tensor or out of it.
            moved = _nbytes(args[0])
            self.events.append(OperationTaken(name, moved, moved, ""))
        elif func.namespace in ("c10d", "_c10d_functional") and name in _GATHERS | _SUMS:
            self._begin(name, args, outputs)
        return outputs

    def _begin(self, name: str, args: Any, outputs: Any) -> None:
        group = _group(name, args)
        ranks = tuple(dist.get_process_group_ranks(group))
        others = len(ranks) - 1
        if name in _GATHERS:
            kind, sent = "all_gather", _nbytes(args[1 if name in _BLOCKING else 0]) * others
        else:
            whole = _nbytes(args[1 if name == "_reduce_scatter_base_" else 0])
            kind = "all_reduce" if name.startswith("all_reduce") else "reduce_scatter"
            sent = 2 * whole * others // len(ranks)
        number = self._num_exchanges
        self._num_exchanges += 1
        self.events.append(
            ExchangeBegun(
                number,
                kind,
                group.group_name,
                ranks,
                None,
                None,
                sent,
                sent,
                others,
                is_background=False,
                where="",
            )
        )
        if name in _BLOCKING:
            self.events.append(ExchangeWaited(number))
        else:
            self._begun[outputs.untyped_storage()._cdata] = number

    def _wait(self, tensor: Tensor) -> None:
        number = self._begun.pop(tensor.untyped_storage()._cdata, None)
        if number is not None:
            self.events.append(ExchangeWaited(number))


def _group(name: str, args: Any) -> ProcessGroup:
    match name:
        case "all_gather_into_tensor" | "all_reduce" | "all_reduce_":
            return _resolve_process_group(args[2])
        case "reduce_scatter_tensor":
            return _resolve_process_group(args[3])
    return ProcessGroup.unbox(args[2])


def _nbytes(tensors: Any) -> int:
    if isinstance(tensors, Tensor):
        return tensors.nbytes
    return sum(_nbytes(each) for each in tensors)

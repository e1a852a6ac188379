"""What the exchanges of a step have to send at the least, from the operations PyTorch is given.

A back end may send more: gloo's reduce-scatter sends a rank's whole input, twice what two ranks
need. This count is the same on every back end, so it is the one to compare schemes by where a back
end is not the one that the schemes were made for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._distributed_c10d import _resolve_process_group
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

SILENT = {"wait_tensor", "_wrap_tensor_autograd", "recv_", "barrier"}


class LeastBytes(TorchDispatchMode):
    """Adds up, in ``total``, what this rank sends in all collectives while the mode is on.

    Of ``n`` ranks each sends ``(n − 1)/n`` of the larger side of an all-gather or reduce-scatter,
    and of what it puts into an all-to-all; twice that share in an all-reduce.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            # DTensor turns this into operations on local tensors, which come here in their turn.
            return NotImplemented
        if function.namespace in ("c10d", "_c10d_functional"):
            self.total += _least_bytes(function._schema.name.partition("::")[2], args)
        return function(*args, **(kwargs or {}))


def _least_bytes(operation: str, args: Sequence[Any]) -> float:
    match operation:
        case "send":
            return _bytes(args[0])
        case "all_gather_into_tensor":
            return _bytes(args[0]) * (args[1] - 1)
        case "reduce_scatter_tensor":
            return _bytes(args[0]) * (args[2] - 1) / args[2]
        case "all_reduce" | "all_reduce_":
            return 2 * _bytes(args[0]) * _others(_resolve_process_group(args[2]))
        case "all_to_all_single":
            return _bytes(args[0]) * _others(_resolve_process_group(args[3]))
        case "allgather_" | "_allgather_base_":
            return _bytes(args[0]) - _bytes(args[1])
        case "reduce_scatter_" | "_reduce_scatter_base_":
            return _bytes(args[1]) - _bytes(args[0])
        case "allreduce_":
            return 2 * _bytes(args[0]) * _others(ProcessGroup.unbox(args[1]))
        case "alltoall_" | "alltoall_base_":
            return _bytes(args[1]) * _others(ProcessGroup.unbox(args[2]))
    if operation not in SILENT:
        raise ValueError(f"what {operation} sends is not known: say so in {__file__}")
    return 0.0


def _bytes(tensors: Tensor | Sequence[Any]) -> int:
    if isinstance(tensors, torch.Tensor):
        return tensors.nbytes
    return sum(_bytes(each) for each in tensors)


def _others(group: ProcessGroup) -> float:
    """The share of a group that is not this rank."""
    return (group.size() - 1) / group.size()

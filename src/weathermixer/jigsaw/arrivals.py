"""Weights on their way from the replicas that own their rows: whatever looks at one waits for it.

The gather of an optimizer step can so travel beside the next forward pass, and nobody can see a
weight that has arrived by half: not a pass, nor a state dict, a copy, another step of the optimizer
or whoever reads a parameter for any reason of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.buckets import Bucket
from weathermixer.jigsaw.lines import LineGather
from weathermixer.jigsaw.mesh import Axis


class ArrivingParameter(nn.Parameter):
    """What a parameter is while it is on its way; then it is an ``nn.Parameter`` again.

    PyTorch tells its class of every operation on it, and of every attribute that is asked for.
    """

    arrival: WeightArrival

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do what was to be done, when what it is done to is there."""
        for each in tree_leaves((args, kwargs)):
            if type(each) is ArrivingParameter:
                each.arrival.finish()
        return func(*args, **(kwargs or {}))


class WeightArrival:
    """A bucket of weights, of each of which every replica has changed its own rows."""

    def __init__(
        self, data: Axis, weights: Sequence[nn.Parameter], owned: Sequence[Tensor]
    ) -> None:
        """Begin to gather all rows; ``owned`` are the parameters that are this replica's own."""
        self._weights, self._parameters = weights, [*weights, *owned]
        # What looks at the same memory from elsewhere, made earlier, would not be told to wait; nor
        # would what looks at a parameter of a class of its own.
        is_seen = any(map(_has_other_views, weights))
        is_seen |= any(type(parameter) is not nn.Parameter for parameter in self._parameters)
        wholes = self._wholes()
        self._bucket = Bucket([tuple(whole.shape) for whole in wholes], data.size)
        # Lines of other replicas are what is overwritten.
        lines = self._bucket.lines(wholes)
        with ACTIVITY.at("weights after the optimizer's step"):
            self._gather: LineGather | None = LineGather(data, lines[data.index], lines)
        if is_seen:
            self.finish()
            return
        for parameter in self._parameters:
            parameter.__class__ = ArrivingParameter
            parameter.arrival = self  # type: ignore[attr-defined]

    def finish(self) -> None:
        """Wait for the others' rows, and put them into the weights."""
        if self._gather is None:
            return
        lines, self._gather = self._gather.wait(), None
        for parameter in self._parameters:
            if type(parameter) is ArrivingParameter:
                parameter.__class__ = nn.Parameter  # type: ignore[assignment]
                del parameter.arrival
        self._bucket.fill(self._wholes(), lines)

    def _wholes(self) -> list[Tensor]:
        # Not as tensors of inference mode, wherever the weights are first looked at.
        with torch.inference_mode(False), torch.no_grad():
            return [weight.detach() for weight in self._weights]


def _has_other_views(weight: nn.Parameter) -> bool:
    """Whether more tensors share a weight's memory than it and the parameter of its owned rows."""
    storage = weight.untyped_storage()
    own = 3  # these two, and ``storage``
    return torch._C._storage_Use_Count(storage._cdata) > own

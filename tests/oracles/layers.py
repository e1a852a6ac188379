"""The layers of a mixer on one process, in plain torch; tensors cut over ranks and joined.

Activations are ``(tokens, batch, channels)``. Cuts are NumPy's ``array_split``, section by section.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Ranges = tuple[range, ...]


class Held(NamedTuple):
    """What a rank holds of a global tensor: for each dimension, ranges in local order."""

    shape: tuple[int, ...]
    ranges: tuple[Ranges, ...]
    tensor: Tensor


def part(sections: Sequence[int], unit: int, parts: int, index: int) -> Ranges:
    """Elements of part ``index`` of a dimension whose sections are cut one by one."""
    found, start = [], 0
    for section in sections:
        units = np.array_split(np.arange(section), parts)[index]
        first = start + unit * int(units[0]) if len(units) else start
        found.append(range(first, first + unit * len(units)))
        start += section * unit
    return tuple(found)


def cut(tensor: Tensor, ranges: Sequence[Ranges]) -> Tensor:
    """What a rank holds of ``tensor``."""
    for dimension, parts in enumerate(ranges):
        index = [element for one in parts for element in one]
        tensor = tensor.index_select(dimension, torch.tensor(index, dtype=torch.int64))
    return tensor.contiguous()


def join(held: Sequence[Held]) -> tuple[Tensor, Tensor]:
    """The global tensor, and how many ranks hold each of its elements.

    Elements that several ranks hold have to be the same bits on all of them.
    """
    whole = torch.full(held[0].shape, torch.nan, dtype=held[0].tensor.dtype)
    holders = torch.zeros(held[0].shape, dtype=torch.int64)
    for one in held:
        lists = [[element for piece in parts for element in piece] for parts in one.ranges]
        place = np.ix_(*lists)
        before = whole[place]
        assert torch.all((holders[place] == 0) | (before == one.tensor)), "replicas differ"
        whole[place] = one.tensor
        holders[place] += 1
    return whole, holders


def over_tokens(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    mixed = torch.einsum("on,nbc->obc", weights[f"{name}.weight"], x)
    return mixed + weights[f"{name}.bias"][:, None, None]


def over_channels(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def layer_norm(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(
        x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-5
    )


def mixer(
    weights: Mapping[str, Tensor], state: Tensor, static: Tensor, *, blocks: int, passes: int
) -> Tensor:
    """Encoder, blocks and decoder, whose output is added to the state; ``passes`` times."""
    for _ in range(passes):
        x = encoded = over_channels(weights, "encoder", torch.cat([state, static], -1))
        for number in range(blocks):
            name = f"blocks.{number}"
            hidden = F.gelu(
                over_tokens(
                    weights, f"{name}.token_expand", layer_norm(weights, f"{name}.token_norm", x)
                )
            )
            x = x + over_tokens(weights, f"{name}.token_contract", hidden)
            hidden = F.gelu(
                over_channels(
                    weights,
                    f"{name}.channel_expand",
                    layer_norm(weights, f"{name}.channel_norm", x),
                )
            )
            x = x + over_channels(weights, f"{name}.channel_contract", hidden)
        joined = torch.cat([layer_norm(weights, "norm", x), encoded], -1)
        state = state + over_channels(weights, "decoder", joined)
    return state

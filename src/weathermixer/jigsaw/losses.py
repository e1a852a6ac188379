"""Losses of outputs that are cut over a mesh: each rank's share, which the shares of all add up to.

Call ``backward()`` on the share as it is; :func:`~weathermixer.jigsaw.exchange.total_over` gives
the loss itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weathermixer.jigsaw import exchange
from weathermixer.jigsaw.layout import Dimension
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.opaque import opaque
from weathermixer.jigsaw.operations import all_reduce


def mean_squared_error(prediction: Tensor, target: Tensor, *, elements: int) -> Tensor:
    """This rank's share of the mean of ``(prediction − target)²``; both have any, the same shape.

    ``elements`` counts those of all ranks and replicas.
    """
    return (prediction - target).square().sum() / elements


@opaque
def cross_entropy(
    logits: Tensor, labels: Tensor, mesh: Mesh, *, classes: int, elements: int
) -> Tensor:
    """This rank's share of the mean of ``−log softmax(logits)[label]`` over all labels.

    ``logits (..., classes)``, per rank ``(rows, ..., classes / tensor)``; ``labels (...)``, of this
    rank's rows, number all classes and are the same on every rank of ``tensor``. ``elements``
    counts the labels of all ranks and replicas. Three numbers a label are sent along ``tensor``.
    """
    axis = mesh.tensor
    (own,) = Dimension.of(classes).ranges(axis.size, axis.index)
    lowest = logits.new_full((*logits.shape[:-1], 1), -torch.inf)
    largest = torch.cat([lowest, logits.detach()], -1).amax(-1, keepdim=True)
    largest = torch.stack(exchange.all_gather(axis, largest.contiguous())).amax(0)
    shifted = logits - largest
    sums = all_reduce(shifted.exp().sum(-1), axis)
    is_here = (labels >= own.start) & (labels < own.stop)
    # A column of zeros for labels that are another rank's.
    padded = torch.cat([shifted, torch.zeros_like(largest)], -1)
    place = torch.where(is_here, labels - own.start, len(own))
    chosen = padded.gather(-1, place[..., None])[..., 0]
    return (sums.log() / axis.size - chosen).sum() / elements

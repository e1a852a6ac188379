"""What a rank holds of the parameters of a model, and where their gradients come together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from weathermixer.jigsaw.gradients import Destination, JigsawError
from weathermixer.jigsaw.layout import Block
from weathermixer.jigsaw.mesh import Axis, Mesh


@dataclass(frozen=True)
class Piece:
    """A rank's part of a global tensor.

    ``block`` tells which elements it holds, ``shared_over`` the axes within a model instance whose
    ranks hold the same ones, and ``destination`` where the gradient of a parameter goes.
    """

    block: Block
    shared_over: tuple[Axis, ...]
    destination: Destination

    @classmethod
    def shared(cls, block: Block, axes: tuple[Axis, ...], mesh: Mesh) -> Piece:
        """The piece of a small parameter: its gradient is summed over ``axes`` and replicas."""
        return cls(block, axes, Destination((mesh.data, *axes)))


class LocalParameter(NamedTuple):
    """A rank's piece of a parameter, under the parameter's name in the model."""

    name: str
    parameter: nn.Parameter
    piece: Piece


def local_parameters(model: nn.Module) -> Iterator[LocalParameter]:
    """Every parameter of a model that is cut over a mesh, in the order of the model.

    Raises JigsawError, naming them, where parameters belong to modules that are not cut.
    """
    strange = [
        name
        for prefix, module in model.named_modules()
        for name, _ in module.named_parameters(prefix, recurse=False)
        if name.rpartition(".")[2] not in getattr(module, "pieces", {})
    ]
    if strange:
        raise JigsawError(
            f"{', '.join(strange[:5])}{' and others' if len(strange) > 5 else ''} would differ "
            "between ranks: these modules are not cut over the mesh; name them in the table of "
            "parallelize()"
        )
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            yield LocalParameter(name, parameter, module.pieces[name.rpartition(".")[2]])

"""What a rank holds of the parameters of a model, and where their gradients come together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from torch import nn

from weathermixer.jigsaw.gradient_sums import Destination
from weathermixer.jigsaw.gradients import JigsawError
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
    def cut(cls, block: Block, mesh: Mesh) -> Piece:
        """The piece of a weight that is cut into one for each rank of a model instance."""
        return cls(block, (), Destination(data=mesh.data, by_rows=True))

    @classmethod
    def shared(cls, block: Block, axes: tuple[Axis, ...], mesh: Mesh) -> Piece:
        """The piece of a small parameter: its gradient is summed over ``axes`` and replicas."""
        return cls(block, axes, Destination(axes, mesh.data))


class CutModule(nn.Module):
    """A module whose parameters are a rank's pieces, by name; each tells its own: ``weight.piece``.

    Copies of the module, and the parameters that it has on another device, do so too.
    """

    pieces: dict[str, Piece]

    def _apply(self, *arguments: Any, **options: Any) -> Self:
        super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]
        label(self)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        label(self)


def label(module: nn.Module) -> None:
    """Let every parameter of a module that is cut tell its piece, as ``parameter.piece``."""
    pieces: dict[str, Piece] = getattr(module, "pieces", {})
    for name, piece in pieces.items():
        getattr(module, name).piece = piece


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

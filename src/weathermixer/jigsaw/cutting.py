"""From a plain PyTorch model to this rank's part of it: twins under the same names."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from weathermixer.jigsaw.dropout import Dropout
from weathermixer.jigsaw.gradient_sums import Destination
from weathermixer.jigsaw.gradients import JigsawError, Source, current_pass, refuse_autograd_grad
from weathermixer.jigsaw.layers import LayerNorm, Linear, RMSNorm
from weathermixer.jigsaw.layout import Block, Dimension, LayoutError
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.opaque import opaque
from weathermixer.jigsaw.pieces import CutModule, Piece, label, local_parameters
from weathermixer.jigsaw.product import Features, Scheme
from weathermixer.jigsaw.tensors import cut
from weathermixer.jigsaw.weights import fetch_in_order

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class CutLinear:
    """How a ``torch.nn.Linear`` is cut; see :class:`~weathermixer.jigsaw.layers.Linear`.

    ``rows`` counts those of a sample. ``in_features`` and ``out_features`` are given where they are
    not cut between single elements.
    """

    rows: int | Dimension
    features: Features = "tensor"
    in_features: Dimension | None = None
    out_features: Dimension | None = None
    scheme: Scheme = "reduce"

    def twin(self, name: str, module: nn.Module, mesh: Mesh) -> nn.Module:
        """This rank's part of a module, with its weights."""
        if not isinstance(module, nn.Linear):
            raise _another_kind(name, module, "a torch.nn.Linear")
        linear = Linear(
            _dimension(name, "in_features", self.in_features, module.in_features),
            _dimension(name, "out_features", self.out_features, module.out_features),
            mesh,
            rows=self.rows,
            features=self.features,
            scheme=self.scheme,
            bias=module.bias is not None,
            device=module.weight.device,
            dtype=module.weight.dtype,
        )
        linear.name = name or linear.name
        return linear


@dataclass(frozen=True)
class CutNorm:
    """How a ``torch.nn.LayerNorm`` or ``torch.nn.RMSNorm`` over the last dimension is cut.

    ``rows`` counts those of a sample; ``channels`` are given where they are not cut between single
    elements.
    """

    rows: int | Dimension
    channels: Dimension | None = None

    def twin(self, name: str, module: nn.Module, mesh: Mesh) -> nn.Module:
        """This rank's part of a module, with its weights."""
        if not isinstance(module, nn.LayerNorm | nn.RMSNorm):
            raise _another_kind(name, module, "a torch.nn.LayerNorm or torch.nn.RMSNorm")
        if len(module.normalized_shape) > 1:
            raise JigsawError(f"{name} normalises over several dimensions: give it one")
        if module.weight is None or (isinstance(module, nn.LayerNorm) and module.bias is None):
            raise JigsawError(f"{name} has no gains or no shifts: give it elementwise_affine=True")
        channels = _dimension(name, "channels", self.channels, module.normalized_shape[0])
        device, dtype = module.weight.device, module.weight.dtype
        norm: LayerNorm | RMSNorm
        if isinstance(module, nn.RMSNorm):
            norm = RMSNorm(
                channels, mesh, rows=self.rows, eps=module.eps, device=device, dtype=dtype
            )
        else:
            norm = LayerNorm(
                channels, mesh, rows=self.rows, eps=module.eps, device=device, dtype=dtype
            )
        norm.name = name or norm.name
        return norm


@dataclass(frozen=True)
class CutTensors:
    """How a module's own parameters and buffers are cut: the module stays what it is.

    ``dims`` gives for each of them, by name, what its dimensions are cut over: ``("domain",
    dimension)``, ``("tensor", dimension)``, or None for one that every rank has all of. Over axes
    that no dimension is cut over, a parameter is the same on all ranks, and its gradient is summed:
    in passes in which all ranks ask for it.
    """

    dims: Mapping[str, Sequence[tuple[Features, int | Dimension] | None]]

    def apply(self, name: str, module: nn.Module, mesh: Mesh) -> None:
        """Leave this rank's parts in the module, and note what they are of."""
        pieces: dict[str, Piece] = {}
        for own_name, dims in self.dims.items():
            whole = getattr(module, own_name)
            ranges: list[tuple[range, ...]] = []
            for size, dim in zip(whole.shape, dims, strict=True):
                if dim is None:
                    ranges.append((range(size),))
                    continue
                axis = getattr(mesh, dim[0])
                dimension = _dimension(f"{name}.{own_name}", "dims", Dimension.of(dim[1]), size)
                ranges.append(dimension.ranges(axis.size, axis.index))
            block = Block(tuple(whole.shape), tuple(ranges))
            over = {dim[0] for dim in dims if dim is not None}
            shared = tuple(axis for axis in (mesh.domain, mesh.tensor) if axis.name not in over)
            own = cut(whole.detach(), block)
            if isinstance(whole, nn.Parameter):
                pieces[own_name] = Piece(block, shared, Destination(shared, mesh.data))
                own = nn.Parameter(own, requires_grad=whole.requires_grad)
            setattr(module, own_name, own)
        module.pieces = pieces  # type: ignore[assignment]


# A module stands in the table for itself, and is put in the place of what is there.
Cut = CutLinear | CutNorm | CutTensors | nn.Module


def parallelize(model: M, mesh: Mesh, table: Mapping[str, Cut]) -> M:
    """Replace the modules of a plain model by this rank's parts of them, in place.

    ``table`` says how modules are cut, by their names in ``model``, in which ``*`` stands for
    anything; the first that fits counts. A module in it is put in the place of what has the name,
    such as a ``GatherRows`` in that of an ``nn.Identity``. Names and global shapes of parameters
    stay what they are, and so do their values, which every rank has to have alike: a model of the
    meta device has none and needs no memory. ``torch.nn.Dropout`` is replaced wherever it is; its
    draws then differ between ranks. Modules without parameters stay. A rank's input is its part of
    the whole input, and its loss the share of the whole loss that it can know.

    The model is returned, or its twin where it is itself a module of the table (under ``""``).

    Raises JigsawError for parameters whose modules the table does not name, for names that nothing
    has, and for modules of another kind than the table says; LayoutError for a cut that cannot be.
    """
    known: dict[nn.Module, nn.Module] = {}
    used: set[str] = set()
    _refuse_tied(model)
    for name, module in list(model.named_modules(remove_duplicate=False)):
        pattern = next((each for each in table if _names(each, name)), None)
        if pattern is None and not isinstance(module, nn.Dropout):
            continue
        if pattern is not None:
            used.add(pattern)
        if module not in known:
            known[module] = _cut_module(
                name, module, mesh, None if pattern is None else table[pattern]
            )
        if known[module] is not module:
            model = _replace(model, name, known[module])
    unused = [pattern for pattern in table if pattern not in used]
    if unused:
        raise JigsawError(
            f"the model has no module {unused[0]!r}, which the table names: it has "
            f"{', '.join(name for name, _ in model.named_children()) or 'none within'}"
        )
    for _ in local_parameters(model):  # refuses what is not cut
        break
    fetch_in_order(model)
    _track_own_tensors(model)
    model.register_forward_pre_hook(_track_own_tensors)
    model._ddp_params_and_buffers_to_ignore = _RefusesDdp()  # type: ignore[assignment]
    return model


def _names(pattern: str, name: str) -> bool:
    """Whether a pattern fits a module's name; the model itself, which has none, only by none."""
    return fnmatch.fnmatchcase(name, pattern) if name else not pattern


def _cut_module(name: str, module: nn.Module, mesh: Mesh, how: Cut | None) -> nn.Module:
    if isinstance(how, CutTensors):
        how.apply(name, module, mesh)
        return module
    if isinstance(how, nn.Module):
        twin: nn.Module = how
    elif how is None:
        assert isinstance(module, nn.Dropout)
        twin = Dropout(module.p, mesh)
    else:
        twin = how.twin(name, module, mesh)
        for own_name, parameter in twin.named_parameters(recurse=False):
            whole = getattr(module, own_name)
            parameter.requires_grad_(whole.requires_grad)
            if not parameter.is_meta:
                pieces: dict[str, Piece] = twin.pieces  # type: ignore[assignment]
                parameter.data.copy_(cut(whole.detach(), pieces[own_name].block))
    return twin.train(module.training)


def _replace(model: M, name: str, twin: nn.Module) -> M:
    if not name:
        return twin  # type: ignore[return-value]
    parent, _, own_name = name.rpartition(".")
    setattr(model.get_submodule(parent), own_name, twin)
    return model


def _refuse_tied(model: nn.Module) -> None:
    """Two modules that share a parameter would each get a piece of their own."""
    seen = {parameter: name for name, parameter in model.named_parameters()}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if seen[parameter] != name:
                raise JigsawError(
                    f"{name} and {seen[parameter]} are one parameter of two modules, which cannot "
                    "be cut: give each its own"
                )


# Of each model, the modules that kept parameters for themselves, and these, by name.
_own_tensors: WeakKeyDictionary[nn.Module, list[tuple[str, str]]] = WeakKeyDictionary()


@opaque
def _track_own_tensors(model: nn.Module, _: Any = None) -> None:
    """Let the gradients of parameters that modules kept for themselves be summed over ranks.

    A copy of a model, or one that was moved to another device, has new parameters.
    """
    if model not in _own_tensors:
        _own_tensors[model] = [
            (prefix, name)
            for prefix, module in model.named_modules()
            if not isinstance(module, CutModule)
            for name in getattr(module, "pieces", {})
        ]
    for prefix, name in _own_tensors[model]:
        module = model.get_submodule(prefix)
        parameter = getattr(module, name)
        label(module)
        if not parameter.requires_grad or getattr(parameter, "is_tracked", False):
            continue
        parameter.is_tracked = True
        if not parameter.piece.destination.is_here:
            parameter.register_hook(_hand_over(parameter, parameter.piece))


def _hand_over(parameter: nn.Parameter, piece: Piece) -> Any:
    source = Source(parameter, piece.destination)

    def hook(gradient: Tensor) -> Tensor:
        refuse_autograd_grad(parameter)
        current_pass().add(source, gradient)
        current_pass().complete(source)
        return torch.zeros_like(gradient)  # the whole sum is added when the pass ends

    return hook


class _RefusesDdp:
    """Stands where DistributedDataParallel looks for parameters to ignore before it sends any."""

    def __iter__(self) -> Iterator[str]:
        self._refuse()

    def __contains__(self, _: object) -> bool:
        self._refuse()

    @staticmethod
    def _refuse() -> NoReturn:
        raise JigsawError(
            "DistributedDataParallel would overwrite every rank's part of this model with that of "
            "the first: replicas are the mesh's `data`, and their gradients are summed already"
        )


def _dimension(name: str, what: str, given: Dimension | None, size: int) -> Dimension:
    if given is not None and given.size != size:
        raise LayoutError(f"{name} has {size} {what}, but the table cuts {given.size}")
    return given or Dimension.of(size)


def _another_kind(name: str, module: nn.Module, expected: str) -> JigsawError:
    return JigsawError(
        f"{name or 'the model'} is a {type(module).__name__}, but the table cuts it as {expected}"
    )

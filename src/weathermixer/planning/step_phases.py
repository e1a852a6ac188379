"""A training step of Jigsaw as phases: forward, backward, what replicas exchange, and the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from weathermixer.config.training_settings import ErrorKind
from weathermixer.jigsaw.cost import Cost, replicas_cost, shared_cost
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Axis, Mesh
from weathermixer.jigsaw.pieces import local_parameters
from weathermixer.model.architecture import Architecture
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.model.cuts import Part, describe
from weathermixer.model.mixer import Blend, Mixing, WeatherMixer
from weathermixer.planning.layer_work import (
    LayerWork,
    PassWork,
    linears,
    lines_through_node,
)
from weathermixer.planning.machine import Machine, ProductType
from weathermixer.planning.step_time import Phase, PlannedExchange

_SCALARS = 3  # summed over the mesh in each step: loss, square of the norm, whether to stop


@dataclass(frozen=True)
class StepKind:
    """What a step depends on, besides the network and the mesh.

    ``samples`` are those of a model instance, ``rollout`` the applications to each; ``dtype`` is a
    ``training.dtype``. With ``shards_optimizer`` replicas divide the optimizer, and
    ``gradient_bytes`` are those of a gradient's element between them. Memory is for the
    ``longest_rollout``, by default that of the step, and with a loss of such an ``error``;
    ``keeps_average`` tells of an average of the weights.
    """

    samples: int
    dtype: ProductType = "float32"
    rollout: int = 1
    recompute: bool = False
    shards_optimizer: bool = False
    gradient_bytes: int | None = None
    longest_rollout: int | None = None
    error: ErrorKind = "squared"
    keeps_average: bool = False


def has_link(machine: Machine) -> bool:
    """Whether something other than the processors that compute carries what ranks exchange."""
    return not machine.within_node.carried_by_processors


def describe_rank(
    architecture: Architecture, layout: Layout, kind: StepKind, machine: Machine
) -> WeatherMixer:
    """The part of the network of the rank that ``layout`` is seen from, as it is on a machine.

    Raises LayoutError where some rank would be left with nothing to do.
    """
    arithmetic = Arithmetic.of(kind.dtype)
    narrow = arithmetic.products if arithmetic.products != arithmetic.states else None
    mesh = Mesh.describe(layout, has_link=has_link(machine))
    model = describe(
        architecture,
        mesh,
        samples=kind.samples,
        arithmetic=narrow,
        recompute=kind.recompute,
    )
    return model.to(arithmetic.states)


def stack_phases(
    blocks: nn.Module, *, samples: int, dtype: ProductType, mesh: Mesh, machine: Machine
) -> list[Phase]:
    """Forward and backward pass of mixer blocks alone, without a network around them."""
    work = _passes(machine, samples, dtype, Arithmetic.of(dtype).products.itemsize, 4)
    for mixing in blocks.modules():
        if isinstance(mixing, Mixing):
            _add_mixing(work, mixing)
    weight_bytes = next(blocks.parameters()).element_size()
    _add_shared(work.backward, blocks, mesh, weight_bytes)
    return [work.forward.phase(), work.backward.phase()]


def step_phases(
    model: WeatherMixer, layout: Layout, kind: StepKind, machine: Machine
) -> list[Phase]:
    """A training step on the rank that ``model`` was described for, by :func:`describe_rank`."""
    mesh = Mesh.describe(layout, has_link=has_link(machine))
    arithmetic = Arithmetic.of(kind.dtype)
    states, products = arithmetic.states.itemsize, arithmetic.products.itemsize
    wide_type: ProductType = "float32" if kind.dtype == "bfloat16" else kind.dtype
    wide = _passes(machine, kind.samples, wide_type, states, states)
    blocks = replace(wide, dtype=kind.dtype, element_bytes=products)
    again = _passes(machine, kind.samples, kind.dtype, products, states)
    for application in range(kind.rollout):
        is_first = application == 0
        _add_edges(wide, blocks, model, mesh, is_first=is_first)
        for mixing in model.blocks.modules():
            if isinstance(mixing, Mixing):
                _add_mixing(blocks, mixing, fetches=is_first or kind.recompute)
                if kind.recompute:
                    _add_mixing(again, mixing)
        _add_loss(wide, model.architecture, mesh)
    if kind.recompute:
        wide.backward.products += again.forward.products
        wide.backward.elementwise += again.forward.elementwise
        wide.backward.exchanges += again.forward.exchanges
    _add_shared(wide.backward, model, mesh, states)
    _add_replicas(wide, model, mesh, kind, machine)
    phases = [wide.forward.phase(), wide.backward.phase(), _optimizer(model, mesh, kind, machine)]
    return [phase for phase in phases if phase.products or phase.elementwise]


def sent(model: WeatherMixer, layout: Layout, kind: StepKind) -> Cost:
    """What replicas and the scalars of a step add to the cost of its passes."""
    axes = Mesh.describe(layout).axes
    return sum((_scalar_cost(axis) for axis in axes), _replicas_cost(model, kind))


def _replicas_cost(model: WeatherMixer, kind: StepKind) -> Cost:
    states = Arithmetic.of(kind.dtype).states.itemsize
    return replicas_cost(
        model,
        parameter_bytes=states,
        gradient_bytes=kind.gradient_bytes or states,
        sharded=kind.shards_optimizer,
        passes=kind.rollout,
        without_kept_weights=[model.blocks] if kind.recompute else [],
    )


def _scalar_cost(axis: Axis) -> Cost:
    """What summing the scalars of a step over an axis costs."""
    others = axis.size - 1
    if not others:
        return Cost()
    if axis.name == "data":
        sent_bytes = 2 * others * _SCALARS // axis.size * 8
        return Cost(bytes_sent=sent_bytes, messages=2 * others, calls=1)
    return Cost(bytes_sent=others * _SCALARS * 8, messages=others, calls=others)


def _passes(
    machine: Machine, samples: int, dtype: ProductType, element_bytes: int, weight_bytes: int
) -> LayerWork:
    forward, backward = (PassWork(name, machine.ranks_per_node) for name in ("forward", "backward"))
    return LayerWork(forward, backward, samples, dtype, element_bytes, weight_bytes)


def _add_mixing(work: LayerWork, mixing: Mixing, *, fetches: bool = True) -> None:
    elements = work.norm(mixing.norm)
    work.pair(mixing.expand, mixing.contract, fetches=fetches)
    work.residual(elements)


def _add_edges(
    wide: LayerWork, blocks: LayerWork, model: WeatherMixer, mesh: Mesh, *, is_first: bool
) -> None:
    """Add encoder, decoder and head of one application."""
    part = Part.on(mesh, model.architecture)
    points = model.architecture.grid[0] * (part.longitudes.stop - part.longitudes.start)
    prognostic = _size(part.prognostic) * points * wide.samples
    predicted = len(part.channels) * points * wide.samples
    given = (_size(part.static) + _size(part.forcings)) * points * wide.samples
    encoder, decoder = model.encoder, model.decoder
    # The state and what is given beside it are joined, and cut into patches.
    back = 0 if is_first else 1
    inputs = model.architecture.input_times * prognostic + given
    wide.copies(inputs, forward=1, backward=back)
    wide.copies(inputs, forward=1, backward=back, kind="transpose")
    wide.linear(encoder, input_gradient=not is_first, fetches=is_first)
    latent = blocks.norm(decoder.norm)
    blocks.copies(latent, forward=2, backward=3)
    blocks.linear(decoder.linear, fetches=is_first)
    wide.copies(predicted, forward=1, backward=1, kind="transpose")
    if isinstance(model.head, Blend):
        wide.norm(model.head.decoded_norm)
        wide.copies((prognostic + predicted) // 2, forward=4, backward=4)
        wide.norm(model.head.norm)
        wide.linear(model.head.linear, fetches=is_first)
    else:
        wide.copies(predicted, forward=2, backward=1 if is_first else 2)


def _size(part: slice) -> int:
    return int(part.stop - part.start)


def _add_loss(work: LayerWork, architecture: Architecture, mesh: Mesh) -> None:
    part = Part.on(mesh, architecture)
    columns = part.longitudes.stop - part.longitudes.start
    values = len(part.channels) * architecture.grid[0] * columns
    # Difference, square, weight, mean; and the gradients of these.
    work.copies(values * work.samples, forward=4, backward=4)


def _add_shared(work: PassWork, model: nn.Module, mesh: Mesh, weight_bytes: int) -> None:
    """Add the sums of what several ranks hold alike; over the longest of the axes that cross."""
    cost = shared_cost(model, parameter_bytes=weight_bytes)
    widest = max(
        (mesh.domain, mesh.tensor, mesh.data), key=lambda axis: axis.ranks[-1] * (axis.size > 1)
    )
    work.add_exchange(cost, widest)


def _add_replicas(
    work: LayerWork, model: WeatherMixer, mesh: Mesh, kind: StepKind, machine: Machine
) -> None:
    """Add what replicas exchange of weights and gradients.

    Half of it, the sums, travels beside the backward pass; so does the other, the gradients that
    come back, or else the weights, beside the next forward pass.
    """
    states = Arithmetic.of(kind.dtype).states.itemsize
    cost = _replicas_cost(model, kind)
    if not cost.calls:
        return
    for target in (work.backward, work.forward if kind.shards_optimizer else work.backward):
        target.exchanges.append(_half(cost, mesh, machine))
    held = sum(layer.weight.numel() for layer in linears(model))
    # Into buckets and out of them; and between, each replica sums up its share of the rows.
    work.backward.add_elements(
        "copy", held, tensors=4 + 3, element_bytes=states, kernels=4 * len(linears(model))
    )


def _half(cost: Cost, mesh: Mesh, machine: Machine) -> PlannedExchange:
    layout, ranks = mesh.layout, machine.ranks_per_node
    is_between = layout.world_size > ranks
    sharing = None
    if is_between:
        # A ring enters and leaves each node once, however many of its ranks lie in it.
        link = machine.link(is_between_nodes=True)
        sharing = link.ranks_sharing / lines_through_node(layout, ranks)
    return PlannedExchange(cost.bytes_sent / 2, cost.calls / 2, is_between, True, sharing)


def _optimizer(model: WeatherMixer, mesh: Mesh, kind: StepKind, machine: Machine) -> Phase:
    """The gradient's norm, its clipping, Adam's step, and the sum of the scalars."""
    work = PassWork("optimizer", machine.ranks_per_node)
    parameters = [parameter.parameter for parameter in local_parameters(model)]
    held = sum(parameter.numel() for parameter in parameters)
    owned = held // mesh.data.size if kind.shards_optimizer else held
    element_bytes = Arithmetic.of(kind.dtype).states.itemsize
    work.add_elements(
        "copy", owned, tensors=3, element_bytes=element_bytes, kernels=5 * len(parameters)
    )
    work.add_elements("optimizer", owned, tensors=7, element_bytes=element_bytes, kernels=4)
    if kind.keeps_average:
        work.add_elements("copy", owned, tensors=3, element_bytes=element_bytes, kernels=1)
    for axis in mesh.axes:
        work.add_exchange(_scalar_cost(axis), axis)
    return work.phase()

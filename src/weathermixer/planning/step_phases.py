"""A training step of Jigsaw as phases: forward, backward, what replicas exchange, and the rest."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

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
from weathermixer.planning.loss_work import add_loss, members_cost
from weathermixer.planning.machine import Machine, ProductType
from weathermixer.planning.ring_work import Ring
from weathermixer.planning.small_scales_work import SmallScalesWork
from weathermixer.planning.smoothing_work import SmoothingWork
from weathermixer.planning.step_kind import StepKind
from weathermixer.planning.step_time import Phase, PlannedExchange

# Summed over the mesh in each step: loss, square of the norm, whether to stop, whether saved.
_SCALARS = 4


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
    if kind.narrows_exchange:
        mesh = mesh.exchanging(torch.bfloat16)
    model = describe(
        architecture,
        mesh,
        samples=kind.passing[0],
        arithmetic=narrow,
        recompute=kind.recompute == "blocks",
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
    states = Arithmetic.of(kind.dtype).states.itemsize
    phases: list[Phase] = []
    like: dict[tuple[int, bool], tuple[Phase, Phase]] = {}
    last = len(kind.passing) - 1
    for number, samples in enumerate(kind.passing):
        if 0 < number < last and (samples, True) in like:
            phases += like[samples, True]
            continue
        wide = _network_passes(model, mesh, kind, machine, samples, fetches=number == 0)
        if number:  # added to what the samples before have left
            held = sum(layer.weight.numel() for layer in linears(model))
            wide.backward.add_elements("copy", held, tensors=3, element_bytes=states)
        if number == last:
            _add_shared(wide.backward, model, mesh, states)
            _add_gradient_sums(wide.backward, model, mesh, kind, machine)
        if number == 0 and kind.shards_optimizer:
            _add_weight_arrivals(wide.forward, model, mesh, kind, machine)
        made = wide.forward.phase(), wide.backward.phase()
        if 0 < number < last:
            like[samples, True] = made
        phases += made
    phases.append(_optimizer(model, mesh, kind, machine))
    return [phase for phase in phases if phase.products or phase.elementwise]


def _network_passes(
    model: WeatherMixer,
    mesh: Mesh,
    kind: StepKind,
    machine: Machine,
    samples: int,
    *,
    fetches: bool,
) -> LayerWork:
    """What so many samples are, forwards and back; they ``fetch`` weights that move, if first."""
    arithmetic = Arithmetic.of(kind.dtype)
    states, products = arithmetic.states.itemsize, arithmetic.products.itemsize
    wide_type: ProductType = "float32" if kind.dtype == "bfloat16" else kind.dtype
    wide = _passes(machine, samples, wide_type, states, states)
    again = _passes(machine, samples, wide_type, states, states)
    by_block = kind.recompute == "blocks"
    for application in range(kind.rollout + kind.forwards_again):
        is_first, is_again = fetches and application == 0, application >= kind.rollout
        into = again if is_again else wide
        blocks = replace(into, dtype=kind.dtype, element_bytes=products)
        _add_edges(into, blocks, model, mesh, fetches=is_first, has_input_gradient=application > 0)
        for number in range(kind.latent):
            for mixing in model.blocks.modules():
                if isinstance(mixing, Mixing):
                    _add_mixing(blocks, mixing, fetches=by_block or (is_first and number == 0))
                    if by_block:
                        _add_mixing(
                            replace(again, dtype=kind.dtype, element_bytes=products), mixing
                        )
        if not is_again:
            add_loss(wide, model.architecture, mesh, kind)
            if (small_scales := SmallScalesWork.of(model, kind)) is not None:
                small_scales.add_to(wide)
    # Of what is computed again, the forward pass alone.
    wide.backward.products += again.forward.products
    wide.backward.elementwise += again.forward.elementwise
    wide.backward.exchanges += again.forward.exchanges
    return wide


def sent(model: WeatherMixer, layout: Layout, kind: StepKind) -> Cost:
    """What replicas and the scalars of a step add to the cost of its passes."""
    mesh = Mesh.describe(layout)
    cost = sum((_scalar_cost(axis) for axis in mesh.axes), _replicas_cost(model, kind))
    for samples in kind.passing:
        _, told = members_cost(model.architecture, mesh, kind, samples)
        cost += told * kind.rollout
    return cost


def _replicas_cost(model: WeatherMixer, kind: StepKind) -> Cost:
    states = Arithmetic.of(kind.dtype).states.itemsize
    return replicas_cost(
        model,
        parameter_bytes=states,
        gradient_bytes=kind.gradient_bytes or states,
        sharded=kind.shards_optimizer,
        passes=kind.rollout * kind.latent,
        without_kept_weights=[model.blocks] if kind.recompute == "blocks" else [],
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
    if mixing.modulation is not None:
        work.modulation(elements, of_tokens=mixing.modulation.is_local)
    work.pair(mixing.expand, mixing.contract, fetches=fetches)
    work.residual(elements)


def _add_edges(
    wide: LayerWork,
    narrow: LayerWork,
    model: WeatherMixer,
    mesh: Mesh,
    *,
    fetches: bool,
    has_input_gradient: bool,
) -> None:
    """Add encoder, decoder and head of one application."""
    part = Part.on(mesh, model.architecture)
    points = model.architecture.grid[0] * (part.longitudes.stop - part.longitudes.start)
    prognostic = _size(part.prognostic) * points * wide.samples
    predicted = len(part.channels) * points * wide.samples
    given = (_size(part.static) + _size(part.forcings)) * points * wide.samples
    encoder, decoder = model.encoder, model.decoder
    # The state and what is given beside it are cast, joined, and cut into patches.
    back = 1 if has_input_gradient else 0
    inputs = model.architecture.input_times * prognostic + given
    if narrow.element_bytes != wide.element_bytes:
        wide.copies(inputs, forward=1, backward=back)
    narrow.copies(inputs, forward=1, backward=back)
    narrow.copies(inputs, forward=1, backward=back, kind="transpose")
    narrow.linear(encoder, input_gradient=has_input_gradient, fetches=fetches)
    if (ring := Ring.of(model)) is not None:
        ring.add_to(narrow, fetches=fetches, has_input_gradient=has_input_gradient)
    latent = narrow.norm(decoder.norm)
    narrow.copies(latent, forward=2, backward=3)
    narrow.linear(decoder.linear, fetches=fetches)
    wide.copies(predicted, forward=1, backward=1, kind="transpose")
    if (smoothing := SmoothingWork.of(model)) is not None:
        smoothing.add_to(wide, has_input_gradient=has_input_gradient)
    if model.point_noise is not None:
        wide.point_noise(predicted)
    if isinstance(model.head, Blend):
        wide.norm(model.head.decoded_norm)
        wide.copies((prognostic + predicted) // 2, forward=4, backward=4)
        wide.norm(model.head.norm)
        wide.linear(model.head.linear, fetches=fetches)
    else:
        wide.copies(predicted, forward=2, backward=2 if has_input_gradient else 1)


def _size(part: slice) -> int:
    return int(part.stop - part.start)


def _add_shared(work: PassWork, model: nn.Module, mesh: Mesh, weight_bytes: int) -> None:
    """Add the sums of what several ranks hold alike; over the longest of the axes that cross."""
    cost = shared_cost(model, parameter_bytes=weight_bytes)
    widest = max(
        (mesh.domain, mesh.tensor, mesh.data), key=lambda axis: axis.ranks[-1] * (axis.size > 1)
    )
    work.add_exchange(cost, widest)


def _add_gradient_sums(
    work: PassWork, model: WeatherMixer, mesh: Mesh, kind: StepKind, machine: Machine
) -> None:
    """Add what replicas exchange of gradients, which travels beside the last backward pass.

    That is half of what they exchange; or all, where they need the sums whole.
    """
    cost = _replicas_cost(model, kind)
    if not cost.calls:
        return
    work.exchanges += [_half(cost, mesh, machine)] * (1 if kind.shards_optimizer else 2)
    held = sum(layer.weight.numel() for layer in linears(model))
    # Into buckets and out of them; and between, each replica sums up its share of the rows.
    element_bytes = Arithmetic.of(kind.dtype).states.itemsize
    work.add_elements(
        "copy", held, tensors=4 + 3, element_bytes=element_bytes, kernels=4 * len(linears(model))
    )


def _add_weight_arrivals(
    work: PassWork, model: WeatherMixer, mesh: Mesh, kind: StepKind, machine: Machine
) -> None:
    """Add the other half: weights that come from the replicas beside the first forward pass."""
    cost = _replicas_cost(model, kind)
    if cost.calls:
        work.exchanges.append(_half(cost, mesh, machine))


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

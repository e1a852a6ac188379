"""What a training step of the network sends and computes, and the meshes that it may run on."""

from __future__ import annotations

from functools import partial

from weathermixer.config import Parallel, Training
from weathermixer.jigsaw.cost import Cost, layers_cost, shared_cost
from weathermixer.jigsaw.layout import Layout, LayoutError, layouts
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture
from weathermixer.model.cuts import check_cuts
from weathermixer.model.mixer import WeatherMixer
from weathermixer.planning.ring_work import Ring
from weathermixer.planning.small_scales_work import SmallScalesWork, require_room
from weathermixer.planning.smoothing_work import SmoothingWork
from weathermixer.planning.step_kind import StepKind


def step_cost(model: WeatherMixer, kind: StepKind) -> Cost:
    """Cost of the forward and backward passes on the rank that ``model`` was built for.

    The model may lie on any device, such as ``meta``. What replicas send each other of weights and
    their gradients comes on top (``jigsaw.cost.replicas_cost``).
    """
    first, *later = kind.passing
    passes = _passes_cost(model, kind, first)
    for samples in dict.fromkeys(later):
        passes += _passes_cost(model, kind, samples, fetches=False) * later.count(samples)
    return passes + shared_cost(model, parameter_bytes=next(model.parameters()).element_size())


def _passes_cost(
    model: WeatherMixer, kind: StepKind, samples: int, *, fetches: bool = True
) -> Cost:
    """Cost of passing so many samples through the network and back."""
    weight_bytes = next(model.parameters()).element_size()
    cost = partial(layers_cost, samples=samples, fetches=fetches)
    of_edges = partial(cost, passes=kind.rollout, forwards=kind.forwards_again)
    narrow_bytes = model.arithmetic.itemsize if model.arithmetic else weight_bytes
    encoder = of_edges(
        model.encoder, element_bytes=narrow_bytes, without_input_gradient=[model.encoder]
    )
    if (ring := Ring.of(model)) is not None:
        encoder += of_edges(
            ring.layer, element_bytes=narrow_bytes, without_input_gradient=[ring.layer]
        )
        # Forwards, and back but for the states that are read.
        exchanges = kind.rollout + kind.forwards_again + kind.rollout - 1
        encoder += ring.exchange(samples, narrow_bytes) * exchanges
    blocks = cost(
        model.blocks,
        element_bytes=narrow_bytes,
        passes=kind.rollout * kind.latent,
        forwards=kind.forwards_again * kind.latent,
        recompute=kind.recompute == "blocks",
    )
    decoder = of_edges(model.decoder, element_bytes=narrow_bytes)
    if (smoothing := SmoothingWork.of(model)) is not None:
        exchanges = 2 * kind.rollout + kind.forwards_again
        decoder += smoothing.exchanges(
            samples, weight_bytes, decoded=exchanges, state=exchanges - 1
        )
    head = of_edges(model.head, element_bytes=weight_bytes)
    if (small_scales := SmallScalesWork.of(model, kind)) is not None:
        head += small_scales.exchanges(samples, weight_bytes) * kind.rollout
    return encoder + blocks + decoder + head


def possible_layouts(
    parallel: Parallel,
    architecture: Architecture,
    *,
    world_size: int,
    training: Training | None = None,
) -> list[Layout]:
    """The meshes of ``world_size`` ranks among which a configuration leaves the choice.

    With a ``training``, those on which its loss can be computed. Raises LayoutError where the
    settings do not multiply to ``world_size``, or where no mesh of so many ranks leaves each of
    them something to do.
    """

    def require_possible(layout: Layout) -> None:
        check_cuts(architecture, Mesh.describe(layout))
        if training is not None:
            require_room(training, layout, architecture)

    if parallel.domain and parallel.tensor:
        layout = Layout(data=parallel.data, domain=parallel.domain, tensor=parallel.tensor)
        layout.require_ranks(world_size)
        require_possible(layout)
        return [layout]
    if world_size % parallel.data:
        raise LayoutError(
            f"parallel.data ({parallel.data}) does not divide the number of ranks "
            f"({world_size}): start a multiple of it, or change it"
        )
    candidates = [
        layout
        for layout in layouts(world_size // parallel.data, data=parallel.data)
        if parallel.domain in (None, layout.domain) and parallel.tensor in (None, layout.tensor)
    ]
    if not candidates:
        Layout(
            data=parallel.data, domain=parallel.domain or 1, tensor=parallel.tensor or 1
        ).require_ranks(world_size)
    possible: list[Layout] = []
    refused: LayoutError | None = None
    for layout in candidates:
        try:
            require_possible(layout)
        except LayoutError as error:
            refused = refused or error
        else:
            possible.append(layout)
    if not possible:
        assert refused is not None
        raise refused
    return possible

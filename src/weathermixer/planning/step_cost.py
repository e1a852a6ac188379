"""What a training step of the network sends and computes, and the meshes that it may run on."""

from __future__ import annotations

from weathermixer.config import Parallel
from weathermixer.jigsaw.cost import Cost, layers_cost, shared_cost
from weathermixer.jigsaw.layout import Layout, LayoutError, layouts
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture
from weathermixer.model.cuts import check_cuts
from weathermixer.model.mixer import WeatherMixer


def step_cost(model: WeatherMixer, *, samples: int, rollout: int = 1) -> Cost:
    """Cost of the forward and backward pass on the rank that ``model`` was built for.

    The model may lie on any device, such as ``meta``. Counted are ``rollout`` applications of the
    whole network to ``samples`` samples. What replicas send each other of weights and their
    gradients comes on top (``jigsaw.cost.replicas_cost``).
    """
    weight_bytes = next(model.parameters()).element_size()
    wide = layers_cost(
        model.encoder,
        samples=samples,
        element_bytes=weight_bytes,
        passes=rollout,
        without_input_gradient=[model.encoder],
    ) + layers_cost(model.head, samples=samples, element_bytes=weight_bytes, passes=rollout)
    narrow = [
        layers_cost(
            part,
            samples=samples,
            element_bytes=model.arithmetic.itemsize if model.arithmetic else weight_bytes,
            passes=rollout,
            recompute=recompute,
        )
        for part, recompute in ((model.blocks, model.recompute), (model.decoder, False))
    ]
    shared = shared_cost(model, parameter_bytes=weight_bytes)
    return sum(narrow, wide + shared)


def possible_layouts(
    parallel: Parallel, architecture: Architecture, *, world_size: int
) -> list[Layout]:
    """The meshes of ``world_size`` ranks among which a configuration leaves the choice.

    Raises LayoutError where the settings do not multiply to ``world_size``, or where no mesh of
    so many ranks leaves each of them something to do.
    """
    if parallel.domain and parallel.tensor:
        layout = Layout(data=parallel.data, domain=parallel.domain, tensor=parallel.tensor)
        layout.require_ranks(world_size)
        check_cuts(architecture, Mesh.describe(layout))
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
            check_cuts(architecture, Mesh.describe(layout))
        except LayoutError as error:
            refused = refused or error
        else:
            possible.append(layout)
    if not possible:
        assert refused is not None
        raise refused
    return possible

"""What the ranks of a mesh read of every state, against the share of it that they own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from weathermixer.console import size_text
from weathermixer.data.states import States
from weathermixer.data.store.reading_cost import ReadingCost
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture
from weathermixer.model.cuts import Part

REMEDY = "make a store for this mesh with 'weathermixer data prepare --config' or '--ways'"

WORTH_SAYING = 1.02
"""The amplification above which a user is told of it."""


def reading_costs(
    states: States,
    channels: Sequence[str],
    architecture: Architecture,
    ranks: Iterable[Layout],
) -> list[ReadingCost]:
    """What reading one state costs each of some ranks of a mesh.

    ``channels`` are those of the network that the states must have, in its order. Chunks are read
    whole, so where parts end within chunks, each rank that owns a piece of one reads all of it.
    """
    parts = (Part.on(Mesh.describe(rank), architecture) for rank in ranks)
    return [
        states.reading_cost(states.channel_indices(part.names_among(channels)), part.longitudes)
        for part in parts
    ]


def reading_warning(
    states: States, channels: Sequence[str], architecture: Architecture, layout: Layout
) -> str | None:
    """A warning, to be ended with a remedy, where ranks read noticeably more than their share."""
    ranks = map(layout.at, range(layout.ways))
    costs = reading_costs(states, channels, architecture, ranks)
    cost = max(costs, key=lambda each: each.amplification)
    if cost.amplification <= WORTH_SAYING:
        return None
    return (
        f"the chunks of {states.path} make a rank of the mesh domain {layout.domain} × tensor "
        f"{layout.tensor} read up to {cost.amplification:.3g} times its share of each state, "
        f"{size_text(cost.touched_bytes)} instead of {size_text(cost.wanted_bytes)}"
    )

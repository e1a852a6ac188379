"""What the ranks of a mesh read of every state, against the share of it that they own."""

from __future__ import annotations

from collections.abc import Sequence

from weathermixer.data.states import States
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture
from weathermixer.model.cuts import Part

REMEDY = "make a store for this mesh with 'weathermixer data prepare --config' or '--ways'"

_WORTH_SAYING = 1.02


def reading_amplification(
    states: States, channels: Sequence[str], architecture: Architecture, layout: Layout
) -> float:
    """The largest factor by which a rank reads more than its share of a state, because of chunks.

    ``channels`` are those of the network that the states must have, in its order.
    """
    worst = 1.0
    for rank in range(layout.ways):
        part = Part.on(Mesh.describe(layout.at(rank)), architecture)
        own = states.channel_indices(part.names_among(channels))
        worst = max(worst, states.reading_cost(own, part.longitudes).amplification)
    return worst


def reading_warning(
    states: States, channels: Sequence[str], architecture: Architecture, layout: Layout
) -> str | None:
    """A warning, to be ended with a remedy, where ranks read noticeably more than their share."""
    factor = reading_amplification(states, channels, architecture, layout)
    if factor <= _WORTH_SAYING:
        return None
    return (
        f"the chunks of {states.path} make a rank of the mesh domain {layout.domain} × tensor "
        f"{layout.tensor} read up to {factor:.3g} times its share of each state"
    )

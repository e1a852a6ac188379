"""What the points around patches add to a step: sizes, exchanges, and work.

The counterpart of ``jigsaw.halo`` and of ``to_rings`` of ``model.patches``.
"""

from __future__ import annotations

from dataclasses import dataclass

from weathermixer.jigsaw.cost import Cost, halo_cost
from weathermixer.jigsaw.layers import Linear
from weathermixer.jigsaw.mesh import Axis
from weathermixer.model.mixer import WeatherMixer
from weathermixer.planning.block_tensors import linear
from weathermixer.planning.layer_work import LayerWork


@dataclass(frozen=True)
class Ring:
    """The map of rings, ``layer``, and what its rank holds for it of one sample.

    ``edge`` counts the values that go to either neighbour along ``axis``, ``state`` those of the
    state with none of them, ``widened`` with both, ``points`` those of all rings, and ``latent``
    what is made of these.
    """

    layer: Linear
    axis: Axis
    edge: int
    state: int
    points: int
    latent: int

    @classmethod
    def of(cls, model: WeatherMixer) -> Ring | None:
        """The ring of a model, where its tokens are given one."""
        if model.halo is None or model.ring is None:
            return None
        a, layer, axis = model.architecture, linear(model.ring), model.halo.axis
        assert axis is not None, "the network is cut"
        source = layer.product.source
        return cls(
            layer,
            axis,
            edge=model.prognostic * a.grid[0] * model.halo.width,
            state=model.prognostic * source.own_rows * a.points_per_patch,
            points=source.own_rows * source.own_features,
            latent=source.own_rows * layer.product.target.own_features,
        )

    @property
    def widened(self) -> int:
        """Values of the state between the edges of both neighbours."""
        return self.state + 2 * self.edge

    def exchange(self, samples: int, element_bytes: int) -> Cost:
        """The cost of exchanging edges, or their gradients, with both neighbours."""
        return halo_cost(self.axis, elements=self.edge * samples, element_bytes=element_bytes)

    def add_to(self, work: LayerWork, *, fetches: bool, has_input_gradient: bool) -> None:
        """Add one application; edges travel while the encoder multiplies."""
        back, samples = int(has_input_gradient), work.samples
        edges = self.exchange(samples, work.element_bytes)
        work.forward.add_exchange(edges, self.axis, beside=1.0)
        work.backward.add_exchange(edges * back, self.axis, beside=1.0)
        work.copies(self.widened * samples, forward=1, backward=2 * back)
        work.copies(self.points * samples, forward=1, backward=back, kind="transpose")
        work.linear(self.layer, input_gradient=has_input_gradient, fetches=fetches)
        work.residual(self.latent * samples)

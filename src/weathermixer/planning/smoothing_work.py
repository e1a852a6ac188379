"""What smoothing decoded fields adds to a step: tensors, exchanges, and work.

The counterpart of ``model.smoothing``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from weathermixer.jigsaw.cost import Cost, halo_cost
from weathermixer.jigsaw.mesh import Axis
from weathermixer.model.mixer import WeatherMixer
from weathermixer.planning.block_tensors import linear
from weathermixer.planning.layer_work import LayerWork
from weathermixer.planning.ledger import Held


@dataclass(frozen=True)
class SmoothingWork:
    """The values that a rank holds of one sample where fields are smoothed.

    ``edge`` counts those that go to either neighbour along ``axis``, ``decoded`` and ``state``
    those that are smoothed, ``joined`` both, and ``widened`` these with both edges; ``weights`` are
    those of one kernel.
    """

    axis: Axis
    edge: int
    decoded: int
    state: int
    weights: int

    @classmethod
    def of(cls, model: WeatherMixer) -> SmoothingWork | None:
        """The smoothing of a model, where there is one."""
        if model.smoothing is None:
            return None
        halo, kernel = model.smoothing.halo, model.smoothing.kernel
        assert halo.axis is not None, "the network is cut"
        a, tokens = model.architecture, linear(model.encoder).product.source.own_rows
        points, of_state = tokens * a.points_per_patch, len(model.smoothing.state_kernel)
        return cls(
            halo.axis,
            edge=(len(kernel) + of_state) * a.grid[0] * halo.width,
            decoded=len(kernel) * points,
            state=of_state * points,
            weights=kernel[0].numel(),
        )

    @property
    def joined(self) -> int:
        """Values that are smoothed."""
        return self.decoded + self.state

    @property
    def widened(self) -> int:
        """Values of fields between the edges of both neighbours."""
        return self.joined + 2 * self.edge

    def exchange(self, samples: int, element_bytes: int) -> Cost:
        """The cost of exchanging edges, or their gradients, with both neighbours."""
        return halo_cost(self.axis, elements=self.edge * samples, element_bytes=element_bytes)

    def add_to(self, work: LayerWork) -> None:
        """Add one application, in which edges are waited for at once."""
        edges = self.exchange(work.samples, work.element_bytes)
        for direction in (work.forward, work.backward):
            direction.add_exchange(edges, self.axis)
        work.copies(self.joined * work.samples, forward=1, backward=0)
        work.copies(self.widened * work.samples, forward=1, backward=1)
        # Each weight multiplies and adds; back, for the gradient of the fields, and multiplies and
        # sums up for its own.
        for direction, tensors, kernels in ((work.forward, 3, 2), (work.backward, 3 + 4, 6)):
            direction.add_elements(
                "copy",
                self.joined * work.samples,
                tensors=tensors * self.weights,
                element_bytes=work.element_bytes,
                kernels=kernels * self.weights,
            )


@dataclass(frozen=True)
class SmoothingTensors:
    """The tensors of smoothing, forward and back, as sizes that come and go.

    ``value_bytes`` are those of one value of all samples in hand.
    """

    work: SmoothingWork
    new: Callable[..., Held]
    value_bytes: int

    def forward(self) -> tuple[Held, Held]:
        """What is made of fields, and what is kept for the backward pass."""
        joined = self._new(self.work.joined)
        came = self._edges(2)
        widened = self._new(self.work.widened)
        del joined, came
        return self._new(self.work.decoded), widened

    def backward(self, gradient: list[Held], kept: list[Held]) -> Held:
        """The gradient of what was decoded and, with it, of the state.

        That of what was made of them is taken out of its list.
        """
        products = self._new(self.work.decoded)
        del products
        widened = self._new(self.work.widened)
        gradient.clear()
        kept.clear()
        # A rank alone adds up what each edge is of the whole.
        beside = self._edges(4) or self._new(self.work.joined)
        joined = self._new(self.work.joined)
        del widened, beside
        return joined

    def _edges(self, count: int) -> Held | None:
        if self.work.axis.size == 1:
            return None
        return self.new(count * self.work.edge * self.value_bytes, "exchange")

    def _new(self, values: int) -> Held:
        return self.new(values * self.value_bytes)

"""What smoothing decoded fields adds to a step: tensors, exchanges, and work.

The counterpart of ``model.smoothing``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from weathermixer.jigsaw.cost import Cost, halo_cost
from weathermixer.jigsaw.mesh import Axis
from weathermixer.model.mixer import WeatherMixer
from weathermixer.planning.block_tensors import linear
from weathermixer.planning.layer_work import LayerWork
from weathermixer.planning.ledger import Held


@dataclass(frozen=True)
class SmoothingWork:
    """The values that a rank holds of one sample where fields are smoothed.

    ``decoded`` and ``state`` count those that are smoothed, ``decoded_edge`` and ``state_edge``
    those of them that go to either neighbour along ``axis``; ``weights`` are those of one kernel,
    ``decoded_weights`` and ``state_weights`` those of all kernels, where each latitude has its own.
    """

    axis: Axis
    decoded: int
    decoded_edge: int
    state: int
    state_edge: int
    weights: int
    decoded_weights: int
    state_weights: int

    @classmethod
    def of(cls, model: WeatherMixer) -> SmoothingWork | None:
        """The smoothing of a model, where there is one."""
        if model.smoothing is None:
            return None
        halo, kernel = model.smoothing.halo, model.smoothing.kernel
        assert halo.axis is not None, "the network is cut"
        a, tokens = model.architecture, linear(model.encoder).product.source.own_rows
        points, of_state = tokens * a.points_per_patch, len(model.smoothing.state_kernel)
        line = a.grid[0] * halo.width
        return cls(
            halo.axis,
            decoded=len(kernel) * points,
            decoded_edge=len(kernel) * line,
            state=of_state * points,
            state_edge=of_state * line,
            weights=kernel[0].numel(),
            decoded_weights=kernel.numel() * a.grid[0],
            state_weights=model.smoothing.state_kernel.numel() * a.grid[0],
        )

    def exchanges(
        self, samples: int, element_bytes: int, *, decoded: int = 1, state: int = 1
    ) -> Cost:
        """The cost of exchanging edges of each, or their gradients, so often with both neighbours.

        Of a state that is data, none go back.
        """
        of_decoded, of_state = (
            halo_cost(self.axis, elements=edge * samples, element_bytes=element_bytes)
            for edge in (self.decoded_edge, self.state_edge)
        )
        return of_decoded * decoded + of_state * state

    def add_to(self, work: LayerWork, *, has_input_gradient: bool) -> None:
        """Add one application, in which edges are waited for at once."""
        back = int(has_input_gradient)
        exchanges = partial(self.exchanges, work.samples, work.element_bytes)
        work.forward.add_exchange(exchanges(), self.axis)
        work.backward.add_exchange(exchanges(state=back), self.axis)
        # The gradient of the bias.
        work.backward.add_elements(
            "copy", self.decoded * work.samples, tensors=1, element_bytes=work.element_bytes
        )
        for fields, edge, times in (
            (self.decoded, self.decoded_edge, 1),
            (self.state, self.state_edge, back),
        ):
            work.copies((fields + 2 * edge) * work.samples, forward=1, backward=times)
            # Each weight multiplies and adds; back, for the gradient of the fields, and multiplies
            # and sums up for its own.
            for direction, tensors, kernels in (
                (work.forward, 3, 1),
                (work.backward, 3 * times + 4, times + 2),
            ):
                direction.add_elements(
                    "copy",
                    fields * work.samples,
                    tensors=tensors * self.weights,
                    element_bytes=work.element_bytes,
                    kernels=kernels * self.weights,
                )


@dataclass(frozen=True)
class SmoothingTensors:
    """The tensors of smoothing, forward and back, as sizes that come and go.

    ``value_bytes`` are those of one value of all samples in hand, ``weight_bytes`` those of a
    weight.
    """

    work: SmoothingWork
    new: Callable[..., Held]
    value_bytes: int
    weight_bytes: int

    def forward(self) -> tuple[Held, list[Held]]:
        """What is made of fields, and what is kept for the backward pass."""
        kernels = self._of_weights(self.work.state_weights)
        came = [self._edges(2 * edge) for edge in (self.work.decoded_edge, self.work.state_edge)]
        decoded = self._widened(self.work.decoded, self.work.decoded_edge)
        came.pop(0)
        state = self._widened(self.work.state, self.work.state_edge)
        came.clear()
        return self._new(self.work.decoded), [decoded, state, kernels]

    def backward(
        self, gradient: list[Held], kept: list[Held], *, is_first: bool
    ) -> tuple[Held, list[Held], Held]:
        """Gradients of what was decoded, of the state, where it is wanted, and of the bias.

        That of what was made of them is taken out of its list.
        """
        of_weights = [
            self._of_weights(count)
            for count in (self.work.decoded_weights, self.work.state_weights)
        ]
        products = self._new(self.work.decoded)
        del products
        widened = [self._widened(self.work.decoded, self.work.decoded_edge)]
        if not is_first:
            widened.append(self._widened(self.work.state, self.work.state_edge))
        of_bias = self.new(self.work.decoded * self.weight_bytes, "gradients")
        gradient.clear()
        kept.clear()
        of_weights.clear()
        # The last first, as they were made.
        of_state: list[Held] = []
        if not is_first:
            of_state.append(self._narrowed(self.work.state, self.work.state_edge))
            widened.pop()
        decoded = self._narrowed(self.work.decoded, self.work.decoded_edge)
        return decoded, of_state, of_bias

    def _widened(self, fields: int, edge: int) -> Held:
        """Fields between the edges of both neighbours."""
        return self._new(fields + 2 * edge)

    def _narrowed(self, fields: int, edge: int) -> Held:
        """The gradient of fields, of that of what lay between edges."""
        # A rank alone adds up what each edge is of the whole.
        beside = self._edges(4 * edge) or self._new(fields)
        made = self._new(fields)
        del beside
        return made

    def _edges(self, values: int) -> Held | None:
        if self.work.axis.size == 1:
            return None
        return self.new(values * self.value_bytes, "exchange")

    def _of_weights(self, count: int) -> Held:
        return self.new(count * self.weight_bytes)

    def _new(self, values: int) -> Held:
        return self.new(values * self.value_bytes)

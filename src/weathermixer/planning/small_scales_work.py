"""What the loss of small scales adds to a step: tensors, exchanges, and work.

The counterpart of ``training.small_scales``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from weathermixer.config import Training
from weathermixer.jigsaw.cost import Cost, gather_cost, halo_cost
from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.jigsaw.mesh import Axis
from weathermixer.model.architecture import Architecture
from weathermixer.model.mixer import WeatherMixer
from weathermixer.planning.block_tensors import linear
from weathermixer.planning.layer_work import LayerWork
from weathermixer.planning.ledger import Held
from weathermixer.planning.step_kind import StepKind

REACH = 2
"""Points to either side of the one that a fourth difference is made of."""


def require_room(training: Training, layout: Layout, architecture: Architecture) -> None:
    """Raise LayoutError where a rank has fewer longitudes than its neighbours are to see."""
    fewest = min(architecture.longitude_dimension.sizes(layout.domain))
    if training.small_scales and fewest < REACH:
        raise LayoutError(
            f"training.small_scales looks at {REACH} longitudes of each neighbour, and domain "
            f"({layout.domain}) leaves a rank {fewest}: choose a smaller domain, or set it to 0"
        )


@dataclass(frozen=True)
class SmallScalesWork:
    """The values that a rank holds of one sample where small scales are compared.

    ``state`` counts those that it predicts, ``column`` those of one longitude, and ``channels``
    the sums that are taken over ``axis``. Each target is compared with so many ``members``.
    """

    axis: Axis
    state: int
    column: int
    channels: int
    members: int

    @classmethod
    def of(cls, model: WeatherMixer, kind: StepKind) -> SmallScalesWork | None:
        """What small scales add to a model's step of a kind, or None where its loss has none."""
        if not kind.small_scales:
            return None
        a, product = model.architecture, linear(model.encoder).product
        fields = a.fields_of(product.along.size, product.along.index)
        channels = len(fields.prognostic) + len(fields.diagnostic)
        return cls(
            # Edges travel as they are.
            replace(product.across, exchange_dtype=None),
            state=product.source.own_rows * a.points_per_patch * channels,
            column=a.grid[0] * channels,
            channels=channels,
            members=kind.members,
        )

    def exchanges(self, forecasts: int, element_bytes: int) -> Cost:
        """The cost of one application: edges of targets and errors, and sums of the former.

        Edges of the gradients of errors go back.
        """
        targets = forecasts // self.members
        forward = self._edges(targets, element_bytes) + self._edges(forecasts, element_bytes)
        return forward + self._sums(targets, element_bytes) + self._edges(forecasts, element_bytes)

    def add_to(self, work: LayerWork) -> None:
        """Add one application, in which edges are waited for at once."""
        forecasts, element_bytes = work.samples, work.element_bytes
        targets = forecasts // self.members
        for exchange in (
            self._edges(targets, element_bytes),
            self._edges(forecasts, element_bytes),
            self._sums(targets, element_bytes),
        ):
            work.forward.add_exchange(exchange, self.axis)
        work.backward.add_exchange(self._edges(forecasts, element_bytes), self.axis)
        # Two kernels that read two tensors and one that reads and writes, twice, after one that
        # joins edges; of targets, then square, weight and sum; of errors, difference before and
        # scale after. Back, filling, three that add, and scale.
        for direction, elements, tensors, kernels in (
            (work.forward, targets, 26, 10),
            (work.forward, forecasts, 25, 9),
            (work.backward, forecasts, 28, 11),
        ):
            direction.add_elements(
                "copy",
                self.state * elements,
                tensors=tensors,
                element_bytes=element_bytes,
                kernels=kernels,
            )

    def _edges(self, fields: int, element_bytes: int) -> Cost:
        elements = REACH * self.column * fields
        return halo_cost(self.axis, elements=elements, element_bytes=element_bytes)

    def _sums(self, targets: int, element_bytes: int) -> Cost:
        elements = self.channels * targets
        return gather_cost(self.axis, elements=elements, element_bytes=element_bytes)


@dataclass(frozen=True)
class SmallScalesTensors:
    """The tensors of small scales in the loss, forward and back, as sizes that come and go.

    ``value_bytes`` are those of one value of all forecasts in hand. What errors are compared by is
    not among them.
    """

    work: SmallScalesWork
    new: Callable[..., Held]
    value_bytes: int

    def begin(self) -> list[Held]:
        """The edges of targets on their way, the errors, and theirs."""
        of_targets = self._edges(self._of_target)
        errors = self._new(0)
        return [of_targets, errors, self._edges(self.value_bytes)]

    def differences(self, begun: list[Held]) -> Held:
        """Scaled fourth differences of errors, which alone are left of what was begun."""
        of_targets, errors, edges = begun
        begun[:] = [errors]
        value_bytes, targets = self._of_target, [self._new(REACH, self._of_target)]
        del of_targets
        targets.append(self._new(REACH - 1, value_bytes))
        targets = [targets[1], self._new(0, value_bytes)]
        targets = [targets[1], *[self._new(0, value_bytes) for _ in range(2)]]
        del targets
        widened = self._new(REACH)
        del edges
        first = self._new(REACH - 1)
        del widened
        differences = self._new(0)
        del first
        scaled = self._new(0)
        del differences
        return scaled

    def backward(self, gradient: list[Held]) -> Held:
        """The gradient of errors from that of scaled differences, taken out of its list."""
        scaled = self._new(0)
        gradient.clear()
        first = self._new(1)
        del scaled
        widened = self._new(REACH)
        del first
        # A rank alone adds up what each edge is of the whole.
        beside = self._edges(self.value_bytes) if self.work.axis.size > 1 else self._new(0)
        made = self._new(0)
        del widened, beside
        return made

    @property
    def _of_target(self) -> int:
        return self.value_bytes // self.work.members

    def _edges(self, value_bytes: int) -> Held:
        is_cut = self.work.axis.size > 1
        return self.new(4 * REACH * self.work.column * value_bytes * is_cut, "exchange")

    def _new(self, beyond: int, value_bytes: int | None = None) -> Held:
        """A tensor that goes so many longitudes beyond both ends."""
        values = self.work.state + 2 * beyond * self.work.column
        return self.new(values * (value_bytes or self.value_bytes))

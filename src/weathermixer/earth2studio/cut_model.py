"""A network that several ranks hold and compute together, as a model of Earth2Studio on the first.

Earth2Studio knows nothing of the ranks: its workflow runs on the first one, with whole states, from
its own sources and to its own writers. The others hold their parts of the network, and of each
state while it is stepped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TypeVar

import torch
from torch import Tensor

from weathermixer.config import Config
from weathermixer.earth2studio.model import Earth2Model
from weathermixer.errors import UserError
from weathermixer.forecast.stepper import Start, next_together
from weathermixer.jigsaw import mesh as meshes
from weathermixer.jigsaw.layout import Block, Dimension
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.tensors import block_of, collect, spread
from weathermixer.jigsaw.weights import kept_weights
from weathermixer.job import connect_for_forecasts
from weathermixer.model.architecture import architecture_of
from weathermixer.runs.run import Run

T = TypeVar("T")


@dataclass(frozen=True)
class _Order:
    """What all ranks do next: a step of an iteration, by its number.

    Its first has the ``shape`` of the states that it begins with and where they ``start``;
    iterations that are ``over`` are forgotten.
    """

    number: int
    shape: tuple[int, ...] = ()
    start: Start | None = None
    over: list[int] = field(default_factory=list)


class CutEarth2Model(Earth2Model):
    """A run or an export, cut over all ranks that were started, as a ``PrognosticModel``.

    Every rank makes one, with the same arguments, in ``with weathermixer.run_as_rank():``, and
    calls :meth:`lead` with the workflow::

        with wm.run_as_rank():
            model = CutEarth2Model("model.safetensors")
            model.lead(lambda: earth2studio.run.deterministic(times, 40, model, data, io))

    The mesh is that on which a forecast takes the least time, as predicted, or what the overrides
    ``parallel.domain`` and ``parallel.tensor`` ask for. A rank holds its part of the weights; the
    first one also holds whole states, as Earth2Studio does.
    """

    def _connect(self, run: Run, config: Config) -> Mesh:
        self._architecture = architecture_of(config.data, config.model, run.normalisation.grid)
        self._numbers, self._over = count(), list[int]()
        self._iterations: dict[int, Iterator[Tensor]] = {}
        self._leads = False
        self._mesh = connect_for_forecasts(config, self._architecture)
        return self._mesh

    def to(self, *_: object, **__: object) -> CutEarth2Model:
        """The model itself, whose parts are on the ranks' own devices and stay there."""
        return self

    def lead(self, workflow: Callable[[], T]) -> T | None:
        """Call ``workflow`` on the first rank, where the others compute for it; its result there.

        Every rank calls this; the others call nothing, and return None. What the workflow raises is
        raised on the first rank.
        """
        with kept_weights(self.stepper.network):
            if meshes.is_first_rank():
                self._leads = True
                try:
                    return workflow()
                finally:
                    self._leads = False
                    self._tell(None)
            while (order := self._tell(None)) is not None:
                with suppress(UserError):  # the first rank raises it too
                    self._take(order, None)
        return None

    def _states(self, states: Tensor, start: Start) -> Iterator[Tensor]:
        if not self._leads:
            raise UserError(
                "the model is cut over ranks, which step it together: give the workflow to lead(), "
                "which every rank calls"
            )
        number = next(self._numbers)
        order = _Order(number, tuple(states.shape), start)
        given: Tensor | None = states
        del states
        try:
            while True:
                over, self._over = self._over, []
                order = replace(order, over=over)
                self._tell(order)
                yield self._take(order, given)
                order, given = _Order(number), None
        finally:
            # It may end at any time, also of other exchanges: the others hear of it with a step.
            self._over.append(number)

    def _tell(self, order: _Order | None) -> _Order | None:
        """What the first rank tells all to do next; None that there is nothing more."""
        return meshes.from_first_rank(lambda: order)

    @torch.no_grad()
    def _take(self, order: _Order, states: Tensor | None) -> Tensor:
        """Take a step together; the whole result ``(batch, variable, ...)`` on the first rank.

        On the others it is their part. Raises UserError on all where a state is NaN or infinite.
        """
        for number in order.over:
            self._iterations.pop(number, None)
        if order.start is not None:
            blocks = self._blocks(order.shape, Dimension((self._architecture.prognostic,)))
            own = spread(states, blocks, self.stepper.mean, self._mesh)
            self._iterations[order.number] = self.stepper.advance(own, order.start)
        made = next_together(self._iterations[order.number])
        shape = (len(made), len(self._normalisation.channels), *self._normalisation.grid)
        whole = collect(
            made, self._blocks(shape, self._architecture.predicted_dimension), self._mesh
        )
        return made if whole is None else whole

    def _blocks(self, shape: tuple[int, ...], channels: Dimension) -> list[Block]:
        """What each rank has of states of a whole ``shape (..., channel, latitude, longitude)``."""
        layout, last = self._mesh.layout, len(shape) - 1
        ranks = [Mesh.describe(layout.at(rank)) for rank in range(layout.world_size)]
        longitudes = self._architecture.longitude_dimension
        return [
            block_of(
                shape, rank, {last - 2: (rank.tensor, channels), last: (rank.domain, longitudes)}
            )
            for rank in ranks
        ]

"""A few initial times after the other through the model, and to where they are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from weathermixer.console import Progress
from weathermixer.forecast.forecast_description import ForecastDescription
from weathermixer.forecast.forecaster import Forecaster
from weathermixer.forecast.scoring import Scorer
from weathermixer.forecast.writer import ForecastWriter
from weathermixer.jigsaw.exchange import total_over
from weathermixer.jigsaw.mesh import Mesh

# More initial times at once use the processor better, until a batch of states outgrows its cache.
_LARGEST_BATCH = 8
_BATCH_BYTES = 64 * 1024 * 1024

Group = Sequence[range]
"""Batches that a model instance advances together, lead time by lead time."""


def groups_of(description: ForecastDescription, *, num_instances: int, scored: bool) -> list[Group]:
    """The forecasts that go through the model together, as batches of places among all.

    Members of an ensemble that is ``scored`` have to meet: all of an initial time are in a group,
    which one instance computes. Its batches advance by turns, so that what is alive is a state of
    each member, whatever the number of lead times. Otherwise a group is one batch.

    They are the same whether or not some are done: rounding may depend on a batch's company.
    """
    num_forecasts, members = description.num_forecasts, description.members
    state_bytes = 4 * len(description.channels) * description.grid[0] * description.grid[1]
    size = together = max(1, min(_LARGEST_BATCH, _BATCH_BYTES // state_bytes))
    if members is not None and scored:
        num_times = -(-len(description.initial_times) // num_instances)
        together = members * max(1, min(size // members, num_times))
    elif members is not None:  # also of one initial time, each instance makes some
        size = together = min(size, -(-num_forecasts // num_instances))
    return [
        _cut(range(start, min(start + together, num_forecasts)), size)
        for start in range(0, num_forecasts, together)
    ]


def forecast_groups(
    groups: Sequence[Group],
    forecaster: Forecaster,
    read: Callable[[int], Iterable[NDArray[np.float32]]],
    mesh: Mesh,
    *,
    writer: ForecastWriter | None,
    written: Sequence[bool],
    scorer: Scorer | None,
    progress: Progress | None,
) -> None:
    """Forecast this instance's groups, but for those that are kept already, and keep them.

    ``read(time)`` gives the states that the network is given at an initial time, by its place.
    Fields go to the ``writer``, which has the forecasts that are ``written`` by place, and sums to
    the ``scorer``, where there are such. Raises UserError where states cannot be read, forecast or
    kept.
    """
    num_leads = len(forecaster.description.lead_times)
    total = forecaster.description.num_forecasts * num_leads
    for number, group in enumerate(groups):
        if number % mesh.data.size != mesh.data.index:
            continue
        places = range(group[0].start, group[-1].stop)
        is_written = writer is None or all(written[place] for place in places)
        if is_written and (scorer is None or scorer.has(places)):
            if progress is not None:
                progress(places.stop * num_leads, total)
            continue
        streams = []
        for batch, forecasts in zip(group, forecaster.begin(group, read), strict=True):
            kept = forecasts if scorer is None else scorer.adding(batch, forecasts)
            if writer is None or is_written:
                streams.append(_counted(kept))
            else:
                streams.append(writer.write(batch, kept))
        for taken, *_ in zip(*streams, strict=True):
            if progress is not None:
                progress(places.start * num_leads + taken * len(places), total)
        # Each rank of the instance has written its part when all have come here.
        total_over((mesh.domain, mesh.tensor), torch.zeros(1, device=mesh.device))
        if writer is not None and mesh.domain.index == mesh.tensor.index == 0:
            writer.mark_finished(places)
        if scorer is not None:
            scorer.save(places)


def _cut(places: range, size: int) -> Group:
    """Neighbouring places in as few batches of at most ``size`` as possible, as even as can be."""
    number = -(-len(places) // size)
    edges = [len(places) * edge // number for edge in range(number + 1)]
    return [places[start:stop] for start, stop in pairwise(edges)]


def _counted(forecasts: Iterator[NDArray[np.float32]]) -> Iterator[int]:
    """The number of forecasts so far, each of which is let go before the next is made."""
    for taken in count(1):
        if next(forecasts, None) is None:
            return
        yield taken

"""A few initial times after the other through the model, and to where they are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count

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


def batches_of(description: ForecastDescription, *, num_instances: int) -> list[range]:
    """The forecasts that go through the model together, by their places among all.

    They are the same whether or not some are done: rounding may depend on a batch's company.
    """
    num_forecasts, largest = description.num_forecasts, _LARGEST_BATCH
    if description.members is not None:  # also of one initial time, each instance makes some
        largest = min(largest, -(-num_forecasts // num_instances))
    state_bytes = 4 * len(description.channels) * description.grid[0] * description.grid[1]
    size = max(1, min(largest, _BATCH_BYTES // state_bytes))
    firsts = range(0, num_forecasts, size)
    return [range(start, min(start + size, num_forecasts)) for start in firsts]


def forecast_batches(
    batches: Sequence[range],
    forecaster: Forecaster,
    read: Callable[[int], Iterable[NDArray[np.float32]]],
    mesh: Mesh,
    *,
    writer: ForecastWriter | None,
    written: Sequence[bool],
    scorer: Scorer | None,
    progress: Progress | None,
) -> None:
    """Forecast this instance's batches, but for those that are kept already, and keep them.

    ``read(place)`` gives the states that the network is given for a forecast. Fields go to the
    ``writer``, which has those that are ``written`` by place, and sums to the ``scorer``, where
    there are such. Raises UserError where states cannot be read, forecast or kept.
    """
    num_leads = len(forecaster.description.lead_times)
    total = batches[-1].stop * num_leads
    for number, batch in enumerate(batches):
        if number % mesh.data.size != mesh.data.index:
            continue
        is_written = writer is None or all(written[place] for place in batch)
        if is_written and (scorer is None or scorer.has(batch)):
            if progress is not None:
                progress(batch.stop * num_leads, total)
            continue
        forecasts = forecaster.states(batch, map(read, batch))
        if scorer is not None:
            forecasts = scorer.adding(batch, forecasts)
        if writer is None or is_written:
            steps = _counted(forecasts)
        else:
            steps = writer.write(batch, forecasts)
        for taken in steps:
            if progress is not None:
                progress(batch.start * num_leads + taken * len(batch), total)
        # Each rank of the instance has written its part when all have come here.
        total_over((mesh.domain, mesh.tensor), torch.zeros(1, device=mesh.device))
        if writer is not None and mesh.domain.index == mesh.tensor.index == 0:
            writer.mark_finished(batch)
        if scorer is not None:
            scorer.save(batch)


def _counted(forecasts: Iterator[NDArray[np.float32]]) -> Iterator[int]:
    """The number of forecasts so far, each of which is let go before the next is made."""
    for taken in count(1):
        if next(forecasts, None) is None:
            return
        yield taken

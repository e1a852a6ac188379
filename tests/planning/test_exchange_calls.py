"""How many exchanges a training step makes on a thousand ranks: counted on one that is faked.

The real code runs with tensors of the real sizes, which have no memory: nothing is computed, and
nothing sent. What is counted is what each rank would hand to its backend.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from support.selection import exhaustive
from weathermixer.config.presets import PUBLISHED
from weathermixer.jigsaw.cost import Cost, replicas_cost
from weathermixer.jigsaw.count import Counter
from weathermixer.jigsaw.cutting import parallelize
from weathermixer.jigsaw.exchange import total_over
from weathermixer.jigsaw.fake import fake_mesh
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.replicas import Replicas
from weathermixer.jigsaw.weights import kept_weights
from weathermixer.model.architecture import Architecture
from weathermixer.model.cuts import Part, cuts
from weathermixer.model.mixer import WeatherMixer, count_parameters
from weathermixer.planning.step_cost import step_cost
from weathermixer.planning.step_kind import StepKind

LATITUDES, LONGITUDES = 720, 1440
NETWORK = PUBLISHED["model"]
ARCHITECTURE = Architecture(
    grid=(LATITUDES, LONGITUDES),
    prognostic=69,
    static=3,
    patch=tuple(NETWORK["patch"]),
    channels=NETWORK["channels"],
    blocks=NETWORK["blocks"],
    token_hidden=round(NETWORK["token_hidden"] * 17_280),
    channel_hidden=round(NETWORK["channel_hidden"] * NETWORK["channels"]),
    dropout=0.0,  # how many values it zeroes is drawn, which tensors without memory cannot
    prediction=NETWORK["prediction"],
)
# Where a link carries the bytes, activations travel in pieces, beside the products of the others.
MOST_CALLS = {False: 150, True: 300}
SCALARS = 3  # loss, square of the gradient's norm, and whether to stop: summed over all ranks


def size_of(part: slice) -> int:
    return int(part.stop - part.start)


@cache
def counted_step(layout: Layout, sharded: bool, has_link: bool) -> tuple[Counter, Cost]:
    """What a step counts on a rank, and what is predicted of all but the scalars."""
    with FakeTensorMode(), fake_mesh(layout, has_link=has_link) as mesh:
        model = parallelize(WeatherMixer(ARCHITECTURE), mesh, cuts(ARCHITECTURE, mesh))
        replicas = Replicas(model, mesh, sharded=sharded)
        optimizer = torch.optim.AdamW(replicas.parameters().values(), fused=True)
        part = Part.on(mesh, ARCHITECTURE)
        columns = size_of(part.longitudes)
        state = torch.ones(1, len(part.channels), LATITUDES, columns)
        static = torch.ones(size_of(part.static), LATITUDES, columns)
        with kept_weights(model):
            loss = model(state, static).square().sum()
        loss.backward()
        square = replicas.gradient_square()
        total_over(mesh.axes, torch.stack([loss.detach().double(), square, square]))
        optimizer.step()
        replicas.finish_step()
        predicted = step_cost(model, StepKind(samples=1)) + replicas_cost(
            model, parameter_bytes=4, gradient_bytes=4, sharded=sharded
        )
        return mesh.counter.copy(), predicted


@pytest.mark.parametrize(
    ("replicas", "sharded"), [(64, True), *exhaustive((256, True), (64, False), (256, False))]
)
@pytest.mark.parametrize(
    "has_link",
    [False, pytest.param(True, marks=pytest.mark.exhaustive)],
    ids=["whole", "in pieces"],
)
def test_the_published_network_makes_few_exchanges_however_many_replicas(
    replicas: int, sharded: bool, has_link: bool
) -> None:
    assert round(count_parameters(ARCHITECTURE) / 1e9, 2) == 1.06
    layout = Layout(data=replicas, domain=2, tensor=2, rank=4 * replicas - 1)
    counted, predicted = counted_step(layout, sharded, has_link)
    assert counted.calls <= MOST_CALLS[has_link]
    # One for the scalars over the replicas, and one along each axis of the instance.
    assert counted.calls == predicted.calls + 3
    scalars = 8 * (2 * (replicas - 1) * SCALARS // replicas + 2 * SCALARS)
    assert counted.bytes_sent == predicted.bytes_sent + scalars
    assert counted.multiply_adds == predicted.multiply_adds
    on_few = counted_step(Layout(data=4, domain=2, tensor=2), sharded, has_link)[0]
    assert counted.calls == on_few.calls

"""Phases of a step against what the real code multiplies and against the exact cost of a step."""

from __future__ import annotations

from collections import Counter as Multiset
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from support.architectures import SMALL
from support.selection import exhaustive
from weathermixer.config import Parallel, Recompute, Training
from weathermixer.jigsaw.fake import fake_mesh
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.trace import OperationTaken
from weathermixer.jigsaw.weights import kept_weights
from weathermixer.model.cuts import Part, build
from weathermixer.planning.layer_work import share_within_node
from weathermixer.planning.machine_files import find_machine
from weathermixer.planning.step_cost import step_cost
from weathermixer.planning.step_kind import StepKind
from weathermixer.planning.step_phases import describe_rank, sent, step_phases
from weathermixer.training.rehearsal import rehearse

NODES = find_machine("a100-40gb")
ONE_HOST = NODES.model_copy(
    update={
        "ranks_per_node": 64,
        "within_node": NODES.within_node.model_copy(update={"carried_by_processors": True}),
    }
)
LAYOUTS = [
    Layout(),
    Layout(domain=2, tensor=2, rank=3),
    Layout(data=2, domain=2, rank=1),
    *exhaustive(
        Layout(tensor=2), Layout(domain=3, tensor=2, rank=4), Layout(data=3, tensor=3, rank=2)
    ),
]


class Products(TorchDispatchMode):
    """Notes the shapes ``(m, n, k)`` of all matrix products, and in how many they are made."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Multiset[tuple[int, int, int]] = Multiset()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function._schema.name.partition("::")[2]
        if name in ("mm", "addmm", "addmm_"):
            left, right = args[-2:]
            self.shapes[left.shape[0], right.shape[1], left.shape[1]] += 1
        return function(*args, **(kwargs or {}))


def sorted_shapes(shapes: Multiset[tuple[int, int, int]]) -> Multiset[tuple[int, ...]]:
    """Without the order of dimensions, on which neither operations nor bytes depend."""
    total: Multiset[tuple[int, ...]] = Multiset()
    for shape, count in shapes.items():
        if all(shape):
            total[tuple(sorted(shape))] += count
    return total


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("prediction", ["increment", *exhaustive("state")])
@pytest.mark.parametrize("machine", [ONE_HOST, NODES], ids=["one host", "links"])
def test_products_have_the_shapes_that_the_network_multiplies(
    layout: Layout, prediction: Any, machine: Any
) -> None:
    architecture = replace(SMALL, prediction=prediction, overlap=layout.domain - 1, smoothing=1)
    kind = StepKind(samples=3)
    phases = step_phases(describe_rank(architecture, layout, kind, machine), layout, kind, machine)
    predicted: Multiset[tuple[int, int, int]] = Multiset()
    for phase in phases:
        for product in phase.products:
            predicted[product.m, product.n, product.k] += product.count
    has_link = not machine.within_node.carried_by_processors
    with fake_mesh(layout, has_link=has_link) as mesh, Products() as made:
        part = Part.on(mesh, architecture)
        channels = len(part.channels)
        model = build(
            architecture, mesh, seed=None, increment_scale=torch.ones(channels), samples=3
        )
        columns = part.longitudes.stop - part.longitudes.start
        state = torch.ones(3, channels, architecture.grid[0], columns)
        static = torch.ones(part.static.stop - part.static.start, architecture.grid[0], columns)
        with kept_weights(model):
            loss = model(state, static).square().mean()
        loss.backward()
    assert sorted_shapes(predicted) == sorted_shapes(made.shapes)


@settings(deadline=None, max_examples=40)
@given(
    data=st.integers(1, 3),
    domain=st.integers(1, 4),
    tensor=st.integers(1, 4),
    at=st.integers(0, 47),
    rollout=st.integers(1, 3),
    recompute=st.sampled_from(["none", "blocks", "stages"]),
    latent=st.integers(1, 2),
    micro_batch=st.sampled_from([None, 1, 2, 3]),
    sharded=st.booleans(),
    dtype=st.sampled_from(["float32", "bfloat16", "float64"]),
    narrows=st.booleans(),
    overlap=st.integers(0, 2),
    smoothing=st.integers(0, 2),
    small_scales=st.booleans(),
    pools=st.booleans(),
)
def test_phases_hold_all_operations_bytes_and_calls_of_a_step(
    data: int,
    domain: int,
    tensor: int,
    at: int,
    rollout: int,
    recompute: Recompute,
    latent: int,
    micro_batch: int | None,
    sharded: bool,
    dtype: Any,
    narrows: bool,
    overlap: int,
    smoothing: int,
    small_scales: bool,
    pools: bool,
) -> None:
    layout = Layout(data=data, domain=domain, tensor=tensor)
    layout = layout.at(at % layout.world_size)
    kind = StepKind(
        3,
        dtype,
        rollout,
        recompute,
        sharded,
        narrows_exchange=narrows,
        latent=latent,
        micro_batch=micro_batch,
        error="crps" if pools else "squared",
        pool=data if pools else 1,
        small_scales=small_scales,
    )
    architecture = replace(SMALL, overlap=overlap, smoothing=smoothing)
    model = describe_rank(architecture, layout, kind, NODES)
    phases = step_phases(model, layout, kind, NODES)
    expected = step_cost(model, kind) + sent(model, layout, kind)
    products = [product for phase in phases for product in phase.products]
    exchanges = [exchange for phase in phases for exchange in phase.exchanges]
    made = sum(product.operations for product in products)
    assert made == 2 * expected.multiply_adds
    assert sum(exchange.num_bytes for exchange in exchanges) == pytest.approx(expected.bytes_sent)
    assert sum(exchange.calls for exchange in exchanges) == pytest.approx(expected.calls)


@pytest.mark.parametrize(
    ("noise", "options", "without"),
    [
        ({"noise": 8}, {}, {}),
        ({"noise": 4, "local_noise": 4}, {}, {}),
        ({}, {"error": "crps", "members": 3}, {"instance_batch": 3}),
        ({}, {"error": "crps", "members": 6, "instance_members": 1}, {}),
    ],
    ids=["noise", "local noise", "members", "a pool"],
)
def test_noise_and_members_take_as_many_passes_over_memory_as_in_the_real_code(
    noise: dict[str, Any], options: dict[str, object], without: dict[str, object]
) -> None:
    # Large enough that what comes of a whole tensor counts, and not of a factor.
    network = replace(SMALL, prognostic=23, grid=(24, 48), channels=97)
    layout, parallel = Layout(data=6), Parallel(data=6)
    traced, planned = [], []
    for noise_here, settings_here in ((noise, options), ({}, without)):
        architecture = replace(network, **noise_here)
        training = Training.model_validate({"instance_batch": 1, **settings_here})
        kind = StepKind.of(training, parallel)
        model = describe_rank(architecture, layout, kind, ONE_HOST)
        phases = step_phases(model, layout, kind, ONE_HOST)
        planned.append(sum(work.num_bytes for phase in phases for work in phase.elementwise))
        events = rehearse(architecture, layout, training, parallel, has_link=False).events
        operations = [event for event in events if isinstance(event, OperationTaken)]
        traced.append(sum(event.bytes_read + event.bytes_written for event in operations))
    assert planned[0] - planned[1] == pytest.approx(traced[0] - traced[1], rel=0.12)


def test_exchanges_leave_a_node_as_far_as_their_peers_are_on_others() -> None:
    layout = Layout(data=2, domain=4, tensor=2, rank=1)
    axes = {axis.name: axis for axis in Mesh.describe(layout).axes}
    # Of four ranks, node 0 holds domain 0 and 1 of tensor 0 and 1.
    assert share_within_node(axes["tensor"], 4) == 1.0
    assert share_within_node(axes["domain"], 4) == pytest.approx(1 / 3)
    assert share_within_node(axes["data"], 4) == 0.0
    assert share_within_node(axes["domain"], 8) == 1.0

"""A rehearsed step exchanges and computes what the real one does, and what is planned of it."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from support.networks import mesh_name
from support.ranks import Pool
from support.selection import exhaustive
from weathermixer.config import Parallel, Training
from weathermixer.jigsaw import lines
from weathermixer.jigsaw.cost import Cost
from weathermixer.jigsaw.count import Counter
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.trace import (
    ExchangeBegun,
    ExchangeWaited,
    PartBegun,
    PartEnded,
    ProductTaken,
    SumsSent,
    WorkDeferred,
)
from weathermixer.model.architecture import Architecture
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.model.cuts import Part, build, describe
from weathermixer.planning.step_cost import step_cost
from weathermixer.planning.step_kind import StepKind
from weathermixer.planning.step_phases import sent
from weathermixer.training.ensemble import Ensemble
from weathermixer.training.passes import Objective
from weathermixer.training.rehearsal import Rehearsal, rehearse
from weathermixer.training.small_scales import SmallScales
from weathermixer.training.state import TrainingState
from weathermixer.training.step import take_step

# No size is a multiple of 2 or 3 in what is cut.
NETWORK = Architecture(
    prognostic=5,
    static=2,
    grid=(6, 10),
    patch=(3, 2),
    channels=13,
    blocks=2,
    token_hidden=11,
    channel_hidden=17,
    dropout=0.2,
    prediction="state",
    overlap=1,
    smoothing=2,
)
MESHES = [
    Layout(data=2, domain=2),
    *exhaustive(
        Layout(domain=2, tensor=2),
        Layout(),
        Layout(data=3),
        Layout(domain=3),
        Layout(data=2, tensor=2),
    ),
]
TRAININGS = [
    {"rollout": 2, "recompute": True, "small_scales": 0.1},
    *exhaustive({}, {"dtype": "float64", "instance_batch": 2}, {"rollout": 3}),
    *exhaustive(
        {"rollout": 2, "latent_rollout": 3, "recompute": True},
        {"instance_batch": 3, "micro_batch": 2, "rollout": 2, "recompute": "stages"},
    ),
]  # fmt: skip
# Members of which each replica makes some, so that it tells the others of them.
POOLED = [
    (
        Layout(data=2, domain=2),
        {"members": 4, "instance_members": 2, "rollout": 2, "small_scales": 0.1},
    ),
    *exhaustive(
        (Layout(data=2, tensor=2), {"members": 2, "instance_members": 1}),
        (Layout(data=3), {"members": 6, "instance_members": 2, "dtype": "float64"}),
        (
            Layout(data=4),
            {
                "members": 2,
                "instance_members": 1,
                "instance_batch": 3,
                "micro_batch": 2,
                "rollout": 3,
                "recompute": "stages",
            },
        ),
        (Layout(domain=2), {"members": 3, "small_scales": 0.1}),
    ),
]


def network_of(training: Training) -> Architecture:
    return replace(NETWORK, noise=3, local_noise=2) if training.members > 1 else NETWORK


def real_step(mesh: Mesh, training: Training, parallel: Parallel) -> Counter:
    """What the second step of a training counts on a real rank."""
    network = network_of(training)
    arithmetic, part = Arithmetic.of(training.dtype), Part.on(mesh, network)
    channels = len(part.channels)
    static, longitudes = (each.stop - each.start for each in (part.static, part.longitudes))
    model = build(
        network,
        mesh,
        seed=0,
        increment_scale=torch.ones(channels),
        samples=training.forecasts_at_once,
        dtype=arithmetic.states,
        arithmetic=arithmetic.products,
        recompute=training.recompute == "blocks",
    )
    state = TrainingState.initial(model, mesh, training, parallel)
    samples = (training.instance_batch, training.longest.rollout + 1)
    states = torch.ones(*samples, channels, NETWORK.grid[0], longitudes, dtype=arithmetic.states)
    objective = Objective(
        torch.ones(static, NETWORK.grid[0], longitudes, dtype=arithmetic.states),
        torch.ones(channels, NETWORK.grid[0], 1, dtype=arithmetic.states),
    )
    ensemble = Ensemble.of(training, network.drawn, mesh)
    if training.members > 1:
        objective = replace(objective, ensemble=ensemble, error=ensemble.crps)
    if training.small_scales:
        weights, rows = objective.weights, torch.ones(NETWORK.grid[0], 1, dtype=arithmetic.states)
        small_scales = SmallScales.on(mesh, training, weights, rows, NETWORK.grid[1], ensemble)
        objective = replace(objective, small_scales=small_scales)
    # A fake rank stands for one with NCCL.
    with patch.object(lines, "COLLECTIVE_BACKENDS", {"gloo", "fake"}):
        take_step(state, mesh, training, states, objective)
        before = mesh.counter.copy()
        take_step(state, mesh, training, states, objective)
    return mesh.counter.since(before)


def planned(layout: Layout, training: Training, parallel: Parallel) -> Cost:
    """The cost of the step by formula, as a plan has it."""
    arithmetic = Arithmetic.of(training.dtype)
    model = describe(
        network_of(training),
        Mesh.describe(layout),
        samples=training.forecasts_at_once,
        arithmetic=arithmetic.products,
    ).to(arithmetic.states)
    kind = StepKind.of(training, parallel, lengths=training.longest)
    return step_cost(model, kind) + sent(model, layout, kind)


def counts(counted: Counter | Cost) -> tuple[int, int, int, int]:
    return counted.bytes_sent, counted.messages, counted.calls, counted.multiply_adds


def check_counts(pool: Pool, layout: Layout, training: Training) -> None:
    """A step counts as much on real ranks as rehearsed and as planned."""
    parallel = Parallel(data=layout.data, shard_optimizer=layout.data == 2)
    for rank, counted in enumerate(pool.run(real_step, layout, training, parallel)):
        here = layout.at(rank)
        rehearsed = rehearse(network_of(training), here, training, parallel, has_link=False)
        assert rehearsed.counted == counted, f"rank {rank}"
        assert counts(counted) == counts(planned(here, training, parallel)), f"rank {rank}"


@pytest.mark.parametrize("options", TRAININGS, ids=str)
@pytest.mark.parametrize("layout", MESHES, ids=mesh_name)
def test_a_rehearsed_step_counts_what_a_real_one_does_and_what_is_planned(
    pool: Pool, layout: Layout, options: dict[str, object]
) -> None:
    check_counts(pool, layout, Training.model_validate({"instance_batch": 1, **options}))


@pytest.mark.parametrize(("layout", "options"), POOLED, ids=str)
def test_so_does_a_step_of_an_ensemble(
    pool: Pool, layout: Layout, options: dict[str, object]
) -> None:
    training = Training.model_validate({"instance_batch": 1, "error": "crps", **options})
    check_counts(pool, layout, training)


@pytest.mark.exhaustive
def test_each_replica_of_a_pool_sends_its_members_to_each_other_at_every_application() -> None:
    layout = Layout(data=6, rank=4)
    settings = {"instance_batch": 2, "error": "crps", "members": 6, "rollout": 3}
    alone, pooled = (
        rehearse(network_of(training), layout, training, Parallel(data=6), has_link=False).counted
        for training in (
            Training.model_validate({**settings, **members})
            for members in ({"members": 2}, {"instance_members": 2})
        )
    )
    # Two samples of two members each, 5 channels at 6 × 10, 4 bytes a value, to two replicas.
    assert pooled.bytes_sent - alone.bytes_sent == 3 * 2 * (2 * 2 * 5 * 6 * 10 * 4)
    assert pooled.messages - alone.messages == pooled.calls - alone.calls == 3 * 2


@pytest.mark.exhaustive
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("layout", MESHES[:2], ids=mesh_name)
def test_a_rehearsed_step_of_narrow_products_counts_what_a_real_one_does(
    pool: Pool, layout: Layout, recompute: bool
) -> None:
    training = Training(instance_batch=1, dtype="bfloat16", recompute=recompute, rollout=2)
    parallel = Parallel(data=layout.data)
    for rank, counted in enumerate(pool.run(real_step, layout, training, parallel)):
        rehearsed = rehearse(NETWORK, layout.at(rank), training, parallel, has_link=False)
        assert rehearsed.counted == counted, f"rank {rank}"


def test_a_step_of_narrow_products_sends_what_is_planned() -> None:
    layout, training = Layout(domain=2), Training(instance_batch=1, dtype="bfloat16")
    rehearsed = rehearse(NETWORK, layout, training, Parallel(), has_link=False)
    assert counts(rehearsed.counted) == counts(planned(layout, training, Parallel()))


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "in pieces"])
def rehearsal(request: pytest.FixtureRequest) -> Rehearsal:
    layout = Layout(data=2, domain=2, tensor=3, rank=7)
    parallel = Parallel(data=2, shard_optimizer=True)
    training = Training(instance_batch=1, dtype="bfloat16")
    return rehearse(NETWORK, layout, training, parallel, has_link=request.param)


def test_the_exchanges_of_the_trace_add_up_to_what_was_counted(rehearsal: Rehearsal) -> None:
    begun = [event for event in rehearsal.events if isinstance(event, ExchangeBegun)]
    assert [event.number for event in begun] == list(range(rehearsal.counted.calls))
    assert sum(event.bytes_sent for event in begun) == rehearsal.counted.bytes_sent
    assert sum(event.messages for event in begun) == rehearsal.counted.messages
    along = {axis: rehearsal.layout.ranks_along(axis) for axis in ("data", "domain", "tensor")}
    for event in begun:
        assert event.ranks == along[event.axis]
        assert {event.to, event.source} <= {*event.ranks, None}


def test_the_products_of_the_trace_add_up_to_what_was_counted(rehearsal: Rehearsal) -> None:
    products = [event for event in rehearsal.events if isinstance(event, ProductTaken)]
    assert sum(each.m * each.n * each.k for each in products) == rehearsal.counted.multiply_adds
    assert {each.dtype for each in products} == {"float32", "bfloat16"}


def test_no_exchange_is_waited_for_before_it_begins(rehearsal: Rehearsal) -> None:
    under_way: set[int] = set()
    waited = 0
    for event in rehearsal.events:
        if isinstance(event, ExchangeBegun):
            under_way.add(event.number)
        elif isinstance(event, ExchangeWaited):
            under_way.remove(event.number)
            waited += 1
    assert waited > 0
    # Only weights of a sharded optimizer travel on beside the next step.
    last = {event.number for event in rehearsal.events if isinstance(event, ExchangeBegun)}
    assert under_way <= {*sorted(last)[-len(under_way) :]}


def test_what_is_put_off_is_done_once_and_as_a_whole(rehearsal: Rehearsal) -> None:
    put_off: set[int] = set()
    under_way: list[int] = []
    sums: dict[int, tuple[int, ...]] = {}
    for event in rehearsal.events:
        match event:
            case WorkDeferred() | SumsSent():
                put_off.add(event.number)
                if isinstance(event, SumsSent):
                    sums[event.number] = event.exchanges
            case PartBegun():
                put_off.remove(event.number)
                under_way.append(event.number)
            case PartEnded():
                assert under_way.pop() == event.number
            case ExchangeWaited() if under_way and under_way[-1] in sums:
                # What takes sums in waits for their exchanges, in their order.
                first, *rest = sums[under_way[-1]]
                assert event.number == first
                sums[under_way[-1]] = tuple(rest)
    assert sums and not any(sums.values())
    assert not put_off and not under_way

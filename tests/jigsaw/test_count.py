"""What ranks send and compute is what was predicted, and is shared out evenly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from support.network_steps import NetworkStep, run_step
from support.networks import (
    ALL_SCHEMES,
    EVEN,
    MESHES,
    UNEVEN,
    Sample,
    Schemes,
    Sizes,
    mesh_name,
    network_on,
    whole_parameters,
)
from support.ranks import Pool
from support.selection import exhaustive
from weathermixer.jigsaw.cost import Cost, layers_cost, shared_cost
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh

EVERY_SCHEME = [Schemes(), *ALL_SCHEMES]
# Each way to take a product is in one of these.
SOME_SCHEMES = [Schemes(), *ALL_SCHEMES[::4]]
OTHERS = [schemes for schemes in ALL_SCHEMES if schemes not in SOME_SCHEMES]


@pytest.fixture(scope="module", params=MESHES, ids=mesh_name)
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


def step_of(
    sizes: Sizes,
    schemes: Schemes,
    *,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    passes: int = 1,
    state_gradient: bool = True,
) -> NetworkStep:
    parameter_dtype = torch.promote_types(dtype, torch.float32)
    return NetworkStep(
        sizes,
        schemes,
        Sample.draw(sizes, batch, dtype),
        whole_parameters(sizes, parameter_dtype),
        passes=passes,
        state_gradient=state_gradient,
    )


def predicted(step: NetworkStep, layout: Layout) -> Cost:
    """The cost on a rank, from a description of its mesh."""
    mesh = Mesh.describe(layout).exchanging(step.exchange_dtype)
    network = network_on(mesh, step.sizes, step.schemes)
    parts = {network.encoder: False, network.blocks: step.reentrant is not None}
    parts |= {network.norm: False, network.decoder: False}
    layers = sum(
        (
            layers_cost(
                part,
                samples=step.sample.state.shape[1],
                element_bytes=step.sample.state.element_size(),
                passes=step.passes,
                recompute=recompute,
                without_input_gradient=() if step.state_gradient else (network.encoder,),
            )
            for part, recompute in parts.items()
        ),
        Cost(),
    )
    parameter_bytes = next(iter(step.parameters.values())).element_size()
    return layers + shared_cost(network, parameter_bytes=parameter_bytes)


def check(pool: Pool, layout: Layout, step: NetworkStep) -> None:
    for rank, outcome in enumerate(pool.run(run_step, layout, step)):
        counted = Cost(
            *(
                getattr(outcome.forward, field) + getattr(outcome.backward, field)
                for field in ("bytes_sent", "messages", "calls", "multiply_adds")
            )
        )
        assert counted == replace(predicted(step, layout.at(rank)), kept_bytes=0), f"rank {rank}"


@pytest.mark.parametrize("sizes", [UNEVEN, *exhaustive(EVEN)], ids=["uneven", "even"])
@pytest.mark.parametrize("schemes", EVERY_SCHEME, ids=str)
def test_every_scheme_sends_and_computes_what_was_predicted(
    pool: Pool, layout: Layout, schemes: Schemes, sizes: Sizes
) -> None:
    check(pool, layout, step_of(sizes, schemes, batch=2))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, *exhaustive(torch.float64)], ids=str
)
@pytest.mark.parametrize("state_gradient", [True, False], ids=["gradient", "data"])
@pytest.mark.parametrize("passes", [1, 3])
def test_predictions_hold_for_rollouts_and_every_type_with_gathered_weights_sent_once(
    pool: Pool, layout: Layout, dtype: torch.dtype, state_gradient: bool, passes: int
) -> None:
    step = step_of(UNEVEN, Schemes(), dtype=dtype, passes=passes, state_gradient=state_gradient)
    check(pool, layout, step)


@pytest.mark.parametrize("schemes", SOME_SCHEMES, ids=str)
def test_predictions_hold_where_products_exchange_a_narrower_type(
    pool: Pool, layout: Layout, schemes: Schemes
) -> None:
    step = replace(step_of(UNEVEN, schemes, batch=2), exchange_dtype=torch.bfloat16)
    check(pool, layout, step)
    wide = predicted(replace(step, exchange_dtype=None), layout).bytes_sent
    narrow = predicted(step, layout).bytes_sent
    assert wide / 2 < narrow < wide, "all but what norms, biases and gains exchange is halved"


@pytest.mark.parametrize("schemes", [*SOME_SCHEMES, *exhaustive(*OTHERS)], ids=str)
@pytest.mark.parametrize("passes", [2, *exhaustive(1)])
def test_predictions_hold_where_blocks_are_computed_again(
    pool: Pool, layout: Layout, schemes: Schemes, passes: int
) -> None:
    sizes = replace(UNEVEN, blocks=2)
    check(pool, layout, replace(step_of(sizes, schemes, passes=passes), reentrant=False))


@pytest.mark.parametrize("schemes", EVERY_SCHEME, ids=str)
def test_every_rank_computes_as_much_as_any_other_in_both_directions(
    pool: Pool, layout: Layout, schemes: Schemes
) -> None:
    outcomes = pool.run(run_step, layout, step_of(EVEN, schemes))
    for direction in ("forward", "backward"):
        work = [getattr(outcome, direction).multiply_adds for outcome in outcomes]
        assert max(work) <= 1.01 * sum(work) / len(work), direction


def test_many_ranks_together_compute_what_one_does_and_nothing_twice(
    pool: Pool, layout: Layout
) -> None:
    alone = step_of(UNEVEN, Schemes())
    outcomes = pool.run(run_step, layout, alone)
    one = alone(Mesh.describe())
    for direction in ("forward", "backward"):
        work = sum(getattr(outcome, direction).multiply_adds for outcome in outcomes)
        assert work == getattr(one, direction).multiply_adds
    assert one.forward.messages == one.backward.bytes_sent == 0

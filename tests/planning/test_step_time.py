"""Seconds of phases, against sums by hand on a machine of round numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weathermixer.planning.machine import Machine, Rates
from weathermixer.planning.step_time import (
    ElementWork,
    MatrixProduct,
    Phase,
    PlannedExchange,
    StepTimer,
)


def machine(
    *, slowdown: float = 1.0, carried: bool = False, launches_ahead: bool = True
) -> Machine:
    """Products at 1e12 operations a second, memory at 1e11 bytes, links at 1e10 and 1e9."""
    link = {"latency_seconds": 1e-3, "slowdown": slowdown, "carried_by_processors": carried}
    return Machine.model_validate(
        {
            "name": "round",
            "source": "made up",
            "ranks_per_node": 4,
            "memory_bytes": 1e10,
            "computing": [
                {
                    "source": "made up",
                    "memory_bytes_per_second": 1e11,
                    "launch_seconds": 1e-3,
                    "launches_ahead": launches_ahead,
                    "seconds_per_element": {"activation": 1e-9},
                    "products": {
                        "float32": {
                            "source": "made up",
                            "peak": 2e12,
                            "sizes": [1.0, 100.0],
                            "rates": [1e11, 1e12],
                        }
                    },
                }
            ],
            "within_node": {
                **link,
                "source": "made up",
                "messages": {"sizes": [1e3], "rates": [1e10]},
            },
            "between_nodes": {
                **link,
                "source": "made up",
                "messages": {"sizes": [1e3], "rates": [1e9]},
                "ranks_sharing": 2,
            },
            "storage": {
                "source": "made up",
                "rank_bytes_per_second": 1e9,
                "node_bytes_per_second": 2e9,
            },
        }
    )


PRODUCT = MatrixProduct(1000, 1000, 1000, "float32", count=3)  # 2e9 operations each


def test_a_product_takes_its_operations_over_the_rate_at_its_size() -> None:
    timer = StepTimer(machine(), ranks=4)
    assert timer.product(PRODUCT) == pytest.approx(3 * 2e9 / 1e12)
    # The harmonic mean of 15, 1000 and 1000 is 43.7, where the logarithm is 82% of the way.
    rate = 10 ** (11 + math.log(3 / (1 / 15 + 2 / 1000), 100))
    assert timer.product(MatrixProduct(15, 1000, 1000, "float32")) == pytest.approx(3e7 / rate)
    # A product of one column reads its matrix: 4 bytes for two operations, at 1e11 bytes a second.
    column = MatrixProduct(100_000, 1, 100_000, "float32")
    assert timer.product(column) == pytest.approx(4 * (1e10 + 2e5) / 1e11)
    # TF32 is float32 where the machine has none.
    assert timer.product(MatrixProduct(1000, 1000, 1000, "tf32")) == pytest.approx(2e-3)


def test_elementwise_work_takes_its_bytes_or_its_arithmetic() -> None:
    timer = StepTimer(machine(), ranks=4)
    assert timer.element_work(ElementWork("copy", 10**6, 8 * 10**6)) == pytest.approx(8e-5)
    assert timer.element_work(ElementWork("activation", 10**6, 8 * 10**6)) == pytest.approx(1e-3)


def test_links_take_calls_and_bytes_and_are_shared_between_nodes() -> None:
    timer = StepTimer(machine(), ranks=8)
    within = PlannedExchange(num_bytes=2e7, calls=3)
    between = PlannedExchange(num_bytes=2e7, calls=3, is_between_nodes=True)
    assert timer.exchange(within) == pytest.approx(3e-3 + 2e-3)
    assert timer.exchange(between) == pytest.approx(3e-3 + 2 * 2e-2)


@pytest.mark.parametrize(
    ("slowdown", "carried", "num_bytes", "exposed"),
    [
        (1.0, False, 4e7, 0.0),  # 1 ms and 4 ms beside 6 ms
        (1.0, False, 9e7, 4e-3),  # 10 ms beside 6
        (1.25, False, 4e7, 1e-3),  # in 5 ms, only 4 ms worth of computing are done
        (1.25, False, 9e7, 4e-3),  # 6 ms take 7.5, and are over in 10
        (1.0, True, 4e7, 5e-3),  # nothing is hidden from processors that carry it
    ],
)
def test_what_travels_beside_is_exposed_as_far_as_computing_does_not_hide_it(
    slowdown: float, carried: bool, num_bytes: float, exposed: float
) -> None:
    timer = StepTimer(machine(slowdown=slowdown, carried=carried), ranks=4)
    phase = Phase("a", (PRODUCT,), (), (PlannedExchange(num_bytes, 1, is_beside=True),))
    step = timer.phase(phase)
    assert step.compute == pytest.approx(6e-3)
    assert step.exchange_exposed == pytest.approx(exposed)
    assert step.overhead == 0.0  # three launches of 1 ms, ahead of products of 2 ms


def test_work_takes_the_rate_of_its_kind_at_the_size_of_a_kernel() -> None:
    measured = machine()
    (computing,) = measured.computing
    rates = Rates(sizes=(1e3, 1e6), rates=(1e9, 1e10))
    computing = computing.model_copy(update={"work": {"norm": rates}})
    timer = StepTimer(measured.model_copy(update={"computing": (computing,)}), ranks=1)
    assert timer.element_work(ElementWork("norm", 10, 10**6)) == pytest.approx(1e-4)
    assert timer.element_work(ElementWork("norm", 10, 10**6, 1000)) == pytest.approx(1e-3)
    # Of other kinds the memory's rate is known, and what their arithmetic takes.
    assert timer.element_work(ElementWork("copy", 10, 10**6)) == pytest.approx(1e-5)
    assert timer.element_work(ElementWork("activation", 10**6, 0)) == pytest.approx(1e-3)


def test_ranks_that_meet_wait_for_one_another() -> None:
    uneven = machine()
    link = uneven.within_node.model_copy(update={"waiting_seconds": 5e-4})
    timer = StepTimer(uneven.model_copy(update={"within_node": link}), ranks=4)
    meets = Phase("a", (PRODUCT,), (), (PlannedExchange(2e7, 3),))
    assert timer.phase(meets).exchange_exposed == pytest.approx(5e-3 + 3 * 5e-4)
    assert timer.phase(Phase("a", (PRODUCT,))).exchange_exposed == 0.0


def test_launches_are_hidden_by_what_an_accelerator_computes_alone() -> None:
    phase = Phase("a", (PRODUCT,), (ElementWork("copy", 1, 8, kernels=7),))
    ahead = StepTimer(machine(), ranks=4).phase(phase)
    along = StepTimer(machine(launches_ahead=False), ranks=4).phase(phase)
    assert ahead.overhead == pytest.approx(10e-3 - 6e-3)
    assert along.overhead == pytest.approx(10e-3)


def test_reading_is_exposed_where_it_takes_longer_than_the_step() -> None:
    timer = StepTimer(machine(), ranks=4)  # which share 2e9 bytes a second
    assert timer.step([Phase("a", (PRODUCT,))], bytes_read=1e6).read_exposed == 0.0
    slow = timer.step([Phase("a", (PRODUCT,))], bytes_read=1e7)
    assert slow.read_exposed == pytest.approx(20e-3 - 6e-3)
    assert slow.total == pytest.approx(20e-3)
    alone = StepTimer(machine(), ranks=1)
    assert alone.reading(1e7) == pytest.approx(10e-3)


def test_the_fraction_of_peak_is_operations_over_time() -> None:
    assert StepTimer(machine(), ranks=1).peak_fraction(1e9, 1e-3, "float32") == 0.5


@given(
    st.floats(1.0, 2.0),
    st.just(0.0) | st.floats(1.0, 1e9),
    st.integers(0, 50),
    st.booleans(),
    st.booleans(),
)
def test_overlap_hides_no_more_than_either_side_takes(
    slowdown: float, num_bytes: float, calls: int, between: bool, beside: bool
) -> None:
    timer = StepTimer(machine(slowdown=slowdown), ranks=8)
    exchange = PlannedExchange(num_bytes, calls, between, beside)
    alone = timer.exchange(exchange)
    step = timer.phase(Phase("a", (PRODUCT,), (), (exchange,)))
    assert max(step.compute, alone) <= step.total * (1 + 1e-9)
    assert step.total <= (step.compute + step.overhead + alone) * (1 + 1e-9)

"""The arithmetic of the table, against numbers that were worked out by hand."""

from __future__ import annotations

import pytest

from weathermixer.config import Config
from weathermixer.jigsaw.layout import Layout
from weathermixer.scaling.cases import Case, Contender, Growth
from weathermixer.scaling.measuring import Measured
from weathermixer.scaling.record import Ceiling
from weathermixer.scaling.rows import Row, tabulate


def case(
    contender: Contender,
    layout: Layout,
    *,
    operations: float,
    planned_seconds: float,
    growth: Growth | None = None,
) -> Case:
    settings = {"data": {"store": "s"}, "training": {"instance_batch": 3}}
    return Case(
        contender,
        layout,
        Config.model_validate(settings),
        operations,
        planned_seconds=planned_seconds,
        planned_operations=operations / layout.world_size,
        planned_bytes_sent=7.0,
        planned_bytes_moved=operations / 20,
        growth=growth,
    )


def seconds(*rounds: list[float]) -> list[Measured]:
    return [Measured(each, loss=1.0, operations=11, bytes_sent=7) for each in rounds]


ONE = case("jigsaw", Layout(), operations=800.0, planned_seconds=10.0)
PLAIN = case("plain", Layout(), operations=800.0, planned_seconds=8.0)
TWO = case("jigsaw", Layout(domain=2), operations=800.0, planned_seconds=5.0)
REPLICAS = case("ddp", Layout(data=2), operations=1600.0, planned_seconds=10.0, growth="replicas")
ROUNDS = {
    ONE.key: seconds([9.0, 12.0], [10.0, 30.0, 8.0]),
    PLAIN.key: seconds([8.0]),
    TWO.key: seconds([5.0, 4.0, 7.0]),
    REPLICAS.key: seconds([12.5]),
}


def by_contender(rows: list[Row]) -> dict[str, Row]:
    return {row.case.key: row for row in rows}


def test_seconds_are_the_median_of_all_rounds_between_the_least_and_the_most() -> None:
    row = by_contender(tabulate("strong", [ONE, PLAIN], ROUNDS, "m"))[ONE.key]
    assert (row.seconds_min, row.seconds, row.seconds_max) == (8.0, 10.0, 30.0)
    assert row.samples_per_second == pytest.approx(3 / 10)
    assert (row.operations_per_rank, row.bytes_sent) == (11, 7)


def test_speed_up_and_efficiency_are_relative_to_the_fastest_on_the_fewest_ranks() -> None:
    rows = by_contender(tabulate("weak", [ONE, PLAIN, TWO, REPLICAS], ROUNDS, "m"))
    # The plain network makes 100 operations a second; it was predicted to make as many.
    assert (rows[PLAIN.key].speed_up, rows[PLAIN.key].efficiency) == (1.0, 1.0)
    assert rows[ONE.key].efficiency == pytest.approx(0.8)
    # 800 operations in 5 s on two ranks: 160 in all, 80 on each.
    assert rows[TWO.key].speed_up == pytest.approx(1.6)
    assert rows[TWO.key].efficiency == pytest.approx(0.8)
    assert rows[TWO.key].predicted_speed_up == pytest.approx(1.6)
    # 1600 operations in 12.5 s on two ranks: 128 in all; predicted in 10 s.
    assert rows[REPLICAS.key].speed_up == pytest.approx(1.28)
    assert rows[REPLICAS.key].efficiency == pytest.approx(0.64)
    assert rows[REPLICAS.key].predicted_efficiency == pytest.approx(0.8)
    # Two replicas of three samples each.
    assert rows[REPLICAS.key].samples_per_second == pytest.approx(6 / 12.5)


def test_what_was_not_measured_yet_is_not_compared() -> None:
    rows = tabulate("strong", [ONE, TWO], {TWO.key: ROUNDS[TWO.key]}, "m")
    assert [row.case for row in rows] == [TWO]
    assert rows[0].speed_up is None and rows[0].to_json("strong")["efficiency"] is None


def test_a_roofline_has_the_intensity_and_the_lower_of_two_roofs() -> None:
    (row,) = tabulate("roofline", [TWO], ROUNDS, "m")
    assert row.speed_up is None
    # 400 operations of a rank, for 40 bytes; 400 operations in 5 s.
    assert row.intensity == pytest.approx(10.0)
    assert row.operations_per_second == pytest.approx(80.0)
    ceiling = Ceiling("float32", 1, peak=100.0, memory_bytes_per_second=5.0)
    assert (ceiling.at(10.0), ceiling.at(20.0), ceiling.at(40.0)) == (50.0, 100.0, 100.0)
    other = Ceiling("float32", 1, peak=90.0, memory_bytes_per_second=6.0)
    assert ceiling.or_higher(other) == Ceiling("float32", 1, 100.0, 6.0)

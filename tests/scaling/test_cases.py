"""What a scaling experiment measures: who takes part, on how many samples, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from weathermixer.config import Config
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.planning.machine_files import find_machine
from weathermixer.scaling.cases import Case, Experiment, Kind
from weathermixer.scaling.counts import default_counts

GRID, PATCH, CHANNELS, BLOCKS = (8, 16), (2, 2), 32, 2
TOKENS, POINTS, PROGNOSTIC, STATIC = 32, 4, 69, 3


def experiment(
    kind: Kind, counts: tuple[int, ...], *, memory_bytes: float = 8e9, **sections: Any
) -> Experiment:
    values: dict[str, dict[str, Any]] = {
        "data": {"store": "absent.zarr"},
        "model": {"patch": PATCH, "channels": CHANNELS, "blocks": BLOCKS},
        "training": {"instance_batch": 2},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    machine = find_machine("processors").model_copy(update={"memory_bytes": memory_bytes})
    return Experiment(kind, counts, Config.model_validate(values), GRID, machine, threads=1)


def operations(channels: int, samples: int) -> int:
    """Operations of all products of a step: three for each map, two for the encoder."""
    encoder = TOKENS * POINTS * (PROGNOSTIC + STATIC) * channels
    tokens = 2 * TOKENS * (2 * TOKENS) * channels
    mixing = 2 * TOKENS * channels * channels
    decoder = TOKENS * 2 * channels * POINTS * PROGNOSTIC
    return 2 * samples * (2 * encoder + 3 * (BLOCKS * (tokens + mixing) + decoder))


def names(cases: list[Case]) -> list[tuple[str, int]]:
    return [(case.contender, case.ranks) for case in cases]


def test_strong_scaling_has_the_same_samples_on_more_ranks() -> None:
    cases, left_out = experiment("strong", (1, 2, 4)).cases()
    assert names(cases) == [
        ("jigsaw", 1),
        ("plain", 1),
        ("jigsaw", 2),
        ("ddp", 2),
        ("fsdp", 2),
        ("jigsaw", 4),
    ]
    assert {case.samples for case in cases} == {2}
    assert {case.operations for case in cases} == {operations(CHANNELS, 2)}
    assert all(case.layout.data == (1 if case.contender == "jigsaw" else case.ranks)
               for case in cases)  # fmt: skip
    assert left_out == [
        f"{name} on 4 ranks: a step's samples (2) do not divide among them"
        for name in ("ddp", "fsdp")
    ]


def test_replicas_that_are_configured_are_kept_where_they_divide_the_ranks() -> None:
    cases, _ = experiment("strong", (1, 2, 4), parallel={"data": 2}).cases()
    assert {case.samples for case in cases} == {4}
    assert {case.ranks: case.layout.data for case in cases if case.contender == "jigsaw"} == {
        1: 1,
        2: 2,
        4: 2,
    }


def test_a_mesh_that_is_configured_is_measured_beside_the_one_that_is_chosen() -> None:
    (chosen,) = (
        case.layout for case in experiment("strong", (2,)).cases()[0] if case.contender == "jigsaw"
    )
    other = {"domain": chosen.tensor, "tensor": chosen.domain}
    cases, _ = experiment("strong", (1, 2), parallel=other).cases()
    configured = [case for case in cases if case.contender == "as configured"]
    assert [case.layout for case in configured] == [Layout(**other)]
    same = {"domain": chosen.domain, "tensor": chosen.tensor}
    cases, _ = experiment("strong", (1, 2), parallel=same).cases()
    assert all(case.contender != "as configured" for case in cases)


def test_weak_scaling_keeps_the_operations_of_each_rank() -> None:
    cases, left_out = experiment("weak", (1, 2)).cases()
    by_growth = {
        growth: [case for case in cases if case.growth == growth]
        for growth in (None, "replicas", "width")
    }
    assert names(by_growth[None]) == [("jigsaw", 1), ("plain", 1)]
    for growth in ("replicas", "width"):
        assert names(by_growth[growth]) == [("jigsaw", 2), ("ddp", 2), ("fsdp", 2)]
    assert {case.samples for case in by_growth["replicas"]} == {4}
    assert {case.samples for case in by_growth["width"]} == {2}
    own = operations(CHANNELS, 2)
    assert {case.operations / case.ranks for case in by_growth["replicas"]} == {own}
    (width,) = {case.config.model.channels for case in by_growth["width"]}
    # Of the widths in steps of eight, that with nearly twice the operations.
    errors = {wide: abs(operations(wide, 2) - 2 * own) for wide in range(CHANNELS, 80, 8)}
    assert width == min(errors, key=errors.__getitem__)
    assert by_growth["width"][0].layout.data == 1
    assert not left_out


def test_a_roofline_is_of_several_widths_in_each_arithmetic_of_the_machine() -> None:
    cases, _ = experiment("roofline", (1,)).cases()
    found = {(case.config.model.channels, case.config.training.dtype) for case in cases}
    dtypes = ("float64", "float32", "bfloat16")
    assert found == {(width, dtype) for width in (8, 16, 32, 64) for dtype in dtypes}
    float32 = {
        case.config.model.channels: case.planned_bytes_moved
        for case in cases
        if case.config.training.dtype == "float32"
    }
    # The weights of the encoder alone are read in both passes, and their gradient is written.
    for width, moved in float32.items():
        assert moved is not None and moved > 3 * 4 * POINTS * (PROGNOSTIC + STATIC) * width


def test_peers_take_the_steps_of_the_training() -> None:
    training = {"rollout": 2, "recompute": "blocks"}
    cases, left_out = experiment("strong", (2,), training=training).cases()
    assert names(cases) == [("jigsaw", 2), ("ddp", 2), ("fsdp", 2)] and not left_out
    assert {case.config.training.rollout for case in cases} == {2}
    assert all(case.config.training.recompute == "blocks" for case in cases)
    assert cases[0].operations > 1.9 * operations(CHANNELS, 2)


@pytest.mark.parametrize(
    ("kind", "counts", "options", "words"),
    [
        ("strong", (1, 101), {}, r"101 ranks have no mesh for this network \(domain \(101\)"),
        ("weak", (2, 3), {}, r"fewest ranks \(2\).*3 ranks are no multiple"),
        ("strong", (1,), {"memory_bytes": 1e5}, "fits on no mesh of 1 ranks of processors"),
        ("roofline", (1,), {"memory_bytes": 1e5}, "fits on no mesh of 1 ranks of processors"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(
    kind: Kind, counts: tuple[int, ...], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        experiment(kind, counts, **options).cases()


def test_ranks_that_a_launcher_started_are_divided() -> None:
    assert default_counts("strong", 12) == (1, 2, 3, 4, 6, 12)
    assert default_counts("weak", 1) == (1, 2, 4)
    assert default_counts("roofline", 12) == (12,)

"""Plans: which meshes there are, what is best and why, what is refused, and the JSON contract."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weathermixer.cli import main
from weathermixer.config import Config, Training
from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.model.architecture import architecture_of
from weathermixer.planning.choosing import MACHINE_VARIABLE, choose_mesh
from weathermixer.planning.machine_files import find_machine, write_machine
from weathermixer.planning.plan import Planner, all_layouts
from weathermixer.planning.plan_text import render_plan
from weathermixer.planning.scaling_chart import draw_scaling
from weathermixer.planning.step_cost import possible_layouts
from weathermixer.planning.step_kind import usual_lengths
from weathermixer.planning.step_memory import SAFE_SHARE

FIELDS = {
    "layout",
    "memory_bytes_per_rank",
    "bytes_sent_per_rank",
    "messages_per_rank",
    "bytes_read_per_rank",
    "flops_per_rank",
    "seconds_per_step",
    "seconds",
    "peak_fraction",
    "efficiency",
    "fits",
}


def config(**training: Any) -> Config:
    values = {"data": {"store": "absent.zarr"}, "training": {"instance_batch": 2, **training}}
    return Config.model_validate(values)


def planner(machine: str = "a100-40gb", **training: Any) -> Planner:
    settings = config(**training)
    architecture = architecture_of(settings.data, settings.model, (32, 64))
    return Planner(settings, architecture, find_machine(machine))


@given(st.integers(1, 200))
def test_every_mesh_of_so_many_ranks_is_listed_once(ranks: int) -> None:
    expected = {
        (data, domain, ranks // (data * domain))
        for data in range(1, ranks + 1)
        if ranks % data == 0
        for domain in range(1, ranks // data + 1)
        if ranks // data % domain == 0
    }
    found = [(each.data, each.domain, each.tensor) for each in all_layouts(ranks)]
    assert len(found) == len(expected) and set(found) == expected


def test_the_best_mesh_takes_least_for_a_sample_and_efficiency_is_relative_to_one_rank() -> None:
    planned = planner().plan(4)
    assert planned.best is planned.candidates[0]
    by_sample = [each.time.total / (2 * each.layout.data) for each in planned.candidates]
    assert by_sample == sorted(by_sample)
    (alone,) = planner().plan(1).candidates
    assert alone.efficiency == pytest.approx(1.0)
    for each, seconds in zip(planned.candidates, by_sample, strict=True):
        throughput, of_one = 1 / seconds / 4, 2 / alone.time.total
        assert each.efficiency == pytest.approx(throughput / of_one)
        parts = each.to_json()["seconds"]
        assert sum(parts.values()) == pytest.approx(each.time.total)
        rate = each.step.operations / each.time.total
        assert each.peak_fraction == pytest.approx(rate / 19.5e12)  # float32 of the datasheet


def test_replicas_that_make_members_together_are_planned_as_one() -> None:
    settings: dict[str, Any] = {"error": "crps", "members": 4}
    planned = planner(**settings, instance_members=2).plan(4)
    assert {each.layout.data for each in planned.candidates} == {2, 4}
    refused = {layout.data: reason for layout, reason in planned.refused.items()}
    assert "parallel.data (1) is no multiple of the 2 replicas that make" in refused[1]
    replicas = next(each for each in planned.candidates if each.layout.data == 4)
    # Two samples a pool, of two pools; and two ranks are the fewest that make all members of one.
    assert replicas.samples == 4
    (fewest,) = planner(**settings, instance_members=2).plan(2).candidates
    assert fewest.efficiency == 1.0
    expected = fewest.sample_seconds * 2 / (replicas.sample_seconds * 4)
    assert replicas.efficiency == pytest.approx(expected)
    # The same forecasts by instances of their own tell each other of none.
    alone = planner(error="crps", members=2).candidate(Layout(data=4)).step
    told = 2 * 2 * 69 * 32 * 64 * 4
    assert replicas.step.bytes_sent - alone.bytes_sent == told
    assert replicas.step.calls - alone.calls == 1
    # On which the time depends: nothing hides this exchange.
    slow = find_machine("a100-40gb")
    link = slow.within_node.model_copy(update={"latency_seconds": 1.0})
    slow = slow.model_copy(update={"within_node": link})
    base = planner(**settings, instance_members=2)
    waits = Planner(base.config, base.architecture, slow).candidate(Layout(data=4)).time
    other = planner(error="crps", members=2)
    without = Planner(other.config, other.architecture, slow).candidate(Layout(data=4)).time
    assert waits.exchange_exposed - without.exchange_exposed == pytest.approx(1.0, rel=0.01)


def test_energy_is_the_power_of_all_ranks_over_the_step() -> None:
    for each in planner().plan(2).candidates:
        waits = each.time.total - each.time.compute
        assert each.joules == pytest.approx(2 * (450 * each.time.compute + 150 * waits))


def test_reading_is_left_out_where_it_is_asked_for() -> None:
    slow = find_machine("a100-40gb")
    storage = slow.storage.model_copy(
        update={"rank_bytes_per_second": 1e6, "node_bytes_per_second": 1e6}
    )
    slow = slow.model_copy(update={"storage": storage})
    base = planner()
    loading = Planner(base.config, base.architecture, slow).plan(1).candidates[0]
    without = Planner(base.config, base.architecture, slow, loads=False).plan(1).candidates[0]
    # Two samples of two states each, 69 channels at 32 × 64, 4 bytes a value.
    assert loading.step.bytes_read == 2 * 2 * 69 * 32 * 64 * 4
    assert loading.time.total == pytest.approx(loading.step.bytes_read / 1e6)
    assert without.time.read_exposed == 0.0


def test_a_model_that_fits_nowhere_is_refused_with_what_would_make_it_fit() -> None:
    tiny = find_machine("a100-40gb").model_copy(update={"memory_bytes": 1e6, "name": "tiny"})
    base = planner()
    planned = Planner(base.config, base.architecture, tiny).plan(2)
    assert planned.best is None and planned.to_json()["best"] is None
    assert "does not fit" in render_plan(planned)
    # Blocks are recomputed already: that is left open.
    with pytest.raises(
        ValueError,
        match=r"fits on no mesh of 2 ranks of tiny.*use more ranks, a smaller training\.micro",
    ):
        planned.require_fit()


def test_ranks_of_which_no_mesh_can_be_made_are_refused() -> None:
    # 101 is prime: neither 16 columns of patches nor 69 variables can be cut into so many.
    with pytest.raises(LayoutError, match="no mesh of 101 ranks is possible"):
        planner().plan(101, only=Layout(domain=101))
    assert [each.layout.data for each in planner().plan(101).candidates] == [101]


def test_the_rollout_that_most_steps_have_is_planned_for() -> None:
    for training, expected in (
        (Training(steps=3000, rollout={0: 1, 2400: 2}), (1, 1)),
        (Training(steps=3000, rollout={0: 1, 400: 3, 5000: 4}), (3, 1)),
        (Training(rollout="2-3", latent_rollout=2), (3, 2)),
        (Training(steps=9, rollout={0: 1, 4: 2}, latent_rollout={0: 3, 2: "1-4"}), (2, 4)),
    ):
        assert usual_lengths(training) == expected


def test_a_chart_of_scaling_is_drawn(tmp_path: Path) -> None:
    draw_scaling(planner(), 4, tmp_path / "scaling.svg")
    text = (tmp_path / "scaling.svg").read_text(encoding="utf-8")
    assert text.startswith("<?xml") and len(text) > 10_000


def test_the_command_prints_the_fields_of_the_contract(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("data:\n  store: absent.zarr\n", encoding="utf-8")
    words = ["plan", str(path), "--gpus", "2", "--machine", "h100", "--grid", "32x64"]
    main([*words, "--dry-run", "--json"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result) >= {"candidates", "best", "machine", "scheme"}
    assert result["machine"] == "h100" and result["scheme"] == "jigsaw"
    for candidate in result["candidates"]:
        assert set(candidate) >= FIELDS
        assert set(candidate["layout"]) == {"data", "domain", "tensor"}
    # The real code on a fake rank counts what was planned.
    (planned,) = (each for each in result["candidates"] if each["layout"] == result["best"])
    assert result["dry_run"]["bytes_sent"] == planned["bytes_sent_per_rank"]
    assert result["dry_run"]["flops"] == planned["flops_per_rank"]
    simulated = result["dry_run"]["simulated"]
    # An h100 of the package does not vary, and takes at least what it computes.
    assert simulated["low"] == simulated["high"] == simulated["seconds_per_step"]
    assert simulated["draws"] == 1
    assert simulated["seconds_per_step"] >= simulated["computed"] > 0.0
    main([*words, "--layout", "1x2x1"])
    assert "best: 1x2x1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gpus", "2"], "give --grid, such as 720x1440"),
        (
            ["--gpus", "2", "--grid", "32x64", "--machine", "abacus"],
            "the machine abacus is neither",
        ),
        (
            ["--gpus", "2", "--grid", "32x64", "--layout", "3x1x1"],
            "3x1x1 has 3 ranks, and the plan is for 2",
        ),
        (["--gpus", "2", "--grid", "32x64", "--layout", "3x1"], "is not data × domain × tensor"),
        (["--gpus", "2", "--grid", "32x64", "--scheme", "plan9"], "there is no scheme plan9"),
    ],
)
def test_a_plan_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("data:\n  store: absent.zarr\n", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(path), *options])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_the_fastest_mesh_that_fits_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = planner()
    choice = choose_mesh(base.config, base.architecture, world_size=4)
    assert choice.layout.data == 1 and choice.layout.world_size == 4
    assert choice.layout == choose_mesh(base.config, base.architecture, world_size=4).layout
    assert "predicted" in choice.reason and "1x" in choice.reason
    # The machine that the environment names: one on which every exchange takes a second.
    slow = find_machine("a100-40gb")
    link = slow.within_node.model_copy(update={"latency_seconds": 1.0})
    write_machine(slow.model_copy(update={"within_node": link}), tmp_path / "slow.yaml")
    monkeypatch.setenv(MACHINE_VARIABLE, str(tmp_path / "slow.yaml"))
    slow_choice = choose_mesh(base.config, base.architecture, world_size=4)
    planned = Planner(base.config, base.architecture, find_machine(str(tmp_path / "slow.yaml")))
    calls = {
        each.layout: each.step.calls for each in planned.plan(4).candidates if each.layout.data == 1
    }
    assert calls[slow_choice.layout] == min(calls.values())


def test_meshes_that_leave_small_scales_no_room_are_not_chosen() -> None:
    base = planner()
    network = replace(base.architecture, grid=(base.architecture.grid[0], 5), patch=(8, 1))
    parallel = base.config.parallel.model_copy(update={"data": 1, "domain": None, "tensor": None})
    config = base.config.model_copy(update={"parallel": parallel})
    small = config.training.model_copy(update={"small_scales": 0.1})
    with_them = config.model_copy(update={"training": small})

    def domains(training: Training | None) -> set[int]:
        return {
            each.domain
            for each in possible_layouts(parallel, network, world_size=4, training=training)
        }

    assert domains(config.training) == domains(None) == {1, 2, 4}
    assert domains(small) == {1, 2}
    assert choose_mesh(with_them, network, world_size=4).layout.domain <= 2
    assert choose_mesh(with_them, network, world_size=4, trains=False).layout.world_size == 4
    alone = parallel.model_copy(update={"domain": 4, "tensor": 1})
    with pytest.raises(LayoutError, match=r"training\.small_scales .* leaves a rank 1"):
        possible_layouts(alone, network, world_size=4, training=small)


def test_a_training_that_needs_more_memory_than_there_is_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = planner()
    tiny = find_machine("a100-40gb").model_copy(update={"memory_bytes": 1e6})
    write_machine(tiny, tmp_path / "tiny.yaml")
    monkeypatch.setenv(MACHINE_VARIABLE, str(tmp_path / "tiny.yaml"))
    with pytest.raises(ValueError, match="fits on no mesh of 2 ranks"):
        choose_mesh(base.config, base.architecture, world_size=2)
    # A forecast keeps nothing for a backward pass.
    assert choose_mesh(base.config, base.architecture, world_size=2, trains=False).warning is None


def test_blocks_are_recomputed_where_a_training_would_not_fit_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = planner()
    memory = {
        recompute: Planner(
            base.config.model_copy(
                update={
                    "training": base.config.training.model_copy(update={"recompute": recompute})
                }
            ),
            base.architecture,
            base.machine,
        )
        .candidate(Layout())
        .step.memory_bytes
        for recompute in ("none", "blocks")
    }
    assert memory["blocks"] < memory["none"]
    enough = (memory["blocks"] + memory["none"]) / 2 / SAFE_SHARE
    for held, recomputed in ((enough, "blocks"), (2 * enough, "none")):
        machine = find_machine("a100-40gb").model_copy(update={"memory_bytes": held})
        write_machine(machine, tmp_path / "machine.yaml")
        monkeypatch.setenv(MACHINE_VARIABLE, str(tmp_path / "machine.yaml"))
        choice = choose_mesh(base.config, base.architecture, world_size=1)
        assert choice.recompute == recomputed
        assert ("blocks recomputed" in choice.reason) == (recomputed == "blocks")


def test_ranks_have_the_threads_with_which_a_step_is_fastest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, machine = planner(), find_machine("processors")
    one, two, *_ = machine.computing
    assert (one.threads, two.threads) == (1, 2) and one.ranks == two.ranks == 1
    monkeypatch.setenv(MACHINE_VARIABLE, str(tmp_path / "machine.yaml"))
    for fastest in (1, 2):
        slow = {"launch_seconds": 1.0}
        computing = tuple(
            each if each.threads == fastest else each.model_copy(update=slow) for each in (one, two)
        )
        write_machine(
            machine.model_copy(update={"computing": computing}), tmp_path / "machine.yaml"
        )
        choice = choose_mesh(base.config, base.architecture, world_size=1, threads=2)
        assert choice.threads == fastest
        assert f"{fastest} thread" in choice.reason
        most = choose_mesh(base.config, base.architecture, world_size=1, threads=1)
        assert most.threads == 1

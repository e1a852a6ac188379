"""``bench scaling`` on two real ranks: what it measures, that it goes on, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.processes import Processes
from weathermixer.cli import main
from weathermixer.config import read_config
from weathermixer.console import progress
from weathermixer.data.making.synthetic import write_synthetic
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.planning.choosing import MACHINE_VARIABLE, make_planner
from weathermixer.planning.machine_files import find_machine, write_machine
from weathermixer.scaling.bench import Request, run_scaling
from weathermixer.scaling.measuring import STEPS_PER_ROUND
from weathermixer.training.loop import TrainingLoop

GRID = ["--grid", "8x16"]
# Steps that change the weights, so that later losses depend on all that is computed.
CONFIG = """
model: {patch: [2, 2], channels: 8, blocks: 1}
data: {store: absent.zarr, levels: [500]}
training: {instance_batch: 2, warmup_steps: 0, learning_rate: 0.01}
"""

# Weights and biases of one block of 8 channels over 32 tokens, encoder and decoder of patches of
# 4 points: 9 fields and 3 static ones in, 9 out.
MIXING = (32 * 64 + 64) + (64 * 32 + 32) + 2 * (8 * 8 + 8) + 2 * 2 * 8
PARAMETERS = (4 * 12 * 8 + 8) + MIXING + (2 * 8) + (16 * 36 + 36)

STARTED = Processes()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    STARTED.close()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def bench(config: Path, out: Path, *options: str) -> tuple[str, dict[str, Any]]:
    """The table as it is printed, and the record."""
    words = ["bench", "scaling", str(config), "--out", str(out), *GRID, *options]
    process = STARTED.begin("-m", "weathermixer", *words)
    text, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return text, json.loads((out / "scaling.json").read_text(encoding="utf-8"))


def check_as_planned(row: dict[str, Any], config: Path) -> None:
    """What was counted on the ranks is what ``plan`` says, on the same mesh."""
    settings = [
        f"--model.channels={row['channels']}",
        f"--training.dtype={row['dtype']}",
        f"--training.instance_batch={row['samples_per_step'] // row['mesh']['data']}",
    ]
    planner = make_planner(read_config(config, settings), grid=(8, 16))
    planned = planner.candidate(Layout(**row["mesh"])).to_json()
    assert row["operations_per_rank"] == planned["flops_per_rank"]
    assert row["bytes_sent"] == planned["bytes_sent_per_rank"]


@pytest.mark.exhaustive
def test_strong_scaling_is_measured_by_turns_and_goes_on_where_it_was_stopped(
    config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "strong"
    options = ("--kind", "strong", "--ranks", "1,2", "--rounds", "2")
    text, record = bench(config, out, *options)
    rows = {(row["contender"], row["ranks"]): row for row in record["rows"]}
    assert list(rows) == [("jigsaw", 1), ("plain", 1), ("jigsaw", 2), ("ddp", 2), ("fsdp", 2)]
    assert all(f"{name:10}" in text for name, _ in rows)
    for (contender, _), row in rows.items():
        assert row["kind"] == "strong" and row["machine"] == "processors"
        assert len(row["rounds"]) == 2
        assert all(len(each["seconds"]) == STEPS_PER_ROUND for each in row["rounds"])
        assert 0.0 < row["seconds_min"] <= row["seconds"] <= row["seconds_max"]
        assert row["predicted_seconds"] > 0.0
        if contender == "jigsaw":
            check_as_planned(row, config)
        elif contender == "ddp":
            # Each rank sends half of the gradients and gets back half of their means; the loss too.
            assert row["bytes_sent"] == 4 * PARAMETERS + 4
    # The same network learns from the same samples, whoever cuts it.
    losses = [each["loss"] for row in rows.values() for each in row["rounds"]]
    assert losses == [pytest.approx(losses[0], rel=1e-5)] * len(losses)
    for name in ("speed-up.svg", "efficiency.svg"):
        assert (out / name).read_text(encoding="utf-8").startswith("<?xml")

    # As if it had been stopped in its last round: the other rounds are kept as they are.
    record["rows"][3]["rounds"].pop()
    kept = [row["rounds"] for row in record["rows"]]
    (out / "scaling.json").write_text(json.dumps(record), encoding="utf-8")
    _, again = bench(config, out, *options)
    for row, before in zip(again["rows"], kept, strict=True):
        assert len(row["rounds"]) == 2
        assert row["rounds"][: len(before)] == before


@pytest.mark.exhaustive
def test_weak_scaling_has_replicas_and_a_wider_network(config: Path, tmp_path: Path) -> None:
    text, record = bench(
        config,
        tmp_path / "weak",
        "--kind",
        "weak",
        "--ranks",
        "1,2",
        "--read-rate",
        "1",
        "--rounds",
        "1",
    )
    rows = record["rows"]
    found = {(row["contender"], row["ranks"], row["growth"]) for row in rows}
    peers = {(name, 2, growth) for name in ("ddp", "fsdp") for growth in ("replicas", "width")}
    assert found == peers | {
        ("jigsaw", 1, None),
        ("plain", 1, None),
        ("jigsaw", 2, "replicas"),
        ("jigsaw", 2, "width"),
    }
    for row in rows:
        if row["contender"] == "jigsaw":
            check_as_planned(row, config)
        # Nine fields of 8 × 16, two states of each of two samples, at most 10⁶ bytes a second: of
        # one network on two ranks each reads half, up to one field more.
        share = 5 / 9 if row["contender"] == "jigsaw" and row["growth"] == "width" else 1.0
        samples = row["samples_per_step"] // row["mesh"]["data"]
        assert row["predicted_seconds"] >= 0.9 * share * 9 * 8 * 16 * 4 * 2 * samples / 1e6
    growing = [row for row in rows if row["growth"] == "replicas"]
    assert {row["samples_per_step"] for row in growing} == {4}
    assert "replicas" in text and "width" in text


@pytest.mark.exhaustive
def test_a_roofline_on_two_ranks_has_ceilings_in_each_arithmetic(
    config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "roofline"
    text, record = bench(config, out, "--kind", "roofline", "--ranks", "2", "--rounds", "1")
    dtypes = {"float64", "float32", "bfloat16"}
    assert {row["dtype"] for row in record["rows"]} == dtypes
    assert {row["channels"] for row in record["rows"]} == {8, 16}
    for row in record["rows"]:
        check_as_planned(row, config)
        assert row["speed_up"] is None and row["intensity"] > 0.0
        per_rank = row["operations_per_step"] / 2 / row["seconds"]
        assert row["operations_per_second"] == pytest.approx(per_rank)
    assert {ceiling["dtype"] for ceiling in record["ceilings"]} == dtypes
    assert all(ceiling["ranks"] == 2 and ceiling["peak"] > 0 for ceiling in record["ceilings"])
    assert "of the roof" in text
    assert (out / "roofline.svg").read_text(encoding="utf-8").startswith("<?xml")


def refused(capsys: pytest.CaptureFixture[str], config: Path, out: Path, *options: str) -> str:
    words = ["bench", "scaling", str(config), "--kind", "strong", "--ranks", "1", "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        main([*words, *options])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_requests_that_cannot_be_met_are_one_sentence(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    assert "give --grid, such as 720x1440" in refused(capsys, config, out)
    assert "is not numbers of ranks" in refused(capsys, config, out, *GRID, "--ranks", "1,x")
    (tmp_path / "file").touch()
    assert "choose another --out" in refused(capsys, config, tmp_path / "file", *GRID)
    tiny = find_machine("processors").model_copy(update={"memory_bytes": 1e4})
    write_machine(tiny, tmp_path / "tiny.yaml")
    monkeypatch.setenv(MACHINE_VARIABLE, str(tmp_path / "tiny.yaml"))
    assert "fits on no mesh of 1 ranks" in refused(capsys, config, out, *GRID)
    with progress("measuring") as update, pytest.raises(UserError, match="2 ranks, and 1 were"):
        run_scaling(Request(config, (), "strong", (1, 2), out, 1, (8, 16)), update)


@pytest.mark.exhaustive
def test_a_folder_of_another_experiment_is_refused_with_what_differs(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with progress("measuring") as update:
        run_scaling(Request(config, (), "strong", (1,), out, 1, (8, 16)), update)
    err = refused(capsys, config, out, *GRID, "--model.channels=16")
    assert "measured with other values of config.model.channels:" in err
    assert "other values of grid:" in refused(capsys, config, out, "--grid", "8x32")
    (out / "scaling.json").write_text("{}", encoding="utf-8")
    assert "is no record of a scaling experiment" in refused(capsys, config, out, *GRID)


def test_steps_on_a_store_are_those_of_a_training_there(config: Path, tmp_path: Path) -> None:
    store, out = tmp_path / "store.zarr", tmp_path / "out"
    write_synthetic(store, times=40, grid=(8, 16), levels=(500,))
    overrides = (f"--data.store={store}",)
    with progress("measuring") as update:
        run_scaling(Request(config, overrides, "strong", (1,), out, 1), update)
    record = json.loads((out / "scaling.json").read_text(encoding="utf-8"))
    with TrainingLoop.begin(read_config(config, overrides), tmp_path / "run") as loop:
        losses = [loop.step().loss for _ in range(1 + STEPS_PER_ROUND)]
    assert losses[-1] < 0.95 * losses[0]  # so that they depend on the weights
    for row in record["rows"]:
        (measured,) = row["rounds"]
        assert measured["loss"] == pytest.approx(losses[-1], rel=1e-5)

"""What `check` reports: every problem says where, what is wrong, and what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from support.waves import write_waves
from support.weatherbench import as_dataset, write_archive
from weathermixer import check as checking
from weathermixer.check import check
from weathermixer.config import read_config
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.planning.choosing import MACHINE_VARIABLE, make_planner
from weathermixer.planning.machine_files import find_machine, write_machine
from weathermixer.planning.step_memory import SAFE_SHARE
from weathermixer.training.trainer import train


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """A configuration file that fits its store of waves."""
    sections = {
        "model": {"patch": [4, 4], "channels": 16, "blocks": 2},
        "data": {
            "store": str(write_waves(tmp_path / "waves.zarr")),
            "variables": ["temperature", "2m_temperature"],
            "levels": [850],
            "static": ["land_sea_mask"],
        },
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(sections), encoding="utf-8")
    return path


def test_a_sound_configuration_has_no_problems(configuration: Path) -> None:
    assert check(configuration).problems == []


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("--data.levels=[500]", "data.variables"),
        ("--data.static=[soil_type]", "data.static"),
        ("--model.patch=[3,4]", "model.patch"),
        ("--model.overlap=5", "model.overlap"),
        ("--model.smoothing=5", "model.smoothing"),
        ("--data.step_hours=5", "data.step_hours"),
        ("--data.train=1990-01-01/1990-02-01", "data.train"),
        ("--data.store=absent.zarr", "data.store"),
        ("--parallel.domain=5", "parallel"),
        ("--parallel.tensor=3", "parallel"),
        (
            "--training.channel_weights={temperature: 0, 2m_temperature: 0}",
            "training.channel_weights",
        ),
        ("--checkpoint.best=geopotential_500", "checkpoint.best"),
    ],
)
def test_a_problem_says_what_is_wrong_and_what_to_do(
    configuration: Path, override: str, where: str
) -> None:
    problems = check(configuration, [override]).problems
    assert where in {problem.where for problem in problems}
    assert all(problem.what and problem.remedy for problem in problems)


def test_an_error_of_any_wording_is_reported_whole(
    configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("one clause alone")

    monkeypatch.setattr(checking, "check_step", refuse)
    (problem,) = check(configuration).problems
    assert (problem.where, problem.what) == ("data.step_hours", "one clause alone")
    assert problem.remedy


def test_what_is_wrong_with_the_file_is_a_problem_too(configuration: Path) -> None:
    with configuration.open("a", encoding="utf-8") as file:
        file.write("model: {channels: 16}\n")
    (problem,) = check(configuration).problems
    assert (problem.severity, problem.where) == ("error", "model")
    configuration.write_bytes(b"\x00\xff")
    assert check(configuration).to_json().keys() == {"problems"}


def test_a_store_that_cannot_be_opened_is_a_problem(configuration: Path) -> None:
    (problem,) = check(configuration, [f"--data.store={'x' * 300}"]).problems
    assert (problem.severity, problem.where) == ("error", "data.store")


def test_few_steps_need_no_other_setting(configuration: Path) -> None:
    assert check(configuration, ["--training.steps=20"]).problems == []
    assert check(configuration, ["--training.steps=1"]).problems == []


def test_what_comes_of_a_preset_is_said_to_come_of_it(configuration: Path) -> None:
    configuration.write_text(
        configuration.read_text(encoding="utf-8").replace("patch:\n  - 4\n  - 4", "dropout: 0.1"),
        encoding="utf-8",
    )
    problems = check(configuration, ["--preset=published"]).problems
    # The states are of the year 2000, which is in the published period of training.
    assert {problem.where for problem in problems} == {"model.patch", "data.validation"}
    assert all("default of preset: published" in problem.remedy for problem in problems)


@pytest.mark.parametrize(
    ("overrides", "where", "said"),
    [
        (["--training.steps=300", "--training.cycle_steps=500"], "training.cycle_steps", "500"),
        (["--training.final_learning_rate=1"], "training.final_learning_rate", "0.004"),
        (["--training.warmup_learning_rate=1"], "training.warmup_learning_rate", "0.004"),
        (["--training.rollout={0: 1, 5000: 2}"], "training.rollout", "2000 steps"),
        (["--training.cooldown_steps=20"], "training.cooldown_steps", "schedule is cosine"),
        (
            ["--training.schedule=cooldown", "--training.cooldown_steps=1901"],
            "training.cooldown_steps",
            "the 1900 steps after warm-up",
        ),
        (["--training.learning_rates={head: 1e-3}"], "training.learning_rates", "the head"),
        (["--training.huber_threshold=2"], "training.huber_threshold", "error is squared"),
        (["--training.validation_scores=[acc]"], "training.validation_scores", "no lead time"),
        (
            ["--training.channel_weights={temperature: 2, temperature_500: 3}"],
            "training.channel_weights",
            "lists 'temperature_500', which",
        ),
        (["--training.latent_rollout={0: 1, 5000: 1-2}"], "training.latent_rollout", "2000 steps"),
        (
            ["--training.members=2", "--training.error=crps"],
            "training.members",
            "all equal, since the network has neither noise nor dropout",
        ),
        (["--model.noise=2"], "model.noise", "training.members is 1"),
        (["--training.recompute=stages"], "training.recompute", "nothing is computed again"),
        (
            [
                "--parallel.exchange_dtype=bfloat16",
                "--parallel.domain=1",
                "--parallel.tensor=1",
            ],
            "parallel.exchange_dtype",
            "exchanges nothing within it",
        ),
        (
            ["--parallel.exchange_dtype=bfloat16", "--training.dtype=bfloat16"],
            "parallel.exchange_dtype",
            "all that a model instance exchanges",
        ),
        (
            ["--data.variables=2m_temperature", "--data.levels=500"],
            "data.levels",
            "changes nothing",
        ),
    ],
)
def test_a_setting_that_cannot_do_what_it_is_for_is_warned_about(
    configuration: Path, overrides: list[str], where: str, said: str
) -> None:
    problems = check(configuration, overrides).problems
    warnings = {problem.where: problem.what for problem in problems if problem.severity != "error"}
    assert said in warnings[where]


def test_a_rate_of_the_head_is_that_of_smoothing_too(configuration: Path) -> None:
    overrides = ["--model.smoothing=1", "--training.learning_rates={head: 1e-3}"]
    assert check(configuration, overrides).problems == []


@pytest.mark.parametrize(("parallel", "factor"), [("domain", 2), ("tensor", 2)])
def test_a_store_whose_chunks_make_ranks_read_more_than_their_share_is_named_with_the_factor(
    configuration: Path, parallel: str, factor: int
) -> None:
    # A state of 2 channels by 16 longitudes is small enough for one chunk.
    (problem,) = check(configuration, [f"--parallel.{parallel}={factor}"]).problems
    assert (problem.severity, problem.where) == ("warning", "data.store")
    assert f"up to {factor} times its share of each state, 1.02 kB instead of" in problem.what
    assert "--ways" in problem.remedy


def test_the_memory_that_reading_takes_is_stated(configuration: Path) -> None:
    overrides = ["--training.instance_batch=3", "--training.rollout=2", "--training.dtype=float64"]
    state_bytes = 2 * 8 * 16 * 8
    found = check(configuration, overrides).buffer_bytes
    assert found is not None
    # Of batches of 3 samples of 3 states: one in use, two ahead, one begun. Of states: what two
    # threads hold.
    assert 4 * 9 * state_bytes < found <= (4 * 9 + 6) * state_bytes
    halved = check(configuration, [*overrides, "--parallel.domain=2"]).buffer_bytes
    assert halved == found // 2
    assert check(configuration, ["--model.patch=[3,4]"]).buffer_bytes is None


def archive_without(tmp_path: Path, part: tuple[slice | int, ...]) -> str:
    """An archive of 40 times, six hours apart, that lacks a part of each field at 2 m and above."""
    dataset = as_dataset(Store.open(write_waves(tmp_path / "whole.zarr", times=40)))
    dataset["2m_temperature"].values[part] = np.nan
    dataset["temperature"].values[(part[0], slice(None), *part[1:])] = np.nan
    return write_archive(dataset, tmp_path / "archive.zarr", time=1)


def test_times_that_hold_nothing_are_told_before_a_training(
    configuration: Path, tmp_path: Path
) -> None:
    archive = archive_without(tmp_path, (slice(32, None),))
    (problem,) = check(configuration, [f"--data.store={archive}", "--data.static=[]"]).problems
    assert problem.severity == "warning"
    assert "times after 2001-01-08T18:00:00 hold nothing" in problem.what


@pytest.mark.parametrize(
    ("first", "severity", "where"),
    [(36, "warning", "data.validation"), (30, "error", "data.train")],
)
def test_states_that_are_needed_late_are_read_early(
    configuration: Path, tmp_path: Path, first: int, severity: str, where: str
) -> None:
    archive = archive_without(tmp_path, (slice(first, None), 0, 0))
    overrides = [f"--data.store={archive}", "--data.static=[]"]
    validation = "--data.validation=2001-01-09/2001-01-10"
    problems = check(configuration, [*overrides, validation]).problems
    (problem,) = (problem for problem in problems if problem.where == where)
    assert problem.severity == severity
    assert "temperature_850 at 2001-01" in problem.what


def test_what_does_not_fit_into_memory_is_found_on_the_machine_that_is_named(
    configuration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = find_machine("h100").model_copy(update={"memory_bytes": 1e5})
    write_machine(small, tmp_path / "small.yaml")
    monkeypatch.setenv(MACHINE_VARIABLE, str(tmp_path / "small.yaml"))
    (problem,) = check(configuration).problems
    assert problem.severity == "error" and "fits on no mesh of 1 ranks" in problem.what
    assert "use more ranks" in problem.what


def test_what_only_a_late_rollout_has_no_memory_for_is_found_before_the_training(
    configuration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = make_planner(read_config(configuration, ["--training.recompute=none"])).candidate(
        Layout()
    )
    machine = find_machine("h100").model_copy(
        update={"memory_bytes": 1.1 * now.step.memory_bytes / SAFE_SHARE}
    )
    write_machine(machine, tmp_path / "machine.yaml")
    monkeypatch.setenv(MACHINE_VARIABLE, str(tmp_path / "machine.yaml"))
    assert not check(configuration, ["--training.rollout=1"]).problems
    late = ["--training.rollout={0: 1, 1900: 1-6}", "--training.recompute=none"]
    (problem,) = check(configuration, late).problems
    assert problem.severity == "error" and "fits on no mesh of 1 ranks" in problem.what
    with pytest.raises(UserError, match="fits on no mesh of 1 ranks"):
        train(read_config(configuration, late), tmp_path / "run")

"""Ranks that compare settings before they begin."""

from __future__ import annotations

from pathlib import Path

from support.processes import Processes
from support.ranked import RANKED
from weathermixer.config import Config
from weathermixer.launch.consistency import disagreement, settings_of


def test_ranks_that_would_train_differently_are_told_where(
    processes: Processes, tmp_path: Path
) -> None:
    status, out, err = processes.run(RANKED, "work", "disagree", tmp_path, "--nproc", "2")
    assert (status, out) == (2, "")
    assert err.splitlines()[-1] == (
        "Error: training.seed is 0 on rank 0 and 1 on rank 1: start every rank with the same "
        "configuration, data and software"
    )


def test_the_first_difference_names_the_key_the_ranks_and_two_values() -> None:
    same = {"a": "1", "b": "2"}
    assert disagreement([same, same]) is None
    said = disagreement([same, {"a": "1"}, {"a": "1", "b": "3"}, same])
    assert said is not None
    assert said.startswith("b is 2 on ranks 0, 3 and not set on rank 1:")


def test_settings_have_the_keys_of_the_command_line() -> None:
    settings = settings_of(Config.model_validate({"data": {"store": "s.zarr"}}))
    assert settings["data.store"] == "s.zarr"
    assert settings["parallel.data"] == "1"
    assert settings["model.patch"].startswith("[")

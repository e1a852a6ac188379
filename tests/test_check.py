"""What `check` reports: every problem says where, what is wrong, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from waves import write_waves
from weathermixer import check
from weathermixer.check import find_problems
from weathermixer.errors import UserError


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
    path.write_text(yaml.safe_dump(sections))
    return path


def test_a_sound_configuration_has_no_problems(configuration: Path) -> None:
    assert find_problems(configuration) == []


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("--data.levels=[500]", "data.variables"),
        ("--data.static=[soil_type]", "data.static"),
        ("--model.patch=[3,4]", "model.patch"),
        ("--data.step_hours=5", "data.step_hours"),
        ("--data.train=1990-01-01/1990-02-01", "data.train"),
        ("--data.store=absent.zarr", "data.store"),
        ("--parallel.domain=5", "parallel"),
        ("--parallel.tensor=3", "parallel"),
    ],
)
def test_a_problem_says_what_is_wrong_and_what_to_do(
    configuration: Path, override: str, where: str
) -> None:
    problems = find_problems(configuration, [override])
    assert where in {problem.where for problem in problems}
    assert all(problem.what and problem.remedy for problem in problems)


def test_an_error_of_any_wording_is_reported_whole(
    configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("one clause alone")

    monkeypatch.setattr(check, "check_step", refuse)
    (problem,) = find_problems(configuration)
    assert (problem.where, problem.what) == ("data.step_hours", "one clause alone")
    assert problem.remedy

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weathermixer.config import (
    Config,
    Problem,
    Training,
    parse_config,
    parse_period,
    read_config,
    write_config,
)
from weathermixer.errors import UserError


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("data: {store: planet.zarr}\n")
    return path


def problems_of(path: Path, *overrides: str) -> list[Problem]:
    found = parse_config(path, overrides)
    assert isinstance(found, list)
    return found


def test_every_key_but_the_store_has_a_default(minimal: Path, tmp_path: Path) -> None:
    assert read_config(minimal).data.store == Path("planet.zarr")
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    assert [problem.where for problem in problems_of(empty)] == ["data"]


def test_overrides_on_the_command_line_win_over_the_file(minimal: Path) -> None:
    config = read_config(
        minimal,
        ["--training.steps=300", "model.patch=[2, 8]", "--training.rollout={0: 1, 200: 2}"],
    )
    assert config.training.steps == 300
    assert config.model.patch == (2, 8)
    assert [config.training.rollout_at(step) for step in (0, 199, 200, 299)] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("override", "where", "said"),
    [
        ("--model.chanels=3", "model.chanels", "did you mean model.channels?"),
        ("--training.dtype=int8", "training.dtype", "'float64', 'float32' or 'bfloat16'"),
        ("--training.steps=-1", "training.steps", "-1 is impossible"),
        ("--training.steps=many", "training.steps", "'many' is impossible"),
        ("--model.patch=[4]", "model.patch", "impossible"),
        ("--training.rollout=often", "training.rollout", "'often' is impossible"),
        ("--data.train=2001", "data.train", "impossible"),
        ("--data.train=2002-01-01/2001-01-01", "data.train", "ends before it starts"),
        ("--training.warmup_steps=5000", "training", "must be below steps"),
        ("--training.rollout={5: 2}", "training.rollout", "from step 0"),
        ("--nonsense.key=1", "nonsense", "there is no such key"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(
    minimal: Path, override: str, where: str, said: str
) -> None:
    (problem,) = problems_of(minimal, override)
    assert problem.where == where
    assert said in problem.sentence()
    assert "\n" not in problem.sentence()


def test_all_problems_are_found_at_once(minimal: Path) -> None:
    found = problems_of(minimal, "--model.blocks=0", "--model.channels=0", "--training.seed=-1")
    assert {problem.where for problem in found} == {
        "model.blocks",
        "model.channels",
        "training.seed",
    }


def test_files_and_overrides_that_are_no_configuration_are_refused(
    minimal: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        read_config(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("data: [")
    with pytest.raises(UserError, match="not valid YAML"):
        read_config(broken)
    broken.write_text("3")
    with pytest.raises(UserError, match="must hold sections"):
        read_config(broken)
    with pytest.raises(UserError, match=r"write --section.key=value"):
        read_config(minimal, ["--fast"])
    with pytest.raises(UserError, match=r"--model\.channels='\[3'.*not valid YAML"):
        read_config(minimal, ["--model.channels=[3"])


def test_a_saved_configuration_reads_back_equal(minimal: Path, tmp_path: Path) -> None:
    config = read_config(minimal, ["--training.rollout={0: 1, 9: 2}", "--preset=published"])
    saved = tmp_path / "saved.yaml"
    write_config(config, saved)
    assert read_config(saved) == config


def test_the_published_preset_gives_way_to_what_is_set(minimal: Path) -> None:
    config = read_config(minimal, ["--preset=published", "--model.channels=96"])
    assert config.model.channels == 96
    assert config.model.prediction == "state"
    assert config.training.loss == "published"
    assert (config.training.learning_rate, config.training.edge_learning_rate) == (1e-4, 2e-5)


def test_a_period_includes_both_of_its_ends() -> None:
    start, stop = parse_period("1979-01-01/2016-12-31")
    assert start == np.datetime64("1979-01-01T00:00:00")
    assert stop == np.datetime64("2016-12-31T23:59:59")
    assert parse_period("2001-01-01/2001-01-02T06")[1] == np.datetime64("2001-01-02T06:59:59")


@given(st.dictionaries(st.integers(1, 50), st.integers(1, 4)), st.integers(0, 60))
def test_the_rollout_length_is_that_of_the_last_entry_reached(
    later: dict[int, int], step: int
) -> None:
    training = Training(rollout={0: 1, **later})
    expected = 1
    for start in sorted(later):
        if start <= step:
            expected = later[start]
    assert training.rollout_at(step) == expected
    assert training.longest_rollout == max([1, *later.values()])


def test_every_setting_says_what_it_means() -> None:
    for section in Config.model_fields.values():
        fields = getattr(section.annotation, "model_fields", {"": section})
        assert all(field.description for field in fields.values())

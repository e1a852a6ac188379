from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weathermixer.config import (
    LEVELS_HPA,
    STATIC_NAMES,
    VARIABLE_NAMES,
    Config,
    Problem,
    Training,
    parse_config,
    read_config,
)
from weathermixer.config.variables import PRESSURE_LEVEL_NAMES
from weathermixer.data import channels


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
    assert [problem.where for problem in problems_of(empty)] == ["data.store"]


def test_overrides_on_the_command_line_win_over_the_file(minimal: Path) -> None:
    config = read_config(
        minimal,
        ["--training.steps=300", "model.patch=[2, 8]", "--training.rollout={0: 1, 200: 2}"],
    )
    assert config.training.steps == 300
    assert config.model.patch == (2, 8)
    assert [config.training.lengths_at(step).rollout for step in (0, 199, 200, 299)] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("override", "where", "said"),
    [
        ("--model.chanels=3", "model.chanels", "did you mean model.channels?"),
        ("--training.dtype=int8", "training.dtype", "'float64', 'float32', 'tf32' or 'bfloat16'"),
        ("--training.steps=-1", "training.steps", "-1 is impossible"),
        ("--training.steps=many", "training.steps", "'many' is impossible"),
        ("--model.patch=[4]", "model.patch", "impossible"),
        ("--training.rollout=often", "training.rollout", "'often' is impossible"),
        ("--data.train=2001", "data.train", "impossible"),
        ("--data.train=2002-01-01/2001-01-01", "data.train", "ends before it starts"),
        ("--training.warmup_steps=5000", "training.warmup_steps", "below training.steps (2000)"),
        ("--training.rollout={5: 2}", "training.rollout", "from step 0"),
        ("--logging.profile=12-10", "logging.profile", "give the first before the last"),
        ("--logging.profile=0", "logging.profile", "count steps from 1"),
        ("--logging.profile=soon", "logging.profile", "FIRST-LAST"),
        ("--logging.mlflow=https://me:word@host", "logging.mlflow", "holds a password, which"),
        ("--training.spike_factor=1", "training.spike_factor", "1 is impossible"),
        ("--training.channel_weights={temperature_x: 2}", "training.channel_weights", "mean temp"),
        ("--training.learning_rates={neck: 1e-3}", "training.learning_rates", "'head'"),
        ("--training.channel_weights={temperature: -2}", "training.channel_weights", "at least 0"),
        ("--nonsense.key=1", "nonsense.key", "there is no such key"),
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


@given(st.dictionaries(st.integers(1, 50), st.integers(1, 4)), st.integers(0, 60))
def test_the_rollout_length_is_that_of_the_last_entry_reached(
    later: dict[int, int], step: int
) -> None:
    training = Training(rollout={0: 1, **later})
    expected = 1
    for start in sorted(later):
        if start <= step:
            expected = later[start]
    assert training.lengths_at(step) == (expected, 1)
    assert training.longest.rollout == max([1, *later.values()])


def test_every_setting_says_what_it_means() -> None:
    for section in Config.model_fields.values():
        fields = getattr(section.annotation, "model_fields", {"": section})
        assert all(field.description for field in fields.values())


def test_names_and_levels_stand_once() -> None:
    assert tuple(channels.PROGNOSTIC_VARIABLES) == VARIABLE_NAMES
    assert tuple(channels.STATIC_VARIABLES) == STATIC_NAMES
    assert tuple(channels.PRESSURE_VARIABLES) == PRESSURE_LEVEL_NAMES
    assert channels.LEVELS_HPA is LEVELS_HPA


@pytest.mark.parametrize(
    ("override", "where", "said"),
    [
        ("--data.levels=[500, 850, 500]", "data.levels", "lists 500 twice"),
        ("--data.variables=[temperature, temperature]", "data.variables", "'temperature' twice"),
        ("--data.static=soil_type,soil_type", "data.static", "lists 'soil_type' twice"),
        ("--training.rollout={0: 1, 0: 2}", "training.rollout.0", "is set twice"),
        ("--training.rollout={0: 1, 0.0: 2}", "training.rollout.0.0", "is set twice"),
        ("--training.rollout={0: 1, '0': 2}", "training.rollout.0", "is set twice"),
    ],
)
def test_an_entry_that_is_repeated_is_named(
    minimal: Path, override: str, where: str, said: str
) -> None:
    (problem,) = problems_of(minimal, override)
    assert problem.where == where
    assert said in problem.what


@pytest.mark.parametrize(
    ("override", "where", "said"),
    [
        ("--data.variables=temprature", "data.variables", "did you mean temperature?"),
        ("--data.variables=[temperature_850]", "data.variables", "did you mean temperature?"),
        ("--data.variables=xyz", "data.variables", "choose among geopotential, "),
        ("--data.variables=soil_type", "data.variables", "list soil_type in data.static"),
        ("--data.static=temperature", "data.static", "list temperature in data.variables"),
        ("--data.static=land_mask", "data.static", "did you mean land_sea_mask?"),
        ("--data.variables=[]", "data.variables", "lists no variable"),
        ("--data.levels=[]", "data.levels", "lists no level"),
    ],
)
def test_a_name_that_nothing_has_is_refused_with_what_is_near(
    minimal: Path, override: str, where: str, said: str
) -> None:
    (problem,) = problems_of(minimal, override)
    assert problem.where == where
    assert said in problem.sentence()


def test_levels_may_be_none_where_no_variable_has_any(minimal: Path) -> None:
    config = read_config(minimal, ["--data.variables=2m_temperature", "--data.levels=[]"])
    assert config.data.levels == ()


@pytest.mark.parametrize(
    "override",
    [
        "--training.steps=true",
        "--training.learning_rate=false",
        "--model.patch=[true, 4]",
        "--training.rollout={0: true}",
        "--data.levels=[true]",
    ],
)
def test_true_and_false_are_not_taken_for_one_and_zero(minimal: Path, override: str) -> None:
    (problem,) = problems_of(minimal, override)
    assert problem.where == override.removeprefix("--").partition("=")[0]
    assert "is impossible" in problem.what


@pytest.mark.parametrize("word", ["yes", "on", "true", "True"])
def test_a_switch_understands_the_usual_words(minimal: Path, word: str) -> None:
    assert read_config(minimal, [f"--training.compile={word}"]).training.compile is True


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.learning_rate", ".inf"),
        ("training.clip_norm", ".nan"),
        ("training.weight_decay", "1e999"),
        ("model.token_hidden", "1e308"),
        ("data.step_hours", "1e300"),
        ("data.step_hours", "1e-9"),
        ("training.steps", "9" * 5000),
        ("training.rollout", "1000000000000"),
        ("parallel.domain", "1000000000"),
    ],
)
def test_numbers_beyond_any_use_are_refused(minimal: Path, key: str, value: str) -> None:
    (problem,) = problems_of(minimal, f"--{key}={value}")
    assert problem.where == key
    assert len(problem.sentence()) < 200


def test_a_message_shows_no_whole_section(minimal: Path) -> None:
    minimal.write_text("data: {store: s}\ntraining: [" + ", ".join(["1"] * 500) + "]\n")
    (problem,) = problems_of(minimal)
    assert problem.where == "training"
    assert "is a section" in problem.what
    assert len(problem.sentence()) < 250


def test_a_store_in_the_home_folder_is_found(
    minimal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    config = read_config(minimal, ["--data.store=~/era5.zarr"])
    assert config.data.store == Path("/home/somebody/era5.zarr")

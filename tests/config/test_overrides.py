"""What may be written behind CONFIG on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from weathermixer.config import Config, parse_config, read_config
from weathermixer.errors import UserError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("data: {store: planet.zarr}\ntraining: {seed: 7}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "words",
    [
        ["--training.steps=300"],
        ["--training.steps", "300"],
        ["training.steps=300"],
        ["--training.steps='300'"],
        ["--training.steps=3e2"],
        ["--training={steps: 300}"],
        ["--training.steps=300", "--training.steps=300"],
    ],
)
def test_a_setting_can_be_written_in_several_ways(file: Path, words: list[str]) -> None:
    assert read_config(file, words).training.steps == 300
    assert read_config(file, words).training.seed == 7


@pytest.mark.parametrize("text", ["500,850", "500, 850", "[500, 850]", "[500,850]"])
def test_a_list_needs_no_brackets(file: Path, text: str) -> None:
    assert read_config(file, [f"--data.levels={text}"]).data.levels == (500, 850)
    assert read_config(file, ["--data.levels=500"]).data.levels == (500,)


@pytest.mark.parametrize(
    ("text", "store"),
    [
        ("2020", "2020"),
        ("1e5", "1e5"),
        ("yes", "yes"),
        ("a #b", "a #b"),
        ("[x", "[x"),
        ("key: value", "key: value"),
        ("'quoted'", "quoted"),
        ("gs://bucket//a", "gs://bucket//a"),
    ],
)
def test_a_path_is_text_whatever_it_looks_like(file: Path, text: str, store: str) -> None:
    assert str(read_config(file, [f"--data.store={text}"]).data.store) == store


def test_a_period_is_unset_by_null(file: Path) -> None:
    words = ["--preset=published", "--data.train=null"]
    assert read_config(file, words).data.train is None


@pytest.mark.parametrize(
    ("words", "where", "said"),
    [
        (["--training.steps="], "training.steps", "has no value; write --training.steps=VALUE"),
        (["--training.steps"], "training.steps", "has no value"),
        (["--training.steps", "--training.seed=3"], "training.steps", "has no value"),
        (["--training="], "training", "has no value"),
        (["--training=5"], "training", "is a section, and 5 is none"),
        (["--training=null"], "training", "is a section"),
        (["--training.seed", "-1"], "training.seed", "-1 is impossible; give at least 0"),
        (["--trainig.steps=5"], "trainig.steps", "did you mean training.steps?"),
        (["--steps=5"], "steps", "did you mean training.steps?"),
        (["--training.channels=5"], "training.channels", "did you mean model.channels?"),
        (["--training.rollout.400=2"], "training.rollout.400", "did you mean training.rollout?"),
        (["--training.steps=2", "training.steps=3"], "training.steps", "twice, as '2' and '3'"),
        (["--training={steps: 2, steps: 3}"], "training.steps", "is set twice"),
        (["--model.channels=[3"], "model.channels", "'[3' is not valid YAML"),
        (["--model.channels=!!python/name:os.system x"], "model.channels", "the tag"),
        (["--preset=publised"], "preset", "choose 'increment' or 'published'"),
        (["--training.rollout={0:1,400:2}"], "training.rollout", "no space after the colon"),
        (["--fast"], "'--fast'", "write --section.key=value"),
        (["300"], "'300'", "write --section.key=value"),
        (["--=3"], "'--=3'", "write --section.key=value"),
        (["--training..steps=3"], "'--training..steps=3'", "write --section.key=value"),
    ],
)
def test_what_cannot_be_done_is_said_of_the_key_that_was_written(
    file: Path, words: list[str], where: str, said: str
) -> None:
    problems = parse_config(file, words)
    assert not isinstance(problems, Config)
    (problem,) = problems
    assert problem.where == where
    assert said in problem.sentence()
    with pytest.raises(UserError):
        read_config(file, words)


def test_overrides_beneath_give_way_to_others(file: Path) -> None:
    beneath = ["training.seed=1", "training.steps=200"]
    training = read_config(file, ["--training.steps=300"], base_overrides=beneath).training
    assert (training.seed, training.steps) == (1, 300)

"""The JSON Schema agrees with the program, as far as a schema can."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from weathermixer.cli import main
from weathermixer.config import Config, parse_config, settings
from weathermixer.config.commented import commented_config
from weathermixer.config.schema import config_schema
from weathermixer.config.yaml_files import parse_yaml

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = Draft202012Validator(config_schema())


def accepts(text: str) -> bool:
    """Whether the schema takes a file, which it sees as an editor does, with keys as text."""
    values, problems = parse_yaml(text, "a test", verbatim=frozenset())
    assert problems == []
    return SCHEMA.is_valid(json.loads(json.dumps(values)))


def test_it_is_a_schema_and_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    Draft202012Validator.check_schema(config_schema())
    main(["schema"])
    assert json.loads(capsys.readouterr().out) == config_schema()


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.yaml")), ids=lambda path: path.name)
def test_it_takes_every_example(path: Path) -> None:
    assert accepts(path.read_text(encoding="utf-8"))


def test_it_takes_what_init_writes_and_what_a_run_holds() -> None:
    text = commented_config({"data": {"store": "planet.zarr"}}, ["a configuration"])
    assert accepts(text)  # with sections of which every key is commented out
    config = Config.model_validate({"data": {"store": "planet.zarr"}})
    assert SCHEMA.is_valid(config.model_dump(mode="json"))


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "data:",
        "data: {store: s, chanels: 3}",
        "data: {store: s}\nmodle: {}",
        "data: {store: s}\nmodel: {blocks: 0}",
        "data: {store: s}\nmodel: {blocks: two}",
        "data: {store: s}\nmodel: {dropout: 1}",
        "data: {store: s}\nmodel: {patch: [4]}",
        "data: {store: s, variables: [temprature]}",
        "data: {store: s, static: [temperature]}",
        "data: {store: s, step_hours: 0}",
        "data: {store: s}\ntraining: {dtype: int8}",
        "data: {store: s}\ntraining: {seed: 18446744073709551616}",
        "data: {store: s}\ntraining: {rollout: {0: 0}}",
        "data: {store: s}\npreset: other",
        "data: {store: s}\nlogging: {tensorboard: 3}",
        "[data]",
    ],
)
def test_it_refuses_what_the_program_refuses(text: str) -> None:
    assert isinstance(parse_config(Path("c.yaml"), text=text), list)
    assert not accepts(text)


@pytest.mark.parametrize(
    "text",
    [
        "data: {store: gs://bucket/era5.zarr}\nmodel:\ntraining:",
        "data: {store: s, levels: 500, variables: temperature}",
        "data: {store: s, levels: '500, 850', train: 2020-01-01/2020-12-31, validation: null}",
        "data: {store: s}\nmodel: {patch: '2, 8'}",
        "data: {store: s}\ntraining: {rollout: {0: 1, 40: 1-4}, recompute: true}",
        "data: {store: s}\ntraining: {rollout: 1-4, learning_rate: 1e-4}",
        "data: {store: s}\nlogging: {profile: [3, 10-12]}",
        "data: {store: s}\nlogging: {profile: 3}",
    ],
)
def test_it_takes_every_form_in_which_a_value_may_be_written(text: str) -> None:
    assert isinstance(parse_config(Path("c.yaml"), text=text), Config)
    assert accepts(text)


def test_every_setting_has_its_meaning_and_its_default() -> None:
    schema: dict[str, Any] = config_schema()
    for key, default, meaning in settings():
        section, _, name = key.rpartition(".")
        properties = schema["$defs"][section.capitalize()] if section else schema
        described = properties["properties"][name]
        assert described["description"] == meaning
        assert ("default" in described) == (default != "required")

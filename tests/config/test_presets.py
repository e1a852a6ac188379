"""Defaults give way to what the user set, in both presets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as limited
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from weathermixer.config import (
    DIAGNOSTIC_NAMES,
    FORCING_NAMES,
    STATIC_NAMES,
    VARIABLE_NAMES,
    Config,
    Training,
    read_config,
    settings,
    write_config,
)
from weathermixer.config.schema import config_schema

SCHEMA = Draft202012Validator(config_schema())
PRESETS = ("increment", "published")
STEPS = {"increment": 2000, "published": 5_607_520}
WARM_UP = {"increment": 100, "published": 55_520}


def configured(preset: str, **sections: Mapping[str, Any]) -> Config:
    data = {"store": "s", **sections.pop("data", {})}
    return Config.model_validate({"preset": preset, "data": data, **sections})


@pytest.mark.parametrize("preset", PRESETS)
@given(steps=st.integers(1, 200_000))
def test_any_number_of_steps_has_a_warm_up_that_fits(preset: str, steps: int) -> None:
    training = configured(preset, training={"steps": steps}).training
    assert training.warmup_steps < steps
    if steps > WARM_UP[preset]:
        assert training.warmup_steps == WARM_UP[preset]
        assert training.cycle_steps == (5_552_000 if preset == "published" else None)
    else:
        assert training.warmup_steps == steps // 10
        assert training.cycle_steps is None


def test_steps_that_are_given_as_text_count_too() -> None:
    assert Training.model_validate({"steps": "20"}).warmup_steps == 2
    assert Training(steps=20).warmup_steps == 2


def test_warm_up_that_was_set_stays_as_it_is() -> None:
    training = configured("published", training={"steps": 2000, "warmup_steps": 7}).training
    assert (training.warmup_steps, training.cycle_steps) == (7, 5_552_000)
    with pytest.raises(ValueError, match=r"below training.steps \(20\)"):
        Training(steps=20, warmup_steps=20)


@pytest.mark.parametrize("preset", PRESETS)
@given(highest=st.floats(1e-12, 10.0))
def test_no_default_rate_is_above_the_one_that_was_set(preset: str, highest: float) -> None:
    training = configured(preset, training={"learning_rate": highest}).training
    usual = configured(preset).training
    for name in ("warmup_learning_rate", "final_learning_rate", "edge_learning_rate"):
        rate, default = getattr(training, name), getattr(usual, name)
        assert rate == (None if default is None else min(default, highest))


def test_a_rate_that_was_set_stays_as_it_is() -> None:
    chosen = {"learning_rate": 1e-7, "final_learning_rate": 1e-3, "edge_learning_rate": 1e-2}
    training = configured("published", training=chosen).training
    assert training.model_dump(include=set(chosen)) == chosen


@pytest.mark.parametrize(
    ("chosen", "train", "validation"),
    [
        ({}, "1979-01-01/2016-12-31T18", "2018-01-01/2018-12-31T18"),
        ({"train": "2000-01-01/2010-12-31"}, None, "2018-01-01/2018-12-31T18"),
        ({"train": "2017-06-01/2019-12-31"}, None, None),
        ({"validation": "2017-01-01/2017-12-31"}, "1979-01-01/2016-12-31T18", None),
        ({"validation": "2010-01-01/2010-12-31"}, None, None),
        ({"train": None}, None, "2018-01-01/2018-12-31T18"),
    ],
)
def test_a_published_period_that_overlaps_the_chosen_one_is_left_out(
    chosen: dict[str, Any], train: str | None, validation: str | None
) -> None:
    data = configured("published", data=chosen).data
    assert data.train == chosen.get("train", train)
    assert data.validation == chosen.get("validation", validation)


def test_the_published_preset_gives_way_to_what_is_set() -> None:
    config = configured("published", model={"channels": 96})
    assert config.model.channels == 96
    assert config.model.prediction == "state"
    assert config.training.loss == "published"
    assert (config.training.learning_rate, config.training.edge_learning_rate) == (1e-4, 2e-5)


def test_the_published_configuration_of_a_section_without_values_is_whole() -> None:
    whole = Config.model_validate({"preset": "published", "data": {"store": "s"}})
    empty = {"preset": "published", "data": {"store": "s"}, "model": None, "training": {}}
    assert Config.model_validate(empty) == whole


def _values(*, most_steps: int) -> dict[str, st.SearchStrategy[Any]]:
    """Every setting with the values that it may have beside the defaults of all others."""
    counts = st.integers(1, 10**6)
    rates = st.floats(1e-12, 1e3)
    fractions = st.floats(0.0, 1.0, exclude_max=True)
    lengths = st.integers(1, 100) | st.integers(1, 50).map(lambda first: f"{first}-{2 * first}")
    schedules = lengths | st.dictionaries(counts, lengths).map(lambda later: {0: 1, **later})
    periods = st.tuples(st.dates(), st.dates()).map(sorted).map(lambda d: f"{d[0]}/{d[1]}")
    return {
        "preset": st.sampled_from(PRESETS),
        "model.prediction": st.sampled_from(["increment", "state"]),
        "model.patch": st.tuples(counts, counts).map(list),
        "model.channels": counts,
        "model.blocks": counts,
        "model.token_hidden": st.floats(1e-6, 1000.0),
        "model.channel_hidden": st.floats(1e-6, 1000.0),
        "model.dropout": fractions,
        "model.noise": st.integers(0, 10**6),
        "model.local_noise": st.integers(0, 10**6),
        "model.overlap": st.integers(0, 1),  # within a patch of any size
        "model.smoothing": st.integers(0, 1),
        "data.store": st.text("abn: #é'0", min_size=1)
        | st.sampled_from(["gs://a//b", "1e5", "on"]),
        "data.reader": st.sampled_from(["zarr", "tensorstore"]),
        "data.variables": st.lists(st.sampled_from(VARIABLE_NAMES), min_size=1, unique=True),
        "data.diagnostic": st.lists(st.sampled_from(DIAGNOSTIC_NAMES), unique=True),
        "data.levels": st.lists(st.integers(1, 1100), min_size=1, unique=True),
        "data.static": st.lists(st.sampled_from(STATIC_NAMES), unique=True),
        "data.forcings": st.lists(st.sampled_from(FORCING_NAMES), unique=True),
        "data.step_hours": st.floats(0.001, 8784.0),
        "data.input_times": st.integers(1, 100),
        "data.train": st.none() | periods,
        "data.validation": st.none() | periods,
        "parallel.data": st.integers(1, 100_000),
        "parallel.domain": st.none() | st.integers(1, 100_000),
        "parallel.tensor": st.none() | st.integers(1, 100_000),
        "parallel.shard_optimizer": st.booleans(),
        "parallel.gradient_dtype": st.none() | st.just("bfloat16"),
        "parallel.exchange_dtype": st.none() | st.just("bfloat16"),
        "training.steps": counts,
        "training.seed": st.integers(0, 2**64 - 1),
        "training.dtype": st.sampled_from(["float64", "float32", "tf32", "bfloat16"]),
        "training.recompute": st.none() | st.sampled_from(["none", "blocks", "stages"]),
        "training.compile": st.booleans(),
        "training.instance_batch": counts,
        "training.micro_batch": st.none() | st.just(1),
        "training.rollout": schedules,
        "training.latent_rollout": schedules,
        "training.loss": st.sampled_from(["increment", "area", "published"]),
        "training.error": st.sampled_from(["squared", "absolute", "huber"]),
        "training.members": st.just(1),
        "training.instance_members": st.none() | st.just(1),
        "training.huber_threshold": rates,
        "training.small_scales": st.just(0.0) | rates,
        "training.channel_weights": st.dictionaries(
            st.sampled_from([*VARIABLE_NAMES, "temperature_850"]), st.floats(0.0, 100.0)
        ),
        "training.optimizer": st.sampled_from(["adam", "adamw"]),
        "training.schedule": st.sampled_from(["cosine", "constant", "cooldown"]),
        "training.learning_rate": rates,
        "training.learning_rates": st.dictionaries(
            st.sampled_from(["encoder", "blocks", "decoder", "head"]), rates
        ),
        "training.edge_learning_rate": st.none() | rates,
        "training.betas": st.tuples(fractions, fractions).map(list),
        "training.weight_decay": rates,
        "training.clip_norm": rates,
        "training.average_decay": st.none() | fractions,
        "training.warmup_steps": st.integers(0, most_steps - 1),
        "training.warmup_learning_rate": st.just(0.0) | rates,
        "training.final_learning_rate": st.just(0.0) | rates,
        "training.cycle_steps": st.none() | counts,
        "training.cooldown_steps": st.none() | counts,
        "training.validate_every": counts,
        "training.validation_samples": counts,
        "training.validation_leads": st.lists(
            st.integers(1, 200).map(lambda steps: 6.0 * steps), unique=True
        ).map(sorted),
        "training.validation_scores": st.lists(
            st.sampled_from(["rmse", "acc", "bias", "activity"]), min_size=1, unique=True
        ),
        "training.on_divergence": st.sampled_from(["stop", "skip"]),
        "training.most_skips": counts,
        "training.spike_factor": st.none() | st.floats(1.001, 1e9),
        "training.spike_window": st.integers(1, 10_000),
        "checkpoint.every": counts,
        "checkpoint.keep": counts,
        "checkpoint.best": st.none() | st.sampled_from(["loss", "mean_relative_rmse"]),
        "checkpoint.resume": st.booleans(),
        "logging.every": counts,
        "logging.tensorboard": st.booleans(),
        "logging.ranks": st.none() | st.booleans(),
        "logging.profile": st.none() | st.sampled_from([["3"], ["10-12", "500"]]),
        "logging.mlflow": st.none() | st.sampled_from(["mlruns", "https://host:5000"]),
        "logging.wandb": st.none() | st.sampled_from(["weather", "2024"]),
    }


def test_each_setting_has_values_to_be_tried() -> None:
    assert set(_values(most_steps=100)) == {key for key, _, _ in settings()}


@pytest.mark.parametrize("preset", PRESETS)
@limited(max_examples=30)
@given(chosen=st.data())
def test_a_single_setting_suits_the_defaults_of_all_others(
    preset: str, chosen: st.DataObject
) -> None:
    for key, values in _values(most_steps=STEPS[preset]).items():
        value = chosen.draw(values, label=key)
        section, _, name = key.rpartition(".")
        sections = {"preset": preset, "data": {"store": "s"}}
        part = sections.setdefault(section, {}) if section else sections
        assert isinstance(part, dict)
        part[name] = value
        config = Config.model_validate(sections)
        taken = getattr(getattr(config, section) if section else config, name)
        assert _plain(taken) == _plain(value)


@pytest.mark.parametrize("preset", PRESETS)
@limited(max_examples=30)
@given(chosen=st.data())
def test_a_saved_configuration_reads_back_equal(preset: str, chosen: st.DataObject) -> None:
    sections: dict[str, Any] = {"preset": preset, "data": {"store": "s"}}
    tried = _values(most_steps=100)
    for key in chosen.draw(st.sets(st.sampled_from(sorted(tried)))) - {"preset"}:
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = chosen.draw(tried[key], label=key)
    steps = sections.get("training", {}).get("steps", 100)
    if sections.get("training", {}).get("warmup_steps", 0) >= steps:
        del sections["training"]["warmup_steps"]
    if sections["data"].get("input_times", 1) > 1:  # of which forecasts advance step by step
        sections.get("training", {}).pop("latent_rollout", None)
    if "step_hours" in sections["data"] or "latent_rollout" in sections.get("training", {}):
        sections.get("training", {}).pop("validation_leads", None)  # multiples of what they set
    config = Config.model_validate(sections)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "saved.yaml"
        write_config(config, path)
        assert read_config(path) == config


@limited(max_examples=30)
@given(chosen=st.data())
def test_the_schema_takes_every_value_that_the_program_takes(chosen: st.DataObject) -> None:
    for key, values in _values(most_steps=100).items():
        value = chosen.draw(values, label=key)
        section, _, name = key.rpartition(".")
        sections: dict[str, Any] = {"data": {"store": "s"}}
        (sections.setdefault(section, {}) if section else sections)[name] = value
        assert list(SCHEMA.iter_errors(json.loads(json.dumps(sections)))) == []


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return value if not isinstance(value, Path) else str(value)

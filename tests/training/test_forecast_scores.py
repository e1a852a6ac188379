"""Validations that forecast: ``verify``'s scores of what ``forecast`` would make of the weights."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.planets import write_climatology
from support.waves import wave_config, write_waves
from weathermixer.check import check
from weathermixer.config import Config, Training, write_config
from weathermixer.config.training_settings import ENSEMBLE_SCORES, FORECAST_SCORES
from weathermixer.errors import UserError
from weathermixer.forecast.field_sums import FieldSums
from weathermixer.forecast.forecast import forecast
from weathermixer.training.best_score import is_better, require_score, score_of
from weathermixer.training.forecast_scores import METRICS_BY_NAME
from weathermixer.training.trainer import train
from weathermixer.training.validation import Validation
from weathermixer.verification.verify import verify

LEADS = [24, 6]  # of validation samples every six hours in 2001-01-21 to 22
INIT = "2001-01-21/2001-01-22T06/6h"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_waves(tmp_path_factory.mktemp("forecast-scores") / "waves.zarr", times=100)
    random = np.random.default_rng(2)
    normals = 270.0 + 9.0 * random.normal(size=(4, 90, 2, 8, 16))
    write_climatology(path, normals.astype(np.float32))
    return path


def configured(store: Path, *, best: str | None = None, **training: Any) -> Config:
    asked: dict[str, Any] = {
        "steps": 4,
        "warmup_steps": 1,
        "validate_every": 2,
        "validation_samples": 9,
    }
    asked |= {"validation_leads": LEADS, "validation_scores": ["rmse", "acc"]}
    members = training.get("members", 1)
    return wave_config(
        store,
        model={"noise": 2} if members > 1 else {},
        training=asked | training,
        checkpoint={"every": 2, "keep": 3, "best": best},
    )


@pytest.mark.parametrize(
    "training",
    [
        {"average_decay": 0.5},
        {
            "members": 2,
            "error": "crps",
            "validation_scores": ["rmse", "crps", "spread", "spread_skill"],
            "validation_samples": 3,
        },
    ],
    ids=["single", "ensemble"],
)
def test_they_are_those_of_the_forecast_of_its_checkpoint(
    training: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    config = configured(store, best="mean_relative_rmse/24", **training)
    run, out, members = tmp_path / "run", tmp_path / "f.zarr", config.training.members
    result = train(config, run)
    init = INIT if members == 1 else "2001-01-21,2001-01-21T12,2001-01-22T06"
    steps = 4
    forecast(run, store, init, steps, out, members=members if members > 1 else None)
    expected = verify(out, store, processes=1).to_json()
    found = result.validation[4].to_json()
    assert list(found["scores"]) == list(config.training.validation_scores)
    for metric, by_channel in found["scores"].items():
        for channel, by_lead in by_channel.items():
            assert list(by_lead) == ["6", "24"]
            for hours, value in by_lead.items():
                wanted = expected["scores"][metric][channel][hours]
                assert value == pytest.approx(wanted, rel=1e-6), (metric, channel, hours)
    assert found["rmse_relative_to"].keys() == {"persistence", "climatology"}
    for baseline, ratios in found["rmse_relative_to"].items():
        for hours, value in ratios.items():
            wanted = expected["rmse_relative_to"][baseline][hours]
            assert value == pytest.approx(wanted, rel=1e-6)
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert records[-1]["validation"] == found
    best = json.loads((run / "checkpoints" / "best.json").read_text())
    by_step = {
        step: each.rmse_relative_to["persistence"]["24"] for step, each in result.validation.items()
    }
    assert best["score"] == "mean_relative_rmse/24"
    assert best["checkpoints"][-1] == {
        "step": min(by_step, key=lambda step: by_step[step]),
        "score": min(by_step.values()),
    }


def test_the_loss_and_the_training_are_as_without_forecasts(store: Path, tmp_path: Path) -> None:
    """With dropout, which members draw and validations do not."""
    changed: dict[str, Any] = {"members": 2, "error": "crps", "validation_samples": 1}
    results = []
    for name, leads in (("with", LEADS), ("without", [])):
        config = configured(store, validation_leads=leads, validation_scores=["rmse"], **changed)
        model = config.model.model_copy(update={"dropout": 0.2})
        results.append(train(config.model_copy(update={"model": model}), tmp_path / name))
    one, other = results
    assert one.loss == other.loss
    for step, validation in one.validation.items():
        assert validation.relative_rmse == other.validation[step].relative_rmse
        assert other.validation[step].to_json().keys() == {"loss", "relative_rmse"}


def test_a_truth_that_cannot_be_read_costs_a_validation_alone(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise UserError("a chunk is gone")

    monkeypatch.setattr(FieldSums, "add", fail)
    result = train(configured(store, steps=2), tmp_path / "run")
    assert len(result.loss) == 2
    assert not result.validation
    said = "the validation of step 2 is left out (of forecasts at 6 h: a chunk is gone)"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"validation_leads": [6, 10]}, "validation_leads lists 10, and forecasts advance by 6 h"),
        (
            {"latent_rollout": 2},
            r"lists 6, and forecasts advance by 12 h at a time \(data.step_hours=6, training.la",
        ),
        ({"validation_scores": ["rmsd"]}, "lists 'rmsd', which is no score; did you mean rmse"),
        ({"validation_scores": []}, "lists no score"),
        ({"validation_leads": [6, 6]}, "lists 6.0 twice; remove the repeated entry"),
        ({"validation_leads": [6, 6.0001]}, "lists 6.0 twice; remove the repeated entry"),
        ({"validation_scores": ["crps"]}, "lists 'crps', which is of ensembles, and training.mem"),
    ],
)
def test_a_configuration_without_meaning_is_refused(
    training: dict[str, Any], said: str, store: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        configured(store, **training)


def test_what_the_store_does_not_have_is_refused(waves: Path, store: Path, tmp_path: Path) -> None:
    cases = [
        (configured(waves, validation_leads=[6]), "lists acc, and .* has no climatology: leave it"),
        (
            configured(store, validation_leads=[240]),
            r"validation_leads reaches 240 h, and no sample of the validation period \(2001-01-21",
        ),
    ]
    for config, said in cases:
        with pytest.raises(UserError, match=said):
            train(config, tmp_path / "run")
        write_config(config, tmp_path / "config.yaml")
        (problem,) = check(tmp_path / "config.yaml").problems
        assert problem.severity == "error"
        assert re.search(said, problem.what)
    assert not (tmp_path / "run").exists()


def test_the_best_is_by_any_of_them_and_a_higher_correlation_is_better() -> None:
    by_lead = {"24": 0.5, "72": 0.75}
    validation = Validation(
        0.25,
        {"2m_temperature": 0.125},
        {"acc": {"2m_temperature": by_lead}},
        {"persistence": by_lead, "climatology": {"24": 9.0}},
    )
    assert Validation.from_json(validation.to_json()) == validation
    scores = {
        "loss": 0.25,
        "mean_relative_rmse": 0.125,
        "2m_temperature": 0.125,
        "mean_relative_rmse/72": 0.75,
        "acc/2m_temperature/24": 0.5,
    }
    assert {name: score_of(validation, name) for name in scores} == scores
    assert math.isnan(score_of(validation, "acc/2m_temperature/6"))
    assert is_better("acc/2m_temperature/24", 0.9, than=0.8)
    assert is_better("rmse/2m_temperature/24", 0.8, than=0.9)
    assert not is_better("mean_relative_rmse/24", 0.9, than=0.9)
    training = Training(validation_leads=(24.0, 72.0), validation_scores=("acc", "bias"))
    channels = ["2m_temperature"]
    for name in (None, *scores):
        require_score(name, channels, training)
    for name in ("bias/2m_temperature/24", "acc/2m_temperature/48", "mean_relative_rmse/48"):
        with pytest.raises(UserError, match=f"checkpoint.best={name} is no score of a validation"):
            require_score(name, channels, training)
    with pytest.raises(UserError, match=r"is a score of forecasts, and training\.valid"):
        require_score("acc/2m_temperature/24", channels, Training())


def test_settings_name_the_scores_that_there_are() -> None:
    assert (*FORECAST_SCORES, *ENSEMBLE_SCORES) == tuple(METRICS_BY_NAME)

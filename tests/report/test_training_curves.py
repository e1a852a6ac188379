"""A log as curves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from weathermixer.config import Training
from weathermixer.report.training_curves import training_charts
from weathermixer.report.training_log import TrainingLog

from .conftest import write_log


def test_a_log_is_read_up_to_where_it_was_torn(tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", steps=300)
    log = TrainingLog.read(tmp_path / "log.jsonl")
    assert log.last_step == 300
    assert log.validation == [(100, 0.5, 0.5), (200, 0.5, 0.5), (300, 0.5, 0.5)]
    assert log.channels["2m_temperature"] == [(100, 0.6), (200, 0.6), (300, 0.6)]
    assert log.samples_per_second == 20.0
    assert log.hours == pytest.approx(4 * 300 / 20.0 / 3600.0)


def test_curves_are_those_of_the_log(tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", steps=300)
    by_title = {
        chart["title"]: chart
        for chart in training_charts(TrainingLog.read(tmp_path / "log.jsonl"), Training())
    }
    loss = {line["name"]: line for line in by_title["Loss"]["lines"]}
    assert loss["as logged"]["x"] == list(range(2, 301, 2))
    assert loss["as logged"]["y"] == pytest.approx(
        np.exp(-np.arange(2, 301, 2) / 100.0).tolist(), rel=1e-3
    )
    assert loss["validation"]["y"] == [0.5] * 3
    assert {"Learning rate", "Validation: RMSE relative to persistence"} <= by_title.keys()
    (waits,) = (chart for title, chart in by_title.items() if title.startswith("Share of a step"))
    assert [set(line["y"]) for line in waits["lines"]] == [{0.25}, {0.1}]


def test_forecasts_of_validations_have_a_line_for_each_lead_time(tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", steps=300)
    charts = training_charts(TrainingLog.read(tmp_path / "log.jsonl"), Training())
    about = "Validation forecasts: "
    titles = [chart["title"] for chart in charts]
    assert titles[2:7] == [
        "Validation: RMSE relative to persistence",
        f"{about}RMSE relative to persistence, mean of all channels",
        f"{about}RMSE relative to climatology, mean of all channels, at 3 d",
        f"{about}ACC, mean of all channels",
        f"{about}Bias, Temperature, 850 hPa, at 24 h",
    ]
    persistence, climatology, acc, bias = charts[3:7]
    assert [line["name"] for line in persistence["lines"]] == ["24 h", "3 d"]
    assert len({line["style"] for line in persistence["lines"]}) == 2
    assert [line["x"] for line in persistence["lines"]] == [[100, 200, 300]] * 2
    assert [line["y"] for line in persistence["lines"]] == [[0.5] * 3, [0.8, 0.7, 0.6]]
    assert persistence["limit"] == climatology["limit"] == 1.0
    # Of the channels that have one.
    assert [line["y"] for line in acc["lines"]] == [[0.6] * 3, [0.8, 0.7, 0.6]]
    assert bias["unit"] == "K" and bias["lines"][0]["y"] == [-0.1] * 3


def test_of_many_lead_times_the_usual_ones_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    by_lead = {f"{hours}": 0.5 for hours in range(6, 246, 6)}
    scores = {"loss": 1.0, "relative_rmse": {}, "rmse_relative_to": {"persistence": by_lead}}
    path.write_text(json.dumps({"step": 1, "loss": 1.0, "validation": scores}))
    log = TrainingLog.read(path)
    assert list(log.relative["persistence"]) == [float(hours) for hours in by_lead]
    (chart,) = (each for each in training_charts(log, Training()) if "forecasts" in each["title"])
    names = [line["name"] for line in chart["lines"]]
    assert names == ["6 h", "24 h", "3 d", "5 d", "7 d", "10 d"]
    assert len({line["style"] for line in chart["lines"]}) == len(names)


def test_a_long_log_becomes_means_that_keep_its_ends(tmp_path: Path) -> None:
    with (tmp_path / "log.jsonl").open("w") as file:
        for step in range(1, 10_001):
            file.write(json.dumps({"step": step, "loss": float(step % 2)}) + "\n")
    chart = training_charts(
        TrainingLog.read(tmp_path / "log.jsonl"), Training(rollout={0: 1, 8000: 2})
    )[0]
    raw = {line["name"]: line for line in chart["lines"]}["as logged"]
    assert len(raw["x"]) <= 1200
    assert raw["x"][-1] == 10_000
    assert np.mean(raw["y"]) == pytest.approx(0.5, abs=0.02)
    assert chart["marks"] == [{"x": 8000, "text": "rollout of 2"}]


def test_without_a_log_there_are_no_curves(tmp_path: Path) -> None:
    assert training_charts(TrainingLog.read(tmp_path / "absent.jsonl"), Training()) == []

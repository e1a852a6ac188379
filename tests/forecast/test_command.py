"""Forecasting and verifying from the command line: mistakes, and forecasts that outlast truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from support.waves import write_waves
from weathermixer.cli import main
from weathermixer.forecast.forecast import forecast

LAST = "2001-01-15T18"  # of the store's times


def run(*words: str | Path) -> int:
    """The exit status of a command, run in this process."""
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def folder(waves: Path, random_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A forecast, another one, one that was interrupted, and stores that fit none of them."""
    folder = tmp_path_factory.mktemp("command")
    for name, init in (("f", "2001-01-03"), ("g", "2001-01-05")):
        forecast(random_run, waves, init, 2, folder / f"{name}.zarr")
    with pytest.raises(KeyboardInterrupt):
        forecast(random_run, waves, "2001-01-03", 2, folder / "half.zarr", progress=interrupt)
    write_waves(folder / "early.zarr", times=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("support.waves.LATITUDE", np.linspace(80.0, -80.0, 8))
        write_waves(folder / "elsewhere.zarr", times=20)
    return folder


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--init": "2001-01-03T01"}, "has no state at 2001-01-03T01:00:00; the nearest is "),
        ({"--init": "2001-01-16"}, "has no state at 2001-01-16T00:00:00; the nearest is "),
        (
            {"--store": "elsewhere.zarr"},
            "elsewhere.zarr is on another grid (8×16, ",
        ),
        ({"--store": "absent.zarr"}, "there is no store at "),
        ({"--out": "f.zarr"}, "f.zarr exists already: choose another place"),
        ({"--out": "half.zarr"}, "half.zarr.partial is an unfinished forecast of another"),
    ],
)
def test_a_forecast_that_cannot_be_made_is_refused_in_one_sentence(
    change: dict[str, str],
    said: str,
    folder: Path,
    waves: Path,
    random_run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(path.name for path in folder.iterdir())
    asked: dict[str, str | Path] = {
        "--init": "2001-01-03",
        "--store": waves,
        "--out": "new.zarr",
        "--steps": "3",
    }
    asked |= change
    asked |= {name: folder / asked[name] for name in ("--store", "--out")}
    assert run("forecast", random_run, *(word for pair in asked.items() for word in pair)) == 2
    assert_said_once(said, capsys)
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["f.zarr", "--truth", "early.zarr"], "no pair of initial and valid time"),
        (["f.zarr", "--truth", "elsewhere.zarr"], "another grid"),
        (["f.zarr", "--truth", "absent.zarr"], "there is nothing at "),
        (["f.zarr", "--truth", "early.zarr", "--beside", "g.zarr"], "no initial times in common"),
        (["half.zarr", "--truth", "early.zarr"], "half.zarr is unfinished"),
        (["half.zarr.partial", "--truth", "early.zarr"], "partial is unfinished"),
        (["absent.zarr", "--truth", "early.zarr"], "there is nothing at "),
        (["early.zarr", "--truth", "early.zarr"], "early.zarr is a prepared store, not a forecast"),
    ],
)
def test_what_cannot_be_verified_is_refused_in_one_sentence(
    words: list[str],
    said: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    assert run("verify", *words) == 2
    assert_said_once(said, capsys)


def assert_said_once(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = capsys.readouterr()
    assert printed.out == ""
    errors = [line for line in printed.err.splitlines() if "Error" in line]
    assert len(errors) == 1
    assert errors[0].startswith("Error: ")
    assert said in errors[0]
    assert "Traceback" not in printed.err


def test_lead_times_beyond_the_truth_are_counted_and_left_out(
    waves: Path,
    random_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("weathermixer.verification.results._figures", lambda *_: ())
    asked = ["--init", f"2001-01-15T12,{LAST}", "--steps", "4"]
    out, scores = tmp_path / "f.zarr", tmp_path / "scores"
    kept: list[str | Path] = ["--out", out, "--truth", waves, "--scores", scores, "--json"]
    assert run("forecast", random_run, "--store", waves, *kept, *asked) == 0
    on_the_way = json.loads(capsys.readouterr().out)
    assert run("verify", out, "--truth", waves, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    whole = {"initial_times": ["2001-01-15T12:00:00", f"{LAST}:00:00"]}
    assert on_the_way == found | whole | {
        "lead_hours": [6.0, 12.0, 18.0, 24.0],
        "channels": ["temperature_850", "2m_temperature"],
        "members": None,
        "made_by": json.loads((scores / "scores.json").read_text())["made_by"],
    }
    assert found["unscored_pairs"] == 2 * 4 - 1
    assert found["initial_times"] == ["2001-01-15T12:00:00"]
    assert set(found["scores"]["rmse"]["2m_temperature"]) == {"6"}
    assert any("7 of 8 pairs" in warning for warning in found["warnings"])

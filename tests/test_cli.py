from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from weathermixer.cli import commands, main


def run(*words: str | Path) -> int:
    """The exit status of a command, run in this process."""
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_every_command_and_group_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    paths = [[], *[[name] for name in commands.commands], ["data", "prepare"]]
    for path in paths:
        assert run(*path, "--help") == 0
        assert "Usage: weathermixer" in capsys.readouterr().out


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from weathermixer.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'numpy', 'xarray', 'zarr', 'pydantic'} & set(sys.modules)))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "[]"


def test_help_of_training_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    from weathermixer.config import settings

    run("train", "--help")
    text = capsys.readouterr().out
    for key, _, _ in settings():
        assert re.search(rf"^  {re.escape(key)}\s", text, re.MULTILINE), key


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["data", "planet", "x", "--grid", "32by64"], "is not latitude × longitude, such as 32x64"),
        (["train", "absent.yaml", "--out", "run"], "absent.yaml cannot be read"),
        (["check", "absent.yaml"], "absent.yaml cannot be read"),
        (["data", "inspect", "absent.zarr"], "there is no store at absent.zarr"),
        (
            [
                "forecast",
                "absent",
                "--store",
                "s",
                "--init",
                "2001-01-01",
                "--steps",
                "1",
                "--out",
                "f",
            ],
            "absent is not a run",
        ),
        (["verify", "absent.zarr", "--truth", "absent.zarr"], "absent.zarr"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_status_2(
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    errors = [line for line in captured.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert "Traceback" not in captured.err


def test_a_traceback_is_shown_only_when_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("check", tmp_path / "absent.yaml", "--traceback") == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_error_of_the_program_is_status_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("weathermixer.check.check", broken)
    assert run("check", tmp_path / "config.yaml") == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "waves.zarr"
    assert run("data", "synthetic", path, "--times", "80", "--grid", "8x16") == 0
    return path


@pytest.fixture
def config(store: Path, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    settings = {
        "model": {"patch": [4, 4], "channels": 16, "blocks": 1},
        "data": {"store": str(store), "variables": ["geopotential"], "levels": [500, 850]},
        "training": {"steps": 6, "warmup_steps": 2, "validate_every": 3},
        "checkpoint": {"every": 3},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def test_check_lists_problems_with_place_and_remedy(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", config) == 0
    said = capsys.readouterr().out
    # Two channels are wanted of 69, which a state as small as this has in one chunk.
    assert said.startswith("warning: data.store:") and "34.5 times" in said
    assert "reading ahead holds at most" in said
    assert run("check", config, "--json", "--model.patch=[3,4]", "--data.levels=[500,123]") == 2
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert {problem["where"] for problem in problems} == {"model.patch", "data.variables"}
    assert all(set(problem) == {"severity", "where", "what", "remedy"} for problem in problems)
    assert all(problem["what"] and problem["remedy"] for problem in problems)


def test_the_path_from_store_to_scores_prints_the_promised_json(
    config: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder, forecasts = tmp_path / "run", tmp_path / "forecast.zarr"
    assert run("train", config, "--out", run_folder, "--json", "--training.seed=3") == 0
    trained = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert trained["layout"] == {"data": 1, "domain": 1, "tensor": 1}
    assert len(trained["loss"]) == len(trained["grad_norm"]) == 6
    assert len(trained["seconds_per_step"]) == 6
    assert trained["world_size"] == 1
    for per_rank in (
        "bytes_sent_per_step",
        "bytes_read_per_step",
        "flops_per_step",
        "peak_memory_bytes",
        "parameter_bytes",
        "optimizer_bytes",
        "saving_seconds",
    ):
        assert len(trained[per_rank]) == 1
    assert trained["parameter_bytes"] == [4 * trained["parameters"]]
    assert Path(trained["checkpoint"]).exists()

    assert run("train", config, "--out", run_folder) == 2
    assert "--resume" in capsys.readouterr().err

    words = ["--steps", "4", "--init", "2000-01-18/2000-01-18T12/6h"]
    assert run("forecast", run_folder, "--store", store, "--out", forecasts, *words) == 0
    capsys.readouterr()
    assert run("verify", forecasts, "--truth", store, "--json", "--out", tmp_path / "scores") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result["scores"]) >= {"rmse", "acc", "bias", "activity"}
    assert set(result["baselines"]) == {"persistence", "climatology"}
    assert set(result["scores"]["rmse"]) == {"geopotential_500", "geopotential_850"}
    assert set(result["scores"]["rmse"]["geopotential_500"]) == {"6", "12", "18", "24"}
    assert len(result["initial_times"]) == 3
    assert list((tmp_path / "scores").glob("*.png"))


def test_a_mesh_of_other_ranks_than_were_started_is_refused(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", config, "--parallel.domain=2") == 0
    capsys.readouterr()
    assert run("train", config, "--out", tmp_path / "run", "--parallel.domain=2") == 2
    assert "= 2 ranks, but 1 was started" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--parallel.domain=5", "domain (5) is more than the 4 columns of patches"),
        ("--parallel.tensor=3", "tensor (3) is more than the 2 variables"),
    ],
)
def test_a_mesh_of_more_ranks_than_there_is_to_cut_is_refused(
    override: str, said: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", config, override, "--json") == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["where"] == "parallel"
    assert said in problem["what"]


def test_a_training_leaves_signals_as_they_were(tmp_path: Path) -> None:
    """Programs that are started later would otherwise never be warned."""
    with pytest.raises(SystemExit):
        main(["train", str(tmp_path / "absent.yaml"), "--out", str(tmp_path / "run")])
    assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())

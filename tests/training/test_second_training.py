"""Two trainings, or two demonstrations, that want to write into one folder."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
import yaml

from support.processes import DEADLINE_SECONDS, Processes
from support.selection import exhaustive
from support.waves import wave_config
from weathermixer.cli import main
from weathermixer.runs.folder_lock import FolderLock

Training = tuple[Path, Path, subprocess.Popen[str]]


@pytest.fixture
def training(waves: Path, tmp_path: Path, processes: Processes) -> Training:
    """A configuration, its run, and a training of two ranks that is at work in it."""
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    settings = wave_config(waves, training={"steps": 1_000_000, "cycle_steps": 30})
    text = yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True))
    config.write_text(text, encoding="utf-8")
    process = processes.begin(
        "-m", "weathermixer", "train", config, "--out", run, "--nproc", "2", "--checkpoint.every=2"
    )
    end = time.monotonic() + DEADLINE_SECONDS
    while not list(run.glob("checkpoints/step-????????")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    return config, run, process


@pytest.mark.exhaustive
@pytest.mark.parametrize("ranks", [2, *exhaustive(1)])
def test_a_second_training_is_refused_with_the_first_named(
    ranks: int, training: Training, processes: Processes
) -> None:
    config, run, first = training
    words = ("-m", "weathermixer", "train", config, "--out", run, "--nproc", str(ranks), "--resume")
    status, out, err = processes.run(*words)
    assert (status, out) == (2, "")
    assert err.count("Error") == 1
    said = err.splitlines()[-1]
    assert said.startswith(f"Error: {run} is in use by another training, process ")
    assert ", since 2" in said
    assert first.poll() is None


@pytest.mark.exhaustive
def test_after_a_training_is_killed_another_goes_on(
    training: Training, processes: Processes
) -> None:
    config, run, first = training
    first.kill()
    first.communicate()
    processes.close()
    newest = max(int(path.name[5:]) for path in run.glob("checkpoints/step-????????"))
    words = ("train", config, "--out", run, "--resume", f"--training.steps={newest + 1}")
    status, _, err = processes.run("-m", "weathermixer", *words)
    assert status == 0, err
    assert not (run / ".lock").exists()


@pytest.mark.exhaustive
def test_a_run_in_training_can_be_forecast_from(
    training: Training, waves: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, run, _ = training
    out = tmp_path / "f.zarr"
    words = ["forecast", str(run), "--store", str(waves), "--init", "2001-01-02", "--steps", "1"]
    main([*words, "--out", str(out)])
    assert out.exists(), capfd.readouterr().err


def test_a_second_demonstration_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with FolderLock(tmp_path, "demonstration"), pytest.raises(SystemExit) as end:
        main(["demo", "--out", str(tmp_path)])
    assert end.value.code == 2
    assert f"Error: {tmp_path} is in use by another demonstration" in capfd.readouterr().err

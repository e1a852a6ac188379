"""``submit`` writes a job into the run, and hands it to a scheduler that has none for it yet."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from support.schedulers import Scheduler
from support.waves import wave_config, write_waves
from weathermixer.cli import main


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    """A cluster without jobs, which takes any."""
    made = Scheduler(tmp_path)
    made.put("sbatch", "echo 4711")
    made.put("squeue", "")
    monkeypatch.setenv("PATH", made.path)
    return made


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Four ranks' training."""
    settings = wave_config(
        write_waves(tmp_path / "waves.zarr", times=5), parallel={"domain": 2, "tensor": 2}
    )
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True)), "utf-8")
    return path


def submit(config: Path, out: Path, *words: str) -> int:
    """The exit status of the command, on two nodes of two ranks unless ``words`` say others."""
    nodes = ("--nodes=2", "--ranks-per-node=2")
    try:
        main(["submit", str(config), "--out", str(out), *nodes, *words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_job_is_written_and_submitted_once(
    scheduler: Scheduler, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    script = out / "job" / "job.sh"
    assert submit(config, out, "--training.steps=99") == 0
    assert capsys.readouterr().out == f"{script}\n"
    text = script.read_text(encoding="utf-8")
    assert f"train {out}/job/config.yaml --out {out} --resume --training.steps=99 &" in text
    assert (out / "job" / "config.yaml").read_bytes() == config.read_bytes()

    assert submit(config, out, "--go") == 0
    said = capsys.readouterr()
    assert said.out == "4711\n"
    assert f"submitted job 4711, which writes to {out}/job/log.txt" in said.err
    assert scheduler.calls("sbatch") == [f"sbatch --parsable {script}"]

    scheduler.put("squeue", "echo 4711 PENDING")
    before = config.read_bytes()
    config.write_bytes(b"# another\n" + before)
    assert submit(config, out, "--go") == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"Error: {out} is trained by job 4711 already (pending): wait")
    assert (out / "job" / "config.yaml").read_bytes() == before
    assert len(scheduler.calls("sbatch")) == 1


def test_what_sbatch_refuses_is_told_with_its_reason(
    scheduler: Scheduler, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler.put("sbatch", "echo 'sbatch: error: Invalid account' >&2; exit 1")
    assert submit(config, tmp_path / "run", "--go") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: sbatch refuses ")
    assert "(sbatch: error: Invalid account): give what your site asks for" in line


def test_mistakes_are_found_before_the_queue(
    scheduler: Scheduler, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mistakes = {
        ("--training.stepz=3",): "training.stepz",
        ("--nodes=3",): "data (1) × domain (2) × tensor (2) = 4 ranks, but 6 were started",
        ("--time=whenever",): "--time=whenever is not a time limit",
    }
    for words, said in mistakes.items():
        assert submit(config, tmp_path / "run", *words) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
    # The nodes may see what this machine does not.
    assert submit(config, tmp_path / "run", "--data.store=/nowhere.zarr") == 0
    assert "this machine cannot check the store" in capsys.readouterr().err

    (tmp_path / "run" / "checkpoints" / "step-00000004").mkdir(parents=True)
    assert submit(config, tmp_path / "run") == 2
    assert "has checkpoints: continue it with --resume" in capsys.readouterr().err
    assert submit(config, tmp_path / "run", "--resume") == 0


def test_without_a_scheduler_the_job_is_written_and_the_way_on_named(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert submit(config, tmp_path / "run", "--go") == 2
    script = tmp_path / "run" / "job" / "job.sh"
    assert capsys.readouterr().err.endswith(
        f"Error: there is no sbatch on this machine: submit {script} where there is one, with "
        f"'sbatch {script}'\n"
    )
    assert script.exists()

"""What is found from which folder, and what is said where something is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from weathermixer.cli import main
from weathermixer.errors import UserError
from weathermixer.report.make_report import make_report

from .conftest import Demonstration


def _sections(page: Path) -> set[str]:
    text = page.read_text("utf-8")
    names = ("scores", "tables", "maps", "spectra", "training", "configuration")
    return {name for name in names if f'<section id="{name}"' in text}


def test_a_run_brings_its_verification_along(demonstration: Demonstration, tmp_path: Path) -> None:
    written = make_report(demonstration.run, tmp_path / "page.html")
    assert written.notes == ()
    assert _sections(written.path) >= {"scores", "tables", "maps", "training", "configuration"}


@pytest.mark.exhaustive
def test_folders_that_were_moved_together_are_still_found(
    demonstration: Demonstration, tmp_path: Path
) -> None:
    shutil.copytree(demonstration.folder, tmp_path / "moved")
    for file in ("scores/scores.json", "forecast.zarr/zarr.json"):
        text = (tmp_path / "moved" / file).read_text()
        before = json.dumps(str(demonstration.folder))[1:-1]
        assert before in text
        (tmp_path / "moved" / file).write_text(text.replace(before, "/gone"))
    for name in ("run", "scores"):
        written = make_report(tmp_path / "moved" / name)
        assert written.path == tmp_path / "moved" / name / "report.html"
        assert written.notes == ()


def test_a_run_alone_gives_its_training(demonstration: Demonstration, tmp_path: Path) -> None:
    run = shutil.copytree(demonstration.run, tmp_path / "alone")
    written = make_report(run)
    assert _sections(written.path) == {"training", "configuration"}
    assert "No verification of" in written.notes[0]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"layout": {"data": 1, "domain": 2, "tensor": 3}}, "1 × 2 × 3 = 6 ranks"),
        ({"layout": {"data": 1, "domain": 1, "tensor": 1}}, "1 × 1 × 1 = 1 rank<"),
        ({"layout": None}, "not recorded"),
        (None, "not recorded"),
    ],
)
def test_the_mesh_is_the_one_that_was_used(
    record: Any, said: str, demonstration: Demonstration, tmp_path: Path
) -> None:
    run = shutil.copytree(demonstration.run, tmp_path / "alone")
    settings = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    settings["parallel"] = {"data": 1, "domain": None, "tensor": None}
    (run / "config.yaml").write_text(yaml.safe_dump(settings), "utf-8")
    if record is not None:
        (run / "training.json").write_text(json.dumps(record), "utf-8")
    page = make_report(run).path.read_text("utf-8")
    row = page.split("Mesh (data × domain × tensor)")[1].split("</tr>")[0]
    assert said in row


def test_the_mesh_of_the_settings_is_said_where_none_was_recorded(
    demonstration: Demonstration, tmp_path: Path
) -> None:
    run = shutil.copytree(demonstration.run, tmp_path / "alone")
    settings = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    settings["parallel"] = {"domain": 2, "tensor": 1, "data": 2}
    (run / "config.yaml").write_text(yaml.safe_dump(settings), "utf-8")
    assert "2 × 2 × 1 = 4 ranks" in make_report(run).path.read_text("utf-8")
    (run / "training.json").write_text("{torn", "utf-8")
    assert "2 × 2 × 1 = 4 ranks" in make_report(run).path.read_text("utf-8")


def test_a_run_that_has_logged_nothing_has_a_page(
    demonstration: Demonstration, tmp_path: Path
) -> None:
    run = shutil.copytree(demonstration.run, tmp_path / "alone")
    (run / "log.jsonl").unlink()
    assert "Nothing has been logged yet" in make_report(run).path.read_text("utf-8")


def test_a_verification_alone_gives_its_scores(
    demonstration: Demonstration, tmp_path: Path
) -> None:
    scores = demonstration.scores
    for name in ("forecast", "truth", "regions", "spectrum"):
        scores.pop(name, None)
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    written = make_report(tmp_path)
    assert _sections(written.path) == {"scores", "tables"}
    assert len(written.notes) == 2


def test_maps_that_cannot_be_drawn_are_explained(
    demonstration: Demonstration, tmp_path: Path
) -> None:
    scores = demonstration.scores
    scores["truth"] = "/nowhere/planet.zarr"
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    written = make_report(tmp_path)
    assert "maps" not in _sections(written.path)
    assert any("the truth is no longer at /nowhere/planet.zarr" in note for note in written.notes)


def test_a_damaged_forecast_costs_the_maps_alone(
    demonstration: Demonstration, tmp_path: Path
) -> None:
    broken = shutil.copytree(demonstration.folder / "forecast.zarr", tmp_path / "broken.zarr")
    (broken / "zarr.json").write_text("{")
    scores = demonstration.scores | {"forecast": str(broken)}
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    written = make_report(tmp_path)
    assert _sections(written.path) >= {"scores", "tables"}
    assert any(
        "maps could not be drawn" in note and "broken.zarr" in note for note in written.notes
    )


def test_mistakes_are_one_sentence(demonstration: Demonstration, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing at .*absent: correct the path"):
        make_report(tmp_path / "absent")
    with pytest.raises(UserError, match=r"neither a run .* nor a verification"):
        make_report(tmp_path)
    with pytest.raises(UserError, match=r"is a folder: give --out the name of a file"):
        make_report(demonstration.verification, tmp_path)
    (tmp_path / "scores.json").write_text('{"scores": {"rmse"')
    with pytest.raises(UserError, match=r"scores.json is damaged"):
        make_report(tmp_path)
    (tmp_path / "scores.json").write_text("[]")
    with pytest.raises(UserError, match=r"holds no scores"):
        make_report(tmp_path)
    (tmp_path / "scores.json").write_text('{"scores": {"rmse": {"t": 3}}}')
    with pytest.raises(UserError, match=r"is not what 'weathermixer verify' writes"):
        make_report(tmp_path)


def test_a_page_is_whole_or_absent(demonstration: Demonstration, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .* choose another place"):
        make_report(demonstration.verification, tmp_path / "file" / "page.html")
    out = tmp_path / "deep" / "page.html"
    make_report(demonstration.verification, out)
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_the_command_says_where_the_page_is(
    demonstration: Demonstration, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["report", str(demonstration.verification), "--out", str(tmp_path / "page.html")])
    assert capsys.readouterr().err.endswith(f"wrote {tmp_path / 'page.html'}\n")
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(tmp_path)])
    assert "is neither a run" in capsys.readouterr().err

"""A picture that fails costs a sentence: the numbers are there, and the command ends well."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.areas import write_area
from support.selection import exhaustive
from weathermixer.cli import main
from weathermixer.report.make_report import make_report

PICTURES = {
    "score_curves.draw_scores": "the curves of scores could not be drawn (ValueError: no font)",
    "scorecard.draw_scorecard": "scorecard.png could not be drawn (ValueError: no font)",
    "region_curves.draw_regions": "regions.png could not be drawn (ValueError: no font)",
    "forecast_maps.draw_maps": "the maps could not be drawn (ValueError: no font)",
}


@pytest.mark.parametrize("function", ["score_curves.draw_scores", *exhaustive(*list(PICTURES)[1:])])
def test_a_failing_picture_costs_a_sentence(
    function: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        assert (tmp_path / "out" / "scores.json").is_file()
        assert (tmp_path / "out" / "scores.csv").is_file()
        raise ValueError("no font")

    monkeypatch.setattr(f"weathermixer.verification.figures.{function}", fail)
    area = write_area(tmp_path, [10.0, 20.0, 30.0], [0.0, 10.0, 20.0])
    main(["verify", str(area.forecast), "--truth", str(area.truth), "--out", str(tmp_path / "out"),
          "--processes", "1", "--json"])  # fmt: skip
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert PICTURES[function] in printed["warnings"]
    others = [name for name in ("rmse", "regions", "scorecard") if name[:4] not in function]
    assert any((tmp_path / "out" / f"{name}.png").exists() for name in others)


def test_failing_maps_cost_the_report_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    area = write_area(tmp_path, [10.0, 20.0, 30.0], [0.0, 10.0, 20.0])
    out = tmp_path / "out"
    main(["verify", str(area.forecast), "--truth", str(area.truth), "--out", str(out),
          "--processes", "1"])  # fmt: skip

    def fail(*_: object) -> None:
        raise MemoryError("too large")

    monkeypatch.setattr("weathermixer.verification.figures.map_canvas.MapCanvas.draw", fail)
    written = make_report(out)
    assert "The maps could not be drawn (MemoryError: too large)" in written.notes
    assert '<section id="scores"' in written.path.read_text("utf-8")

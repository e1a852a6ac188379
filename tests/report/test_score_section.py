"""Scores with all that a verification may have, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from weathermixer.report.score_section import ScoreSection
from weathermixer.report.spectrum_section import spectrum_charts
from weathermixer.verification.verification_record import Verification

CHANNEL = "specific_humidity_700"


def _record() -> dict[str, Any]:
    def scores(*rmse: float | None, acc: float = 0.9) -> dict[str, Any]:
        by_lead = dict(zip(("24", "72", "120"), rmse, strict=True))
        correlation = {"24": acc, "72": 0.7, "120": 0.5}
        return {"rmse": {CHANNEL: by_lead}, "acc": {CHANNEL: correlation}}

    return {
        "scores": scores(1e-4, 2e-4, 3e-4),
        "baselines": {
            "persistence": scores(2e-4, 2e-4, None),
            "climatology": scores(4e-4, 4e-4, 2e-4),
        },
        "beside": {"other": scores(1.5e-4, 2e-4, 3e-4)},
        "regions": {
            "global": {},
            "tropics": {**scores(3e-4, 2e-4, 1e-4), "baselines": {}, "beside": {}},
        },
        "pairs": {"24": 1, "72": 1, "120": 1},
        "initial_times": ["2001-01-01T00:00:00"],
        "spectrum": {
            "wavenumber": [0, 1, 2],
            "forecast": {CHANNEL: {"24": [9.0, 4.0, 1.0]}},
            "truth": {CHANNEL: {"24": [9.0, 4.0, 2.0]}},
            "beside": {"other": {CHANNEL: {"24": [9.0, 4.0, 0.0]}}},
        },
    }


def _part(record: dict[str, Any]) -> ScoreSection:
    return ScoreSection.of(Verification.from_json(record), Path("scores"))


def test_skill_is_one_minus_the_ratio_and_missing_where_either_is() -> None:
    tables = {table.name: table for table in _part(_record()).tables}
    assert list(tables) == ["skill-persistence", "skill-climatology", "rmse", "acc"]
    (row,) = tables["skill-persistence"].rows
    assert [cell.shown for cell in row.cells] == ["+50 %", "0 %", "–"]
    assert [cell.value for cell in tables["skill-climatology"].rows[0].cells] == pytest.approx(
        [0.75, 0.5, -0.5]
    )
    # Humidity is shown in g/kg; what stands behind a number is in SI, as in scores.json.
    assert [cell.shown for cell in tables["rmse"].rows[0].cells] == ["0.100", "0.200", "0.300"]
    assert [cell.value for cell in tables["rmse"].rows[0].cells] == [1e-4, 2e-4, 3e-4]


def test_headlines_say_when_a_limit_is_crossed() -> None:
    headlines = {number.label: number for number in _part(_record()).headlines}
    assert headlines["Specific humidity, 700 hPa: useful until"].value == "4.0\u00a0days"
    against = headlines["All 1 channels: RMSE against climatology"]
    assert (against.value, against.note.endswith("better until 4.0\u00a0days")) == ("−50 %", True)


def test_curves_hold_regions_and_forecasts_beside_in_shown_units() -> None:
    regions = _part(_record()).curves["regions"]
    assert list(regions) == ["Globe", "Tropics"]
    assert list(regions["Globe"]) == ["model", "other", "persistence", "climatology"]
    assert regions["Tropics"]["model"]["rmse"] == [[0.3, 0.2, 0.1]]
    assert regions["Globe"]["persistence"]["rmse"] == [[0.2, 0.2, None]]


def test_a_record_without_climatology_regions_and_spectra_is_enough() -> None:
    record = _record()
    for key in ("beside", "regions", "spectrum"):
        del record[key]
    del record["baselines"]["climatology"]
    del record["scores"]["acc"]
    part = _part(record)
    assert [table.name for table in part.tables] == ["skill-persistence", "rmse"]
    assert not part.has_climatology
    assert spectrum_charts(Verification.from_json(record).spectra) == []


def test_spectra_leave_the_mean_out_and_compare_with_the_truth() -> None:
    (channel,) = spectrum_charts(Verification.from_json(_record()).spectra)
    energy, ratio = channel["charts"]
    assert [line["name"] for line in energy["lines"]] == [
        "truth", "model, 24\u00a0hours", "other, 24\u00a0hours",
    ]  # fmt: skip
    assert energy["lines"][1]["x"] == [1, 2]
    assert energy["lines"][1]["y"] == [4e6, 1e6]
    assert [line["y"] for line in ratio["lines"]] == [[1.0, 0.5], [1.0, 0.0]]

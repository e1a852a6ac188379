"""The page about an ensemble: spread, plumes, ranks, and scorecards against another forecast."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.noise import LEADS
from support.planets import LONGITUDE
from weathermixer.cli import main
from weathermixer.data.points import Point
from weathermixer.errors import UserError
from weathermixer.report.make_report import make_report
from weathermixer.report.plume_section import PlumePanel

from .conftest import PLACES, EnsemblePage


def _data(page: EnsemblePage) -> dict[str, Any]:
    text = page.text.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    data: dict[str, Any] = json.loads(text)
    return data


def test_plumes_are_the_members_truth_and_climatology_at_the_nearest_grid_point(
    ensemble_page: EnsemblePage,
) -> None:
    plumes = _data(ensemble_page)["plumes"]
    planet, members = ensemble_page.planet, ensemble_page.members
    assert plumes["hours"] == [6.0, 12.0, 18.0]
    # Thirty of 33, evenly spread.
    assert len(plumes["times"]) == 30
    assert "from 30 of 33 initial times" in ensemble_page.text
    assert plumes["nearest"] == ["nearest grid point 25°N 120°E", "nearest grid point 70°S 0°E"]
    labels = [panel["label"] for panel in plumes["panels"]]
    assert labels == ["2 m temperature", "Geopotential, 500 hPa"]
    for place, (row, column) in enumerate(((3, 2), (0, 0))):
        assert LONGITUDE[column] in (120.0, 0.0)
        for shown, number in ((0, 0), (29, 32)):
            start = ensemble_page.initial_times[number]
            assert plumes["times"][shown] == str(start)[:16].replace("T", " ")
            valid = [start, *(start + LEADS)]
            for panel, channel in enumerate((2, 0)):
                plume = plumes["plumes"][place][shown][panel]
                x = members[:, number, :, channel, row, column].astype(float)
                truth = [planet.at(time)[channel, row, column] for time in valid]
                climate = [planet.climatology_at(time)[channel, row, column] for time in valid]
                for got, expected in (
                    (plume["members"], x),
                    (plume["mean"], x.mean(axis=0)),
                    (plume["truth"], truth),
                    (plume["climatology"], climate),
                ):
                    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_the_page_says_which_grid_point_is_shown(ensemble_page: EnsemblePage) -> None:
    assert "27°N 100°E: nearest grid point 25°N 120°E" in ensemble_page.text
    assert "not interpolated" in ensemble_page.text


def test_wind_is_shown_as_its_speed() -> None:
    channels = ["10m_u_component_of_wind", "2m_temperature", "10m_v_component_of_wind"]
    states = np.array([[3.0, -3.0], [280.0, 281.0], [4.0, 0.0]])
    panel = PlumePanel("10 m wind speed", (channels[0], channels[2]))
    assert panel.of(states, channels).tolist() == [5.0, 3.0]
    assert panel.units == "m s⁻¹"


def test_maps_have_the_spread_beside_the_error_at_the_same_lead_times(
    ensemble_page: EnsemblePage,
) -> None:
    maps = _data(ensemble_page)["maps"]
    assert len(maps["leads"]) == 3
    names = re.findall(r'data-name="(\w+)" aria-label="\w+: ([^,]+)', ensemble_page.text)
    assert [name for name, _ in names[:4]] == ["Forecast", "Truth", "Error", "Spread"]
    assert len(names) == 4 * 2  # of the channels that are shown
    assert "standard deviation of the members" in ensemble_page.text
    # Of the first initial time, by definition.
    from oracles import ensembles as oracle

    channel = [one["label"] for one in maps["channels"]].index("2 m temperature")
    for lead in range(3):
        x = ensemble_page.members[:, 0, lead, 2][None].astype(float)
        expected = oracle.spread(x, ensemble_page.planet.latitude)
        shown = float(maps["channels"][channel]["spreads"][lead])
        assert shown == pytest.approx(expected, rel=5e-3)


def test_curves_have_crps_and_spread_beside_the_rmse_and_the_rank_histogram(
    ensemble_page: EnsemblePage,
) -> None:
    scores = _data(ensemble_page)["scores"]
    assert list(scores["metrics"])[:4] == ["rmse", "crps", "spread", "spread_skill"]
    assert scores["metrics"]["spread_skill"]["limit"] == 1.0
    record = json.loads((ensemble_page.verification / "scores.json").read_text())
    ranks = scores["ranks"]
    assert ranks["leads"] == ["6\u00a0hours", "12\u00a0hours", "18\u00a0hours"]
    for place, channel in enumerate(record["rank_histogram"]):
        for lead, hours in enumerate(("6", "12", "18")):
            expected = record["rank_histogram"][channel][hours]
            np.testing.assert_allclose(ranks["shares"][place][lead], expected, rtol=1e-3)


def test_differences_that_are_not_significant_are_marked(ensemble_page: EnsemblePage) -> None:
    record = json.loads((ensemble_page.verification / "scores.json").read_text())["significance"]
    text = ensemble_page.text
    for metric, by_channel in record["beside"]["single"].items():
        panel = text.split(f'id="panel-beside-0-{metric}"')[1].split("</table>")[0]
        cells = re.findall(
            r'<td class="(\w+)( unsure)?" style="[^"]*"><data value="[^"]*">([^<]*)', panel
        )
        expected = [by_channel[c][h] for c in by_channel for h in ("6", "12", "18")]
        assert len(cells) == len(expected)
        for (side, unsure, shown), number in zip(cells, expected, strict=True):
            better = (number["difference"] > 0.0) == (metric == "acc")
            assert side == ("good" if better else "bad")
            assert bool(unsure) == (not number["significant"]) == shown.startswith("(")
    section = text.split('<section id="scorecards"')[1].split("</section>")[0]
    assert section.count('<figure class="card">') == 3
    counts = re.findall(
        r"better in (\d+) of 9 cells of channel and lead time, significantly worse in (\d+)",
        section,
    )
    for (better, worse), by_channel in zip(
        counts, record["beside"]["single"].values(), strict=True
    ):
        numbers = [number for by_lead in by_channel.values() for number in by_lead.values()]
        assert int(better) + int(worse) == sum(number["significant"] for number in numbers)
    assert 0 < sum(int(better) + int(worse) for better, worse in counts) < 27
    assert "95\u00a0% interval excludes zero" in section
    assert "blocks of 3 to 6 consecutive initial times" in section


def test_places_that_cannot_be_shown_are_one_sentence(
    ensemble_page: EnsemblePage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(ensemble_page.verification), "--at", "-33.9,151", "--at", "91,0"])
    assert "'91,0' is no point: its latitude, 91, is beyond 90 degrees" in capsys.readouterr().err
    record = json.loads((ensemble_page.verification / "scores.json").read_text())
    at = [Point.parse(PLACES[0])]
    del record["forecast"]
    for made_by, said in (
        ({}, r"no plumes: the forecast is not named in"),
        ({"run": "r"}, r"no plumes: the forecast was scored while it was made, and its fields"),
    ):
        text = json.dumps({**record, "made_by": made_by})
        (tmp_path / "scores.json").write_text(text)
        with pytest.raises(UserError, match=said):
            make_report(tmp_path, at=at)
    run = tmp_path / "alone"
    run.mkdir()
    (run / "config.yaml").write_text("data: {store: planet.zarr}")
    with pytest.raises(UserError, match="no plumes of a run without a verification"):
        make_report(run, at=at)

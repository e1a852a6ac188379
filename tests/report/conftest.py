"""One small run with its forecast and verification, and the page about them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.forecast_runs import write_run
from support.members import write_members
from support.noise import LEADS, noisy
from support.planets import Planet, write_forecast, write_planet
from support.waves import START, write_waves
from weathermixer.data.points import Point
from weathermixer.forecast.forecast import forecast
from weathermixer.report.make_report import make_report
from weathermixer.verification.verify import verify

# The names of folders come from users.
HOSTILE = "<b>&\"'"
STEPS = 6


@dataclass(frozen=True)
class Demonstration:
    """Folders of a run and its verification, and the text of the page about both."""

    folder: Path
    run: Path
    verification: Path
    page: Path

    @property
    def text(self) -> str:
        return self.page.read_text("utf-8")

    @property
    def scores(self) -> dict:
        return json.loads((self.verification / "scores.json").read_text())


@pytest.fixture(scope="session")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Demonstration:
    folder = tmp_path_factory.mktemp("report") / HOSTILE
    waves = write_waves(folder / "waves.zarr")
    run = write_run(folder / "run", waves, scale=0.02)
    write_log(run / "log.jsonl", steps=300)
    inits = ",".join(str(START + index * np.timedelta64(6, "h")) for index in (40, 45))
    forecast(run, waves, inits, STEPS, folder / "forecast.zarr")
    verify(folder / "forecast.zarr", waves, out=folder / "scores")
    page = make_report(folder / "scores", folder / "page.html").path
    return Demonstration(folder, run, folder / "scores", page)


@dataclass(frozen=True)
class EnsemblePage:
    """A page about an ensemble that was verified beside a single forecast, and what it is of.

    ``members (member, time, lead, channel, latitude, longitude)`` start from ``initial_times``.
    """

    planet: Planet
    initial_times: Any
    members: Any
    verification: Path
    page: Path

    @property
    def text(self) -> str:
        return self.page.read_text("utf-8")


PLACES = ("27,100", "-70,-1")


@pytest.fixture(scope="session")
def ensemble_page(tmp_path_factory: pytest.TempPathFactory) -> EnsemblePage:
    folder = tmp_path_factory.mktemp("ensemble")
    planet = write_planet(folder / "truth.zarr", num_times=36)
    inits = planet.times[:33]
    members = np.stack([noisy(planet, inits, seed=seed) for seed in range(3)])
    write_members(folder / "ensemble.zarr", planet, inits, members, "realization")
    # As good as the mean of three members.
    single = noisy(planet, inits, 0.23, seed=9)
    write_forecast(folder / "single.zarr", planet, single, inits, LEADS)
    verification = verify(
        folder / "ensemble.zarr", planet.truth, beside=[str(folder / "single.zarr")], processes=1
    )
    (folder / "scores").mkdir()
    (folder / "scores" / "scores.json").write_text(json.dumps(verification.to_json()))
    page = make_report(folder / "scores", at=[Point.parse(place) for place in PLACES]).path
    return EnsemblePage(planet, inits, members, folder / "scores", page)


def write_log(path: Path, *, steps: int) -> None:
    """What training writes: a record every second step, a validation every hundred."""
    lines = []
    for step in range(2, steps + 1, 2):
        record: dict[str, object] = {
            "step": step,
            "samples": 4 * step,
            "loss": math.exp(-step / 100.0),
            "grad_norm": 0.5,
            "learning_rate": 1e-3,
            "samples_per_second": 20.0,
            "seconds_per_step": 0.2,
            "predicted_seconds_per_step": 0.16,
            "peak_fraction": 0.4,
            "waited_for_data": 0.05,
            "waited_for_ranks": 0.02,
            "peak_memory_bytes": 3e9,
        }
        if step % 100 == 0:
            scores = {"loss": 0.5, "relative_rmse": {"temperature_850": 0.4, "2m_temperature": 0.6}}
            by_lead = {"24": 0.5, "72": 0.9 - step / 1000.0}
            record["validation"] = {
                **scores,
                "rmse_relative_to": {"persistence": by_lead, "climatology": {"72": 1.2}},
                "scores": {
                    "rmse": {"temperature_850": by_lead},
                    "acc": {"temperature_850": by_lead, "2m_temperature": {"24": 0.7}},
                    "bias": {"2m_temperature": by_lead, "temperature_850": {"24": -0.1}},
                },
            }
        lines.append(json.dumps(record))
    path.write_text("\n".join(lines) + '\n{"step": 301, "lo')

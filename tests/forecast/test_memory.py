"""The memory of a rank: it has room for a few states, however many are forecast."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from support.forecast_runs import forecast_on, write_run
from support.planets import write_climatology
from support.ranks import Pool
from support.selection import exhaustive
from support.waves import write_waves
from weathermixer.forecast import batches, scoring
from weathermixer.forecast.forecast import forecast
from weathermixer.forecast.scoring import Scorer
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.verification import pair_sums, results

TIMES = 72
LONGITUDES = 32768
PART_BYTES = 4 * 2 * 8 * LONGITUDES // 2  # of a state, on each of two ranks
ONE, ALL = "2001-01-01", "2001-01-01/2001-01-18T18/6h"
EIGHT = "2001-01-01/2001-01-02T18/6h"  # which are forecast together


def peak_bytes(mesh: Mesh, run: Path, store: Path, out: Path, init: str, steps: int) -> int:
    """The most that this rank's process held, as the system counts it, while it forecast."""
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    assert forecast_on(mesh, run, store, out, init, steps) is None
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("wide")
    waves = write_waves(folder / "waves.zarr", times=TIMES, longitudes=LONGITUDES)
    return write_run(folder / "run", waves, scale=0.01, patch=(8, LONGITUDES // 16)), waves


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(
    ("layout", "few", "many", "more_states"),
    [
        *exhaustive((Layout(domain=2), (ONE, 2), (ONE, 66), 64)),
        (Layout(tensor=2), (EIGHT, 1), (ALL, 1), TIMES - 8),
    ],
    ids=["lead times", "initial times"],
)
def test_it_grows_with_neither_lead_times_nor_initial_times(
    layout: Layout,
    few: tuple[str, int],
    many: tuple[str, int],
    more_states: int,
    run: tuple[Path, Path],
    tmp_path: Path,
    pool: Pool,
) -> None:
    """Holding one more state for each would take twice what is allowed for the system's noise."""
    pool.run(peak_bytes, layout, *run, tmp_path / "first.zarr", *few)  # what is loaded only once
    peaks = [
        pool.run(peak_bytes, layout, *run, tmp_path / f"{number}.zarr", *asked)
        for number, asked in enumerate((few, many))
    ]
    for before, after in zip(*peaks, strict=True):
        assert after - before < more_states * PART_BYTES // 2, (before, after)


@pytest.mark.exhaustive
def test_scores_hold_as_much_after_many_initial_times_as_after_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once as much is kept of the truth as may be: every byte of Python and NumPy is counted."""
    store = write_waves(tmp_path / "waves.zarr", times=24, longitudes=1024)
    state_bytes = 4 * 2 * 8 * 1024
    write_climatology(store, np.full((4, 90, 2, 8, 1024), 270.0, np.float32))
    run = write_run(tmp_path / "run", store, scale=0.01, patch=(8, 64), model={"noise": 2})
    few, many = 5, 14
    held: list[int] = []

    def save(self: Scorer, forecasts: Sequence[int]) -> None:
        original(self, forecasts)
        done = forecasts[-1] // 2 + 1
        if done in (few, many):
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])

    original = Scorer.save
    monkeypatch.setattr(Scorer, "save", save)
    monkeypatch.setattr(scoring, "CACHE_BYTES", 4 * state_bytes)
    monkeypatch.setattr(pair_sums, "_SPECTRA_KEPT", 4)
    monkeypatch.setattr(batches, "_LARGEST_BATCH", 1)
    monkeypatch.setattr(results, "_figures", lambda *_: ())
    tracemalloc.start()
    try:
        init = "2001-01-01/2001-01-04T06/6h"
        forecast(run, store, init, 2, truth=store, scores=tmp_path / "s", members=2)
    finally:
        tracemalloc.stop()
    before, after = held
    # A state, or a spectrum, of each further initial time would take at least twice as much.
    assert after - before < 2 * state_bytes

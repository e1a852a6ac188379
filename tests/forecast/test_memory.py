"""The memory of a rank: it has room for a few states, however many are forecast."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.forecast_runs import forecast_on, write_run
from support.ranks import Pool
from support.selection import exhaustive
from support.waves import write_waves
from weathermixer.forecast.forecast import forecast
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh

TIMES = 72
LONGITUDES = 32768
PART_BYTES = 4 * 2 * 8 * LONGITUDES // 2  # of a state, on each of two ranks
ONE, ALL = "2001-01-01", "2001-01-01/2001-01-18T18/6h"
MOST = "2001-01-01/2001-01-17T18/6h"  # of which the truth has the next state
EIGHT = "2001-01-01/2001-01-02T18/6h"  # which are forecast together


def peak_bytes(
    mesh: Mesh, run: Path, store: Path, out: Path, init: str, steps: int, *, scores: bool = False
) -> int:
    """The most that this rank's process held, as the system counts it, while it forecast.

    Fields are written to ``out``, or scored there; of the truth, few are kept.
    """
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    if scores:
        sizes = [f"parallel.{axis.name}={axis.size}" for axis in mesh.axes]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("weathermixer.forecast.scoring.CACHE_BYTES", 8 * PART_BYTES)
            patch.setattr("weathermixer.verification.pair_sums._SPECTRA_KEPT", 2)
            patch.setattr("weathermixer.verification.results._figures", lambda *_: ())
            forecast(run, store, init, steps, truth=store, scores=out, overrides=sizes)
    else:
        assert forecast_on(mesh, run, store, out, init, steps) is None
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def peak_bytes_of_scores(mesh: Mesh, *arguments: Any) -> int:
    """The same, of a forecast that is scored."""
    return peak_bytes(mesh, *arguments, scores=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("wide")
    waves = write_waves(folder / "waves.zarr", times=TIMES, longitudes=LONGITUDES)
    return write_run(folder / "run", waves, scale=0.01, patch=(8, LONGITUDES // 16)), waves


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(
    ("measure", "layout", "few", "many", "more_states"),
    [
        (peak_bytes, Layout(domain=2), (ONE, 2), (ONE, 66), 64),
        (peak_bytes, Layout(tensor=2), (EIGHT, 1), (ALL, 1), TIMES - 8),
        *exhaustive((peak_bytes_of_scores, Layout(domain=2), (EIGHT, 1), (MOST, 1), TIMES - 12)),
    ],
    ids=["lead times", "initial times", "initial times, scored"],
)
def test_it_grows_with_neither_lead_times_nor_initial_times(
    measure: Callable[..., int],
    layout: Layout,
    few: tuple[str, int],
    many: tuple[str, int],
    more_states: int,
    run: tuple[Path, Path],
    tmp_path: Path,
    pool: Pool,
) -> None:
    """Holding one more state for each would take twice what is allowed for the system's noise."""
    pool.run(measure, layout, *run, tmp_path / "first.zarr", *few)  # what is loaded only once
    peaks = [
        pool.run(measure, layout, *run, tmp_path / f"{number}.zarr", *asked)
        for number, asked in enumerate((few, many))
    ]
    for before, after in zip(*peaks, strict=True):
        assert after - before < more_states * PART_BYTES // 2, (before, after)

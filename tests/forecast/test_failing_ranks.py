"""Forecasts by several ranks of which one fails: the others end, and the command is continued."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr

from support.damaged import remove_chunk
from support.forecast_runs import forecast_on
from support.ranks import Pool
from support.selection import exhaustive
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.launch.failures import RankFailed
from weathermixer.launch.start import start_ranks
from weathermixer.verification.verify import verify

MESH = Layout(domain=2)
TESTS = Path(__file__).parents[1]
INITS, STEPS = "2001-01-02/2001-01-04T12/6h", 5
FIRST_BATCH = 8

Words = Callable[..., list[str]]


@pytest.fixture
def words(waves: Path, random_run: Path) -> Words:
    """A forecast on two ranks, as the command line is given it."""

    def command(out: Path, *, store: Path = waves) -> list[str]:
        sizes = [f"--parallel.domain={MESH.domain}", f"--parallel.tensor={MESH.tensor}"]
        asked = ["--init", INITS, "--steps", str(STEPS), "--out", str(out)]
        return ["forecast", str(random_run), *sizes, "--store", str(store), *asked]

    return command


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        *exhaustive(
            ("full", 2, r"^Error: cannot write to .*f\.zarr\.partial \(.*\): free some space .*"
             r"the same command continues it$"),
        ),
        ("killed", 1, r"^Error: rank 1 was killed by SIGKILL \(last heard in exchange .*\), so the "
         r"other ranks were stopped: continue with the same command$"),
    ],
    ids=["full", "killed"],
)  # fmt: skip
def test_what_was_written_is_kept_and_the_same_command_continues(
    how: str,
    status: int,
    said: str,
    words: Words,
    waves: Path,
    random_run: Path,
    tmp_path: Path,
    pool: Pool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, partial = tmp_path / "f.zarr", tmp_path / "f.zarr.partial"
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=":")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, str(TESTS / "support" / "failing_forecasts.py"), how, *words(out)]
    with pytest.raises(RankFailed, match=said) as failure:
        start_ranks(command, MESH.world_size, remedy="continue with the same command")
    assert failure.value.status == status

    assert not out.exists()
    for unfinished in (out, partial):
        with pytest.raises(UserError, match="is unfinished"):
            verify(unfinished, waves)
    marks = {path.name for path in (partial / ".progress").iterdir()} - {"description.json"}
    assert marks == {str(number) for number in range(FIRST_BATCH)}
    kept = {path: path.stat().st_mtime_ns for path in _chunks(partial, below=FIRST_BATCH)}
    assert kept

    asked = (INITS, STEPS)
    assert pool.run(forecast_on, MESH, random_run, waves, out, *asked) == [None, None]
    assert not partial.exists()
    for path, time in kept.items():
        assert (out / path.relative_to(partial)).stat().st_mtime_ns == time
    whole = tmp_path / "whole.zarr"
    assert pool.run(forecast_on, MESH, random_run, waves, whole, *asked) == [None, None]
    xr.testing.assert_identical(xr.open_zarr(out).load(), xr.open_zarr(whole).load())


def _chunks(forecast: Path, *, below: int) -> list[Path]:
    """The chunks of the initial times below a number."""
    return [
        chunk
        for time in forecast.glob("*/c/*")
        if int(time.name) < below
        for chunk in time.rglob("*")
        if chunk.is_file()
    ]


@pytest.mark.exhaustive
def test_a_chunk_that_is_missing_under_one_rank_ends_all_and_names_the_time(
    words: Words, waves: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    store = tmp_path / "waves.zarr"
    shutil.copytree(waves, store)
    remove_chunk(store, time=9, channel=1, longitude=15)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-m", "weathermixer", *words(tmp_path / "f.zarr", store=store)]
    with pytest.raises(RankFailed) as failure:
        start_ranks(command, MESH.world_size, remedy="continue with the same command")
    assert failure.value.status == 2
    assert str(failure.value).startswith("Error: ")
    assert "the state at 2001-01-03T06:00:00 has missing chunks" in str(failure.value)
    assert "Error" not in capfd.readouterr().err  # the command says it, and no rank besides

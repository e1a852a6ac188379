"""Preparing a store where it is interrupted: killed, out of space, out of memory, and continued."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
import zarr.storage._local as local_storage

from support.disk import contents
from support.processes import wait_until_gone
from support.selection import exhaustive
from weathermixer.data.making.preparation import prepare
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError

Archive = Callable[..., xr.Dataset]
Saved = Callable[..., str]


def test_full_disk_is_named_and_the_same_call_continues(
    archive: Archive, saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(archive(times=40), "wb2.zarr")
    prepare(tmp_path / "reference.zarr", [source])
    with monkeypatch.context() as patched, pytest.raises(UserError) as error:
        fill_disk_after(30, patched)
        prepare(tmp_path / "store.zarr", [source])
    assert "store.zarr.partial (No space left on device): free some space" in str(error.value)
    with pytest.raises(UserError, match="only half prepared"):
        Store.open(tmp_path / "store.zarr")
    prepare(tmp_path / "store.zarr", [source])
    assert contents(tmp_path / "store.zarr") == contents(tmp_path / "reference.zarr")


def test_limit_on_file_sizes_is_named(archive: Archive, saved: Saved, tmp_path: Path) -> None:
    source = saved(archive(times=3, columns=512), "wb2.zarr")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(
            UserError, match=r"cannot write to .*store.zarr.partial \(File too large"
        ):
            prepare(tmp_path / "store.zarr", [source])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_read_only_folder_is_named(
    archive: Archive, saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(archive(times=3), "wb2.zarr")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"cannot write to .* \(Read-only file system\)"):
        prepare(tmp_path / "store.zarr", [source])


_PREPARE_SLOWLY = """
import multiprocessing, sys, time
from pathlib import Path
from weathermixer.data.making.preparation import prepare

def progress(done, total):
    print(done, *(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(0.02)

if __name__ == "__main__":
    prepare(Path(sys.argv[1]), [sys.argv[2]], processes=int(sys.argv[3]), progress=progress)
"""


@pytest.mark.parametrize("processes", [1, *exhaustive(2)])
def test_killed_preparation_continues_to_an_identical_store(
    archive: Archive, saved: Saved, tmp_path: Path, processes: int
) -> None:
    source = saved(archive(times=100), "wb2.zarr")
    prepare(tmp_path / "reference.zarr", [source], processes=1)
    script = tmp_path / "prepare_slowly.py"
    script.write_text(_PREPARE_SLOWLY)
    out = tmp_path / "store.zarr"
    command = [sys.executable, str(script), str(out), source, str(processes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            done, *workers = map(int, line.split())
            if done >= 40:
                break
        running.send_signal(signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL
    for worker in workers:
        wait_until_gone([worker])

    with pytest.raises(UserError, match="only half prepared"):
        Store.open(out)
    remaining: list[int] = []
    prepare(out, [source], processes=1, progress=lambda _, total: remaining.append(total))
    assert remaining[0] < 100, "finished blocks are not prepared again"
    assert contents(out) == contents(tmp_path / "reference.zarr")


def test_kill_between_renaming_and_tidying_leaves_a_whole_store(
    archive: Archive, saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def rename_and_die(self: Path, target: Path) -> Path:
        rename(self, target)
        if target.name == "store.zarr":
            raise KeyboardInterrupt
        return target

    monkeypatch.setattr(Path, "rename", rename_and_die)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "store.zarr", [saved(archive(times=3), "wb2.zarr")])
    assert Store.open(tmp_path / "store.zarr").read(2).shape == (5, 8, 16)


def test_killed_worker_is_reported_as_want_of_memory(
    archive: Archive, saved: Saved, tmp_path: Path
) -> None:
    source = saved(archive(times=200), "wb2.zarr")
    script = tmp_path / "lose_a_worker.py"
    kill_one = "[child.kill() for child in multiprocessing.active_children()[:1]]"
    script.write_text(_PREPARE_SLOWLY.replace("time.sleep(0.02)", kill_one))
    command = [sys.executable, str(script), str(tmp_path / "store.zarr"), source, "2"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert "run the same command again with a smaller --processes" in ended.stderr


@pytest.mark.exhaustive
def test_memory_does_not_grow_with_the_source(tmp_path: Path) -> None:
    script = tmp_path / "measure.py"
    script.write_text("""
import resource, sys
from pathlib import Path
import dask.array, numpy as np, xarray as xr
from weathermixer.data.making.preparation import prepare

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

shape = (64, 720, 1440)
hours = np.arange(shape[0]) * np.timedelta64(6, "h")
field = dask.array.full(shape, 280.0, chunks=(1, -1, -1), dtype="float32")
xr.Dataset(
    {"2m_temperature": (("time", "latitude", "longitude"), field)},
    {"time": np.datetime64("2020-01-01", "ns") + hours,
     "latitude": 90 - (np.arange(720) + 0.5) / 4, "longitude": np.arange(1440) / 4},
).to_zarr(sys.argv[1], zarr_format=2)
before = peak()
prepare(Path(sys.argv[2]), [sys.argv[1]], processes=1, climatology=False)
print(peak() - before, field.nbytes // 1024**2)
""")
    paths = [str(tmp_path / name) for name in ("source.zarr", "store.zarr")]
    ended = subprocess.run(
        [sys.executable, str(script), *paths], capture_output=True, text=True, check=True
    )
    growth, source = map(int, ended.stdout.split())
    assert source > 250
    assert growth < 190, f"grew by {growth} MiB on a source of {source} MiB"


def fill_disk_after(count: int, patched: pytest.MonkeyPatch) -> None:
    """Lets ``count`` states be written into Zarr stores, then fails as a full disk does."""
    put, written = local_storage._put, 0

    def put_or_fail(path: Path, *args: Any, **kwargs: Any) -> Any:
        nonlocal written
        written += "state" in path.parts
        if written > count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return put(path, *args, **kwargs)

    patched.setattr(local_storage, "_put", put_or_fail)

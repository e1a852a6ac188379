"""A run on a file system that shows other ranks what it was some time ago."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from support.ranks import Pool
from support.waves import START, wave_config
from weathermixer.forecast.forecast import forecast
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh, is_first_rank
from weathermixer.training.trainer import train

_LOOKING = (
    "exists", "is_dir", "is_file", "glob", "iterdir", "mkdir", "open", "read_bytes", "read_text",
    "rename", "replace", "rglob", "stat", "touch", "unlink",
)  # fmt: skip


@contextmanager
def _only_the_first_looks(*folders: Path) -> Iterator[None]:
    """While entered, other ranks open the records of checkpoints in these folders, and no more.

    But for the log that each has of itself.
    """

    def refusing(plain: Any) -> Any:
        def look(path: Path, *arguments: Any, **options: Any) -> Any:
            inside = any(path.is_relative_to(folder) for folder in folders)
            inside &= "ranks" not in path.parts
            assert not inside or path.suffix == ".distcp", f"asks for {path}"
            return plain(path, *arguments, **options)

        return look

    with pytest.MonkeyPatch.context() as patch:
        if not is_first_rank():
            for name in _LOOKING:
                patch.setattr(Path, name, refusing(getattr(Path, name)))
        yield


def _train_and_forecast(mesh: Mesh, waves: Path, folder: Path) -> None:
    """Work for a pool: a training, its continuation from a damaged checkpoint, a forecast."""
    run, out, quiet = folder / "run", folder / "forecast.zarr", Console(quiet=True)
    sizes = {"data": mesh.layout.data, "domain": mesh.layout.domain, "tensor": mesh.layout.tensor}
    config = wave_config(waves, parallel=sizes, checkpoint={"every": 2, "best": "loss"})
    with _only_the_first_looks(run, out):
        assert train(config, run, console=quiet).checkpoint.name == "step-00000012"
        if is_first_rank():
            (run / "checkpoints" / "step-00000012" / "__1_0.distcp").write_bytes(b"")
        resumed = train(config, run, resume=True, console=quiet)
        assert resumed.start_step == 10
        forecast(run, waves, str(START), 1, out, checkpoint="best")


@pytest.mark.parametrize("layout", [Layout(data=2), Layout(domain=2)], ids=str)
def test_only_the_first_rank_asks_what_there_is(
    waves: Path, tmp_path: Path, pool: Pool, layout: Layout
) -> None:
    pool.run(_train_and_forecast, layout, waves, tmp_path)
    assert (tmp_path / "forecast.zarr" / "zarr.json").exists()

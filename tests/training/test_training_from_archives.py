"""Training straight from an archive is training from the store that is prepared from it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from support.meshed import TrainingOrder, mesh_settings, train_all
from support.ranks import Pool
from support.waves import wave_config, write_waves
from support.weatherbench import LAYOUTS, as_dataset, write_archive
from weathermixer.config import Config
from weathermixer.data.making.preparation import prepare
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError
from weathermixer.forecast.forecast import forecast
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.runs.run import Run
from weathermixer.training.trainer import train

ONE = Layout()


class TwoSources(NamedTuple):
    """The same sixty states twice; of 48 for training, all 47 pairs enter the statistics."""

    archive: str
    store: Path


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> TwoSources:
    folder = tmp_path_factory.mktemp("sources")
    dataset = as_dataset(Store.open(write_waves(folder / "waves.zarr", pulse=8.0)))
    dataset["land_sea_mask"] = dataset["land_sea_mask"].clip(0.0, 1.0)
    archive = write_archive(dataset, folder / "archive.zarr", LAYOUTS["from 180 W"], time=4)
    prepare(folder / "store.zarr", [archive], climatology=False)
    return TwoSources(archive, folder / "store.zarr")


def config(
    source: str | Path, layout: Layout = ONE, *, reader: str = "zarr", steps: int = 3
) -> Config:
    training = {"warmup_steps": 1, "dtype": "float64", "validate_every": 3, "cycle_steps": 10}
    return wave_config(
        Path(source),
        data={"reader": reader},
        training=training | {"steps": steps},
        parallel=mesh_settings(layout),
        checkpoint={"every": 1},
    )


@pytest.mark.parametrize("layout", [ONE, Layout(domain=2), Layout(tensor=2)], ids=str)
def test_losses_are_those_of_the_prepared_store(
    pool: Pool, sources: TwoSources, layout: Layout, tmp_path: Path
) -> None:
    orders = [
        TrainingOrder(config(source, layout), tmp_path / name)
        for source, name in ((sources.archive, "archive"), (sources.store, "store"))
    ]
    ranks = (
        [train_all(Mesh.describe(), orders)]
        if layout == ONE
        else pool.run(train_all, layout, orders)
    )
    for ours, theirs in ranks:
        assert ours.result.loss == pytest.approx(theirs.result.loss, rel=1e-10)
        assert ours.result.grad_norm == pytest.approx(theirs.result.grad_norm, rel=1e-10)
        assert ours.result.validation[3].loss == pytest.approx(
            theirs.result.validation[3].loss, rel=1e-10
        )
        assert ours.result.bytes_read_per_step == theirs.result.bytes_read_per_step


def test_what_chunks_cost_is_said_and_statistics_are_estimated_once(
    sources: TwoSources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config(sources.archive), tmp_path / "run", console=Console(stderr=True, width=500))
    said = capsys.readouterr().err
    assert said.count("archive.zarr make a rank of the mesh domain 1") == 1
    assert "4 times its share" in said
    assert f"estimating the statistics of {sources.archive}: 47 of 47" in said

    longer = config(sources.archive, steps=4)
    train(longer, tmp_path / "run", resume=True, console=Console(quiet=True))
    assert "estimating" not in capsys.readouterr().err


def test_a_forecast_starts_from_an_archive_as_from_the_store(
    sources: TwoSources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config(sources.archive), tmp_path / "run", console=Console(quiet=True))
    capsys.readouterr()
    init = "2001-01-03,2001-01-05T18"
    for source in sources:
        forecast(tmp_path / "run", source, init, 2, tmp_path / f"{Path(source).stem}-f.zarr")
    assert "4 times its share" in capsys.readouterr().err
    ours, theirs = (xr.open_zarr(tmp_path / f"{Path(s).stem}-f.zarr") for s in sources)
    for name, values in theirs.data_vars.items():
        np.testing.assert_array_equal(ours[name], values)


def test_a_run_goes_on_with_another_reader(sources: TwoSources, tmp_path: Path) -> None:
    pytest.importorskip("tensorstore", reason="the package tensorstore is not installed")
    whole = train(config(sources.store), tmp_path / "whole", console=Console(quiet=True))
    for steps, reader in ((2, "zarr"), (3, "tensorstore")):
        settings = config(sources.store, reader=reader, steps=steps)
        resumed = train(settings, tmp_path / "run", resume=True, console=Console(quiet=True))
    assert resumed.start_step == 2
    assert resumed.loss == whole.loss[2:]
    assert Run.open(tmp_path / "run").config.data.reader == "tensorstore"


def test_a_missing_chunk_ends_a_training_with_its_time(sources: TwoSources, tmp_path: Path) -> None:
    dataset = as_dataset(Store.open(sources.store))
    path = tmp_path / "archive.zarr"
    write_archive(dataset, path, time=1)
    (path / "temperature" / "7.0.0.0").unlink()
    with pytest.raises(UserError, match="temperature_850 at 2001-01-02T18:00:00 was never"):
        train(config(path), tmp_path / "run", console=Console(quiet=True))

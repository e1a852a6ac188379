"""Holes in the data are known when a training begins, not when it comes to them."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from rich.console import Console

from support.damaged import remove_chunk
from support.meshed import TrainingOrder, train_refused
from support.ranks import Pool
from support.waves import wave_config
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.runs.run import Run
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.trainer import train


def ending(waves: Path, path: Path, last: int) -> Path:
    """The waves, with times that go on after ``last``, where the data have ended."""
    shutil.copytree(waves, path)
    state: Any = zarr.open_group(path, mode="r+", use_consolidated=False)["state"]
    state[last + 1 :] = np.nan
    return path


def test_data_that_end_before_the_training_period_does_are_refused_at_once(
    waves: Path, tmp_path: Path
) -> None:
    store = ending(waves, tmp_path / "waves.zarr", 45)
    with pytest.raises(UserError) as caught:
        train(wave_config(store), tmp_path / "run", console=Console(quiet=True))
    said = str(caught.value)
    assert said.startswith(
        "training needs the states from 2001-01-12T12:00:00 to 2001-01-12T18:00:00, which cannot "
        "be read ("
    )
    assert "end data.train before them" in said
    assert not (tmp_path / "run").exists()


def test_data_that_end_after_the_last_sample_that_is_needed_are_no_hindrance(
    waves: Path, tmp_path: Path
) -> None:
    """Three steps read a few of a store's hundred times; the data end after these."""
    config = wave_config(waves, training={"steps": 3, "instance_batch": 1})
    with TrainingLoop.begin(config, tmp_path / "looked-at") as loop:
        needed = max(loop.next_batch().indices.max() for _ in range(3))
    assert needed < 47
    store = ending(waves, tmp_path / "waves.zarr", int(needed))
    config = wave_config(store, training={"steps": 3, "instance_batch": 1})
    result = train(config, tmp_path / "run", console=Console(quiet=True))
    assert len(result.loss) == 3


def test_data_that_end_within_the_validation_period_leave_the_samples_before(
    waves: Path, tmp_path: Path
) -> None:
    store = ending(waves, tmp_path / "waves.zarr", 50)
    said = io.StringIO()
    result = train(wave_config(store), tmp_path / "run", console=Console(file=said, width=1000))
    first, *_ = said.getvalue().splitlines()
    assert first.startswith(
        "2 of the 4 validation samples cannot be read, the first of them from 2001-01-13T18:00:00 ("
    )
    assert first.endswith("): validations use the other 2")
    # As a validation period that ends there has it.
    shorter = wave_config(waves, data={"validation": "2001-01-13/2001-01-13T12"})
    assert TrainingLoop.begin(shorter, tmp_path / "shorter").validation_samples.tolist() == [
        [48, 49], [49, 50],
    ]  # fmt: skip
    newest = Run.open(tmp_path / "run").newest_checkpoint()
    assert newest is not None
    with TrainingLoop.begin(shorter, tmp_path / "other") as loop:
        loop.load(newest)
        assert loop.validate() == result.validation[12]


def test_a_sample_whose_forecasts_have_no_truth_is_left_out(waves: Path, tmp_path: Path) -> None:
    """Samples begin at the times 48 to 51, and are scored two steps later; the data end at 51."""
    store = ending(waves, tmp_path / "waves.zarr", 51)
    config = wave_config(store, training={"validation_leads": [12]})
    said = io.StringIO()
    result = train(config, tmp_path / "run", console=Console(file=said, width=1000))
    assert said.getvalue().startswith("2 of the 4 validation samples cannot be read, the first of ")
    assert result.validation[12].rmse_relative_to["persistence"].keys() == {"12"}
    with TrainingLoop.begin(config, tmp_path / "other") as loop:
        assert loop.validation_samples.tolist() == [[48, 49], [49, 50]]


def test_data_that_end_before_the_validation_period_leave_no_validation(
    waves: Path, tmp_path: Path
) -> None:
    store = ending(waves, tmp_path / "waves.zarr", 47)
    said = io.StringIO()
    result = train(wave_config(store), tmp_path / "run", console=Console(file=said, width=1000))
    sentences = [line for line in said.getvalue().splitlines() if "validation" in line]
    assert len(sentences) == 1
    assert sentences[0].startswith("4 of the 4 validation samples cannot be read, ")
    assert sentences[0].endswith("): there will be no validation")
    assert result.validation == {}


@pytest.mark.parametrize("layout", [Layout(domain=2), Layout(data=2)], ids=str)
def test_a_hole_under_one_rank_is_told_alike_by_all(
    layout: Layout, waves: Path, tmp_path: Path, pool: Pool
) -> None:
    store = tmp_path / "waves.zarr"
    shutil.copytree(waves, store)
    remove_chunk(store, time=47, channel=1, longitude=15)
    config = wave_config(
        store, parallel={"data": layout.data, "domain": layout.domain, "tensor": 1}
    )
    orders = [TrainingOrder(config, tmp_path / "run")] * 2
    first, other = pool.run(train_refused, layout, orders)
    assert first == other
    assert first.startswith("training needs the states from 2001-01-12T12:00:00 to ")

"""Static fields are read by one rank, once, and each rank keeps its part of them alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from oracles.store_statistics import area_weights
from support.meshed import mesh_settings
from support.ranks import Pool
from support.waves import LATITUDE, wave_config, write_waves
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.store.store import Store
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.notices import Notices

LAYOUT = Layout(domain=2, tensor=2)


@dataclass(frozen=True)
class Kept:
    """What a rank read of static fields, in bytes of the store and of the run, and what it keeps.

    ``network`` are the static fields that the network is given.
    """

    of_store: int
    of_run: int
    in_run: int
    network: NDArray[np.float32]


def begun(mesh: Mesh, waves: Path, run: Path, resume: bool) -> Kept:
    """Work for a pool: begin a training, or go on with one, and take a step."""
    read = {"store": 0, "run": 0}
    read_static, load = Store.read_static, Normalisation.load

    def counted(store: Store, wanted: list[str]) -> NDArray[np.float32]:
        fields = read_static(store, wanted)
        read["store"] += fields.nbytes
        return fields

    def loaded(path: Path) -> Normalisation:
        found = load(path)
        read["run"] += found.static.nbytes
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "read_static", counted)
        patch.setattr(Normalisation, "load", loaded)
        config = wave_config(waves, parallel=mesh_settings(mesh.layout))
        with TrainingLoop.begin(
            config, run, resume=resume, notices=Notices(lambda _: None)
        ) as loop:
            loop.step()
            loop.save()
            held = loop.normalisation.static
            in_run = loop.run.normalisation.static.nbytes
    return Kept(read["store"], read["run"], in_run, held)


def test_one_rank_reads_static_fields_and_each_keeps_its_part_of_them(
    tmp_path: Path, pool: Pool
) -> None:
    waves = write_waves(tmp_path / "w.zarr", times=20)
    raw = np.linspace(-1.0, 3.0, 8 * 16, dtype=np.float32).reshape(8, 16).astype(np.float64)
    weights = area_weights(LATITUDE)[:, None] / 16.0
    mean = (raw * weights).sum()
    expected = (raw - mean) / np.sqrt((np.square(raw - mean) * weights).sum())
    alone = begun(Mesh.describe(), waves, tmp_path / "alone", False)
    assert alone.of_store == raw.size * 4 and alone.in_run == 0
    np.testing.assert_allclose(alone.network[0], expected, rtol=1e-6)
    for resume in (False, True):
        ranks = pool.run(begun, LAYOUT, waves, tmp_path / "run", resume)
        whole = np.zeros_like(alone.network)
        for number, kept in enumerate(ranks):
            # A run that goes on has its own, whatever the store holds now.
            assert kept.of_store == (raw.size * 4 if number == 0 and not resume else 0)
            assert (kept.of_run > 0) == (number == 0)
            assert kept.in_run == 0
            half = slice(8 * (number // 2), 8 * (number // 2) + 8)
            assert kept.network.base is None and kept.network.shape[1:] == (8, 8)
            whole[0, :, half] += kept.network.sum(axis=0)
        # One field for two ranks along `tensor`: one of them has it.
        assert sorted(len(kept.network) for kept in ranks) == [0, 0, 1, 1]
        np.testing.assert_array_equal(whole, alone.network)

"""A run that goes on with other ranks, on another mesh, with other batches, in mid-epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from support.ranks import Pool
from support.waves import state, wave_config
from weathermixer.data.feeding.samples import require_windows, training_period
from weathermixer.data.store.store import Store
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.training.loop import TrainingLoop

# The mesh, the samples of an instance, and the steps: 12, 12, 10 and 16 samples.
PHASES = [
    (Layout(), 4, 3),
    (Layout(data=2), 3, 2),
    (Layout(domain=2), 5, 2),
    (Layout(data=2, tensor=2), 2, 4),
]


def _take(mesh: Mesh, waves: Path, run: Path, batch: int, steps: int) -> list[list[int]]:
    """Work for a pool: go on for some steps; the first times of the samples that each one read.

    That the states are those of these times is seen by what they hold. When this ends, later
    batches have been read ahead, which nobody has learned from.
    """
    sizes = {"data": mesh.layout.data, "domain": mesh.layout.domain, "tensor": mesh.layout.tensor}
    config = wave_config(waves, parallel=sizes, training={"steps": 1000, "instance_batch": batch})
    seen = []
    with TrainingLoop.begin(config, run, resume=True) as loop:
        part, normalisation = loop.job.part, loop.run.normalisation
        for _ in range(steps):
            fed = loop.next_batch()
            for states, indices in zip(fed.states.numpy(), fed.indices, strict=True):
                for values, index in zip(states, indices, strict=True):
                    expected = normalisation.normalise(state(int(index)))
                    np.testing.assert_allclose(
                        values, expected[part.channels, :, part.longitudes], atol=1e-5
                    )
            seen.append([int(first) for first in fed.indices[:, 0]])
            loop.step(fed)
        loop.save()
    return seen


def test_each_sample_of_an_epoch_is_seen_once_through_three_changes_of_the_mesh(
    waves: Path, tmp_path: Path, pool: Pool
) -> None:
    seen: list[int] = []
    for layout, batch, steps in PHASES:
        arguments = (waves, tmp_path / "run", batch, steps)
        by_rank = (
            [_take(Mesh.describe(), *arguments)]
            if layout.world_size == 1
            else pool.run(_take, layout, *arguments)
        )
        for rank, own in enumerate(by_rank):
            leader = layout.at(rank).coordinates.data * layout.ways
            assert own == by_rank[leader]  # the ranks of an instance see the same
        for step in range(steps):
            for instance in range(layout.data):
                seen += by_rank[instance * layout.ways][step]
    config, store = wave_config(waves), Store.open(waves)
    firsts = require_windows(store, 6.0, 1, training_period(config.data, store), key="data.train")[
        :
    ][:, 0]
    assert len(seen) == 50 > len(firsts) == 47
    assert sorted(seen[: len(firsts)]) == firsts.tolist()
    assert seen[: len(firsts)] != firsts.tolist()

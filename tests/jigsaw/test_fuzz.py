"""Networks and trainings drawn at random compute on any mesh what they do on one process."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from support.networks import mesh_name
from support.random_differences import mistakes
from support.random_trainings import Training, draw_training, run_trainings
from support.ranks import MOST, Pool, RankFailed
from weathermixer.jigsaw.layout import Layout

# Meshes of as many ranks follow one another, so that these are started once.
MESHES = [
    Layout(data=data, domain=domain, tensor=ranks // data // domain)
    for ranks in range(1, MOST + 1)
    for data in range(1, ranks + 1)
    for domain in range(1, ranks + 1)
    if ranks % (data * domain) == 0
]
SEEDS = 8  # networks on each mesh


def check(pool: Pool, layout: Layout, trainings: Sequence[Training]) -> None:
    """Run trainings on a mesh, all at once; and where some fail, say all that makes them again."""
    try:
        ranks = pool.run(run_trainings, layout, trainings)
        outcomes = [
            mistakes(training, found, 1e-10)
            for training, *found in zip(trainings, *ranks, strict=True)
        ]
    except RankFailed:
        outcomes = [run_alone(pool, layout, training) for training in trainings]
    failed = [
        f"draw_training({layout}, {training.seed}) fails: {'; '.join(said)}\n{training}"
        for training, said in zip(trainings, outcomes, strict=True)
        if said
    ]
    assert not failed, "\n\n".join(failed)


def run_alone(pool: Pool, layout: Layout, training: Training) -> list[str]:
    """What is wrong with one of several trainings, some of which did not end."""
    try:
        ranks = pool.run(run_trainings, layout, [training], deadline_seconds=20)
    except RankFailed as error:
        return [str(error)]
    return mistakes(training, [found for (found,) in ranks], 1e-10)


@pytest.mark.parametrize("layout", MESHES, ids=mesh_name)
def test_random_networks_train_as_on_one_process(pool: Pool, layout: Layout) -> None:
    check(pool, layout, [draw_training(layout, seed) for seed in range(SEEDS)])

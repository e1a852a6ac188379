"""Trainings on every rank of a mesh, and what each rank is left with, for tests to compare."""

from __future__ import annotations

import io
import os
import signal
import warnings
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_plainly

from oracles.layers import Held
from support.networks import held_parameters, join_each
from support.waves import wave_config
from weathermixer.config import Config
from weathermixer.data.feeding.read_ahead import Batch
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.mixer import WeatherMixer
from weathermixer.training.history import StepReport
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.result import TrainResult
from weathermixer.training.state import TrainingState
from weathermixer.training.trainer import train

# In the order in which tests want them: a pool of ranks serves meshes of one size.
MESHES = [
    Layout(data=data, domain=domain, tensor=tensor)
    for data, domain, tensor in (
        (1, 3, 1), (1, 1, 3),
        (1, 1, 2), (1, 2, 1), (2, 1, 1),
        (1, 2, 2), (1, 4, 1), (1, 1, 4), (2, 2, 1), (2, 1, 2),
        (1, 3, 2),
        (1, 4, 2),
    )
]  # fmt: skip
BATCH = 4  # samples of an optimizer step, over all replicas
LEVELS = (300, 500, 700, 850)
LONGITUDES = 15
EVEN_LEVELS = (300, 500, 850)
EVEN_LONGITUDES = 24


def uneven_config(store: Path, layout: Layout | None = None, **sections: dict[str, Any]) -> Config:
    """Five columns of patches, five variables, and widths that no mesh of these tests divides."""
    training = {
        "steps": 5,
        "warmup_steps": 1,
        "dtype": "float64",
        "rollout": {0: 1, 2: 2},
        "cycle_steps": 10,
        "validate_every": 5,
        "validation_samples": 5,
        "instance_batch": BATCH // (layout.data if layout else 1),
        **sections.pop("training", {}),
    }
    model = {
        "patch": [4, 3],
        "channels": 13,
        "token_hidden": 1.1,
        "channel_hidden": 1.3,
        **sections.pop("model", {}),
    }
    return wave_config(
        store,
        model=model,
        data={"levels": list(LEVELS), **sections.pop("data", {})},
        training=training,
        parallel=mesh_settings(layout) | sections.pop("parallel", {}),
        checkpoint={"every": 3, "keep": 3},
        **sections,
    )


def even_config(store: Path, layout: Layout | None = None, *, sharded: bool = False) -> Config:
    """A network that two and four ranks divide evenly, with little in it that they hold alike."""
    return wave_config(
        store,
        model={
            "patch": [4, 2],
            "channels": 768,
            "blocks": 1,
            "token_hidden": 2.0,
            "channel_hidden": 2.0,
        },
        data={"levels": list(EVEN_LEVELS), "static": []},
        training={
            "steps": 2,
            "warmup_steps": 1,
            "validate_every": 100,
            "instance_batch": BATCH // (layout.data if layout else 1),
        },
        parallel=mesh_settings(layout) | {"shard_optimizer": sharded},
        checkpoint={"every": 100},
    )


def mesh_settings(layout: Layout | None) -> dict[str, Any]:
    """The section of a configuration that asks for a mesh."""
    if layout is None:
        return {}
    return {"data": layout.data, "domain": layout.domain, "tensor": layout.tensor}


@dataclass(frozen=True)
class TrainingOrder:
    """A training to be done: a new run, or the continuation of one."""

    config: Config
    out: Path
    resume: bool = False


@dataclass(frozen=True)
class RankEnd:
    """What a training was on one rank."""

    result: TrainResult
    initial: dict[str, Held]  # parameters, before anything was loaded
    final: dict[str, Held]


@dataclass(frozen=True)
class TrainedRun:
    """A training as all of its ranks saw it."""

    out: Path
    ranks: list[RankEnd]

    @property
    def result(self) -> TrainResult:
        return self.ranks[0].result

    def initial(self) -> dict[str, Tensor]:
        """The whole parameters before the first step; what ranks share is the same bits."""
        return join_each([rank.initial for rank in self.ranks])

    def final(self) -> dict[str, Tensor]:
        """The whole parameters after the last step; what ranks share is the same bits."""
        return join_each([rank.final for rank in self.ranks])


def train_all(mesh: Mesh, orders: Sequence[TrainingOrder]) -> list[RankEnd]:
    """Work for a pool: the trainings, one after the other, on the rank that ``mesh`` describes."""
    return [_train(order) for order in orders]


def by_order(
    orders: Sequence[TrainingOrder], ranks: Sequence[Sequence[RankEnd]]
) -> list[TrainedRun]:
    """What all ranks returned from ``train_all``, training by training."""
    return [
        TrainedRun(order.out, [ends[number] for ends in ranks])
        for number, order in enumerate(orders)
    ]


def _train(order: TrainingOrder) -> RankEnd:
    states: list[TrainingState] = []
    initial: dict[str, Held] = {}
    plain = TrainingState.initial

    def watched(model: WeatherMixer, *others: Any, **options: Any) -> TrainingState:
        initial.update(held_parameters(model))
        states.append(plain(model, *others, **options))
        return states[-1]

    with patch.object(TrainingState, "initial", watched):
        result = train(order.config, order.out, resume=order.resume, console=Console(quiet=True))
    return RankEnd(result, initial, held_parameters(states[0].model))


def stored(checkpoint: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, whole, as PyTorch's own code reads it on one process."""
    metadata = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    tensors: dict[str, Any] = {}
    for name, there in metadata.items():
        assert isinstance(there, TensorStorageMetadata)
        tensors[name] = torch.full(there.size, 77, dtype=there.properties.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load_plainly(tensors, checkpoint_id=checkpoint, no_dist=True)
    return tensors


def has_no_effect(name: str) -> bool:
    """Whether a parameter has no gradient but rounding, which Adam then makes steps of.

    A bias of the second half of token mixing adds the same to all channels of a token, and every
    layer norm after it takes this away.
    """
    return name.endswith(".0.contract.bias")


def distances(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """The norm of each tensor's difference, relative to the tensor's own norm."""
    assert actual.keys() == expected.keys()
    return {
        name: float((actual[name].double() - value.double()).norm() / value.double().norm())
        for name, value in expected.items()
        if not has_no_effect(name)
    }


def train_heard(mesh: Mesh, orders: Sequence[TrainingOrder]) -> list[tuple[TrainResult, list[str]]]:
    """Work for a pool: the trainings in turn, each with the lines that this rank said."""
    heard = []
    for order in orders:
        said = io.StringIO()
        result = train(order.config, order.out, console=Console(file=said, width=1000))
        heard.append((result, said.getvalue().splitlines()))
    return heard


def train_spoiled(mesh: Mesh, order: TrainingOrder, rank: int, at_step: int) -> str:
    """Work for a pool: a training of which one rank is given a NaN; what each rank says of it.

    The NaN is in the last channel, first target and second sample that the rank has.
    """
    next_batch = TrainingLoop.next_batch

    def spoiled(loop: TrainingLoop) -> Batch:
        batch = next_batch(loop)
        if loop.state.step == at_step - 1 and mesh.layout.rank == rank:
            batch.states[1, 1, -1, 3, 1] = torch.nan
        return batch

    with (
        patch.object(TrainingLoop, "next_batch", spoiled),
        pytest.raises(UserError) as caught,
    ):
        train(order.config, order.out, console=Console(quiet=True))
    return str(caught.value)


def train_refused(mesh: Mesh, orders: Sequence[TrainingOrder]) -> str:
    """Work for a pool: a training that every rank refuses, and what it says.

    Each has an order of its own, and works in the folder of its run.
    """
    order = orders[mesh.layout.rank]
    with chdir(order.out.parent), pytest.raises((UserError, LayoutError)) as caught:
        train(order.config, order.out, console=Console(quiet=True))
    return str(caught.value)


def train_stopped_late(mesh: Mesh, order: TrainingOrder) -> TrainResult:
    """Work for a pool: rank 1 is asked to stop in its third step, the others when they save."""
    plain_step, plain_save = TrainingLoop.step, TrainingLoop.save

    def step(loop: TrainingLoop, batch: Batch | None = None) -> StepReport:
        if mesh.layout.rank == 1 and loop.state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain_step(loop, batch)

    def save(loop: TrainingLoop) -> Path:
        if mesh.layout.rank != 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain_save(loop)

    with (
        patch.object(TrainingLoop, "step", step),
        patch.object(TrainingLoop, "save", save),
    ):
        return train(order.config, order.out, console=Console(quiet=True))

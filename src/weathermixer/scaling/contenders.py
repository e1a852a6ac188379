"""What takes the steps that are measured: the training loop itself, or a peer on the same batches.

Building and stepping are collective over the ranks of a case; the others do something else.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grad_norm_

from weathermixer.data.channels import names, predicted_channels
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.feeding.read_ahead import StateReader, kept_states_bytes, read_ahead
from weathermixer.data.feeding.samples import Windows, training_plan
from weathermixer.data.states import States
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.job import Job
from weathermixer.launch.ranks import this_rank
from weathermixer.model.architecture import Architecture, architecture_of
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.model.cuts import Part
from weathermixer.model.mixer import WeatherMixer
from weathermixer.planning.choosing import MeshChoice
from weathermixer.runs.building import build_model
from weathermixer.runs.run import Run
from weathermixer.scaling.cases import Case
from weathermixer.scaling.least_bytes import LeastBytes
from weathermixer.scaling.peers import cut_weights, replicate
from weathermixer.training.beginning import Beginning
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.loss import recent_and_targets, rollout_loss
from weathermixer.training.optimizer import build_optimizer, set_step
from weathermixer.training.passes import Objective


@dataclass(frozen=True)
class Samples:
    """Where all contenders have their samples from, and what normalises them."""

    states: States
    run: Run
    windows: Windows

    @property
    def normalisation(self) -> Normalisation:
        """The statistics by which whole states, of all channels and longitudes, are normalised."""
        return self.run.normalisation


@dataclass(frozen=True)
class Counted:
    """Operations of matrix products of a rank in a step, None where nobody counts, and bytes sent.

    Of a peer, the bytes are what its exchanges have to send at the least.
    """

    operations: int | None
    bytes_sent: int


class Stepping(Protocol):
    """Something that takes training steps on this rank.

    The first step is the one to count: nobody times it.
    """

    def counted_step(self) -> Counted:
        """Take a step, and count what this rank computes and sends in it."""
        ...

    def step(self) -> float:
        """Take a step, until its loss, which is returned, is known on the processor."""
        ...

    def close(self) -> None:
        """End what reads ahead."""
        ...


class JigsawTraining:
    """The training loop on a mesh, as ``train`` begins it, without its log and checkpoints."""

    def __init__(self, case: Case, samples: Samples, mesh: Mesh) -> None:
        architecture, config = _architecture(case, samples), case.config
        job = Job(
            config=config,
            states=samples.states,
            channels=names(predicted_channels(config.data)),
            architecture=architecture,
            mesh=mesh,
            part=Part.on(mesh, architecture),
            ranks_on_machine=this_rank().local_world_size,
            choice=MeshChoice(case.layout, case.planned_seconds, "as it is measured"),
        )
        no_validation = np.empty((0, config.training.longest.rollout + 1), dtype=np.int64)
        self._counter = mesh.counter
        self._loop = TrainingLoop(Beginning(job, samples.run, samples.windows, no_validation))

    def counted_step(self) -> Counted:
        before = self._counter.copy()
        self.step()
        counted = self._counter.since(before)
        return Counted(2 * counted.multiply_adds, counted.bytes_sent)

    def step(self) -> float:
        return self._loop.step().loss

    def close(self) -> None:
        self._loop.close()


class PeerTraining:
    """The network in plain PyTorch with the weights that Jigsaw's has, on samples of its own.

    Loss, clipping and optimizer are those of the training; with ``bfloat16``, products are under
    ``torch.autocast``. Without a ``group`` this rank is alone; with one, it is its ``place`` there.
    """

    def __init__(
        self,
        case: Case,
        samples: Samples,
        device: torch.device,
        group: dist.ProcessGroup | None = None,
        place: int = 0,
    ) -> None:
        self._training, self._device, self._group = case.config.training, device, group
        self._arithmetic = Arithmetic.of(self._training.dtype)
        self._model, parameters = _build(case, samples, device, group)
        self._optimizer = build_optimizer(parameters, self._training)
        self._parameters = list(parameters.values())
        normalisation, input_times = samples.normalisation, case.config.data.input_times
        self._objective = Objective.of(
            self._training,
            normalisation,
            _architecture(case, samples),
            replace(Mesh.describe(), device=device),
            share=1.0,
        )
        reader = StateReader(
            samples.states,
            normalisation,
            self._arithmetic.states,
            num_states=int(samples.windows.states().sum()),
            forcings=Part.on(Mesh.describe(), _architecture(case, samples)).forcings_of(
                case.config.data, normalisation
            ),
            input_times=input_times,
            memory_bytes=kept_states_bytes(this_rank().local_world_size),
        )
        plan = training_plan(
            samples.windows,
            seed=self._training.seed,
            batch=self._training.instance_batch,
            layout=case.layout.at(place),
            steps=range(self._training.steps),
            samples=0,
            leads_at=partial(self._training.leads_at, input_times=input_times),
        )
        self._batches = read_ahead(reader, plan, device=device)
        self._step = 0

    def counted_step(self) -> Counted:
        with LeastBytes() as sent:
            self.step()
        return Counted(None, round(sent.total))

    def step(self) -> float:
        batch = next(self._batches)
        states = batch.states.to(self._device, non_blocking=True)
        forcings = batch.forcings.to(self._device, non_blocking=True)
        set_step(self._optimizer, self._step, self._training)
        with self._arithmetic.in_force(), self._autocast():
            loss, _ = rollout_loss(
                self._model,
                *recent_and_targets(states, self._objective.input_times),
                self._objective.static,
                self._objective.weights,
                forcings=forcings,
                error=self._objective.compare,
            )
        with self._arithmetic.in_force():
            loss.backward()
        norm = clip_grad_norm_(self._parameters, self._training.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._step += 1
        mean = loss.detach()
        if self._group is not None:
            dist.all_reduce(mean, group=self._group)
            mean /= self._group.size()
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        mean_loss, _ = torch.stack([mean, norm]).tolist()
        return float(mean_loss)

    def close(self) -> None:
        self._batches.close()

    def _autocast(self) -> AbstractContextManager[object]:
        if self._arithmetic.products == self._arithmetic.states:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._arithmetic.products)


def _build(
    case: Case, samples: Samples, device: torch.device, group: dist.ProcessGroup | None
) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """The network under the case's scheme, and its parameters by the names that they have in it."""
    architecture = _architecture(case, samples)
    # On the processor: a network that fits a device only when it is cut is whole here.
    whole = build_model(architecture, case.config.training, samples.normalisation)
    model = WeatherMixer(
        architecture,
        recompute=case.config.training.recompute == "blocks",
        device=torch.device("meta"),
    )
    model = model.to(next(whole.parameters()).dtype)
    if case.contender == "fsdp":
        assert group is not None, "one rank alone has nothing to cut"
        mesh = DeviceMesh.from_group(group, device.type)
        cut_weights(model, model.blocks, mesh)
    model.to_empty(device=device)
    weights = dict(whole.named_parameters())
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(whole.get_buffer(name))
        for name, parameter in model.named_parameters():
            value = weights[name].detach().to(device)
            if isinstance(parameter, DTensor):
                value = distribute_tensor(
                    value, parameter.device_mesh, parameter.placements, src_data_rank=None
                )
            parameter.copy_(value)
    parameters = dict(model.named_parameters())
    return replicate(model, group) if case.contender == "ddp" else model, parameters


def _architecture(case: Case, samples: Samples) -> Architecture:
    return architecture_of(case.config.data, case.config.model, samples.states.grid)

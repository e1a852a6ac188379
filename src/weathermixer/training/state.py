"""All that a training is made of, as named tensors that go into checkpoints and come back.

Everything random is derived from the seed and the step, so no generator has a state to keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weathermixer.config import Parallel, Training
from weathermixer.errors import reason
from weathermixer.jigsaw.mesh import Mesh, is_first_rank
from weathermixer.jigsaw.replicas import Replicas
from weathermixer.model.mixer import WeatherMixer
from weathermixer.runs import checkpoint
from weathermixer.runs.run import Run, model_tensors
from weathermixer.runs.shards import Shard
from weathermixer.training.notices import Notices
from weathermixer.training.optimizer import build_optimizer, optimizer_tensors, restart_at


@dataclass
class TrainingState:
    """All that a training is made of: a network on a mesh, its optimizer, and how far it has come.

    ``model`` is this rank's part of the network on ``mesh``, and ``replicas`` average its gradients
    over ``data``. ``step`` counts the optimizer steps taken, ``samples`` those that all ranks have
    consumed.
    """

    model: WeatherMixer
    mesh: Mesh
    replicas: Replicas
    optimizer: torch.optim.Optimizer
    step: int = 0
    samples: int = 0

    @classmethod
    def initial(
        cls, model: WeatherMixer, mesh: Mesh, training: Training, parallel: Parallel
    ) -> TrainingState:
        """The state before the first step of a model, or the one that a checkpoint is loaded into.

        Of ``parallel``, its ``shard_optimizer`` divides Adam's averages among the replicas, and
        ``gradient_dtype`` is what gradients travel in between them.
        """
        replicas = Replicas(
            model,
            mesh,
            sharded=parallel.shard_optimizer,
            gradient_dtype=torch.bfloat16 if parallel.gradient_dtype else None,
        )
        return cls(model, mesh, replicas, build_optimizer(replicas.parameters(), training))

    def save(self, run: Run, *, keep: int, notices: Notices) -> Path:
        """Write a checkpoint, then remove all but the newest ``keep``; returns its path.

        Every rank calls this. Raises UserError where the checkpoint cannot be written; that old
        ones cannot be removed is only said.
        """
        path = checkpoint.checkpoint_path(run.checkpoints, self.step)
        checkpoint.save(path, self.tensors())
        if is_first_rank():
            try:
                checkpoint.remove_old(run.checkpoints, keep)
            except OSError as error:
                notices.say_once(
                    "old checkpoints",
                    f"old checkpoints in {run.checkpoints} cannot be removed ({reason(error)}): "
                    "training goes on; remove them yourself, or make the folder writable",
                )
        return path

    def load(self, path: Path) -> None:
        """Take over what was saved, on any mesh; UserError where it is damaged or does not fit."""
        tensors = self.tensors()
        checkpoint.load(path, tensors)
        step, samples = tensors["progress.step"], tensors["progress.samples"]
        assert isinstance(step, Tensor) and isinstance(samples, Tensor)
        self.step, self.samples = int(step), int(samples)
        restart_at(self.optimizer, self.step)

    def tensors(self) -> dict[str, Tensor | Shard]:
        """Everything under the names that it has in a checkpoint: this rank's parts, in place."""
        blocks, owned = self.replicas.blocks(), self.replicas.parameters()
        weights = model_tensors(self.model, self.mesh.data)

        def shard(average: Tensor, name: str) -> Shard:
            # Where each replica's optimizer has rows of its own, it alone holds their averages.
            weight = weights[f"model.{name}"]
            is_divided = owned[name] is not weight.tensor
            return Shard(average, blocks[name], weight.shared_over[1 if is_divided else 0 :])

        averages = optimizer_tensors(owned, self.optimizer)
        return {
            **weights,
            **{
                f"optimizer.{average}.{name}": shard(tensor, name)
                for (average, name), tensor in averages.items()
            },
            "progress.step": torch.tensor(self.step),
            "progress.samples": torch.tensor(self.samples),
        }

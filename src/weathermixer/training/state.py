"""All that a training is made of, as named tensors that go into checkpoints and come back.

Everything random is derived from the seed and the step, so no generator has a state to keep.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weathermixer.config import Parallel, Training
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.replicas import Replicas
from weathermixer.model.other_network import Network
from weathermixer.runs import checkpoint
from weathermixer.runs.checkpoint_index import stored_kinds
from weathermixer.runs.run import AVERAGE, model_tensors
from weathermixer.runs.shards import Shard
from weathermixer.training.average import WeightAverage
from weathermixer.training.notices import Notices
from weathermixer.training.optimizer import build_optimizer, optimizer_tensors, restart_at

# Not among the averages, which have the names of parameters.
_AVERAGING = "averaging"
_AVERAGE_STEPS = f"{_AVERAGING}.steps"


@dataclass
class TrainingState:
    """All that a training is made of: a network on a mesh, its optimizer, and how far it has come.

    ``model`` is this rank's part of the network on ``mesh``, and ``replicas`` average its gradients
    over ``data``; ``average`` is that of its weights, where one is kept. ``step`` counts the
    optimizer steps taken, ``samples`` those that all ranks have consumed.
    """

    model: Network
    mesh: Mesh
    replicas: Replicas
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None = None
    step: int = 0
    samples: int = 0

    @classmethod
    def initial(
        cls, model: Network, mesh: Mesh, training: Training, parallel: Parallel
    ) -> TrainingState:
        """The state before the first step of a model, or the one that a checkpoint is loaded into.

        Of ``parallel``, its ``shard_optimizer`` divides Adam's averages, and that of the weights,
        among the replicas, and ``gradient_dtype`` is what gradients travel in between them.
        """
        replicas = Replicas(
            model,
            mesh,
            sharded=parallel.shard_optimizer,
            gradient_dtype=torch.bfloat16 if parallel.gradient_dtype else None,
        )
        parameters, decay = replicas.parameters(), training.average_decay
        average = None if decay is None else WeightAverage(parameters, decay)
        return cls(model, mesh, replicas, build_optimizer(parameters, training), average)

    def load(self, path: Path, notices: Notices) -> None:
        """Take over what was saved, on any mesh; UserError where it is damaged or does not fit.

        Where no average of the weights was saved, it begins with them, which is said.
        """
        tensors = self.tensors()
        begins = self.average is not None and AVERAGE not in stored_kinds(path)
        if begins:
            tensors = {
                name: tensor
                for name, tensor in tensors.items()
                if name.partition(".")[0] not in (AVERAGE, _AVERAGING)
            }
        checkpoint.load(path, tensors)
        if self.average is not None and begins:
            self.average.restart()
            notices.say(f"{path} has no average of the weights: it begins with them here")
        elif self.average is not None:
            steps = tensors[_AVERAGE_STEPS]
            assert isinstance(steps, Tensor)
            self.average.steps = int(steps)
        step, samples = tensors["progress.step"], tensors["progress.samples"]
        assert isinstance(step, Tensor) and isinstance(samples, Tensor)
        self.step, self.samples = int(step), int(samples)
        restart_at(self.optimizer, self.step)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """While entered, ``model`` has the average of its weights, where one is kept.

        Every rank enters this, and leaves it, together.
        """
        if self.average is None:
            yield
            return
        self.average.swap()
        self.replicas.publish()
        try:
            yield
        finally:
            self.average.swap()
            self.replicas.publish()

    def tensors(self) -> dict[str, Tensor | Shard]:
        """Everything under the names that it has in a checkpoint: this rank's parts, in place."""
        blocks, owned = self.replicas.blocks(), self.replicas.parameters()
        averages: dict[str, Tensor | Shard] = {}
        weights = model_tensors(self.model, self.mesh.data)

        def shard(average: Tensor, name: str) -> Shard:
            # Where each replica's optimizer has rows of its own, it alone holds their averages.
            weight = weights[f"model.{name}"]
            is_divided = owned[name] is not weight.tensor
            return Shard(average, blocks[name], weight.shared_over[1 if is_divided else 0 :])

        if self.average is not None:
            averages = {
                f"{AVERAGE}.{name}": shard(tensor, name)
                for name, tensor in self.average.tensors.items()
            }
            averages[_AVERAGE_STEPS] = torch.tensor(self.average.steps)
        return {
            **weights,
            **{
                f"optimizer.{average}.{name}": shard(tensor, name)
                for (average, name), tensor in optimizer_tensors(owned, self.optimizer).items()
            },
            **averages,
            "progress.step": torch.tensor(self.step),
            "progress.samples": torch.tensor(self.samples),
        }

"""Members of an ensemble in a training step: who makes which, what is drawn for them, their loss.

A model instance makes ``training.instance_members`` of the members of each of its samples, as so
many entries of a batch. Where those are not all, the next replicas along ``data`` make the others
of the same samples: a *pool* of replicas, which tell each other what their members are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from weathermixer.config import Config, Training
from weathermixer.jigsaw import exchange
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Axis, Mesh, connect_neighbours
from weathermixer.model.noise import draw_noise
from weathermixer.planning.step_kind import require_whole_pools

EQUAL_MEMBERS = (
    "has members that are all equal, since the network has neither noise nor dropout, and their "
    "CRPS is the absolute error"
)
_ALPHA = 0.95
_VALIDATION = -1  # in the place of a step


@dataclass(frozen=True)
class Ensemble:
    """The members of a sample that this instance makes: ``own`` of ``members``, from ``first`` on.

    ``pool`` are the replicas that make all members of a sample together, this one among them, and
    ``noise`` counts the numbers that are drawn for an application.
    """

    members: int = 1
    own: int = 1
    first: int = 0
    pool: Axis | None = None
    noise: int = 0
    seed: int = 0

    @classmethod
    def of(
        cls,
        training: Training,
        noise: int,
        mesh: Mesh | None = None,
        connect: Callable[[Mesh, int], Axis] = connect_neighbours,
    ) -> Ensemble:
        """The members that this rank's model instance makes of each of its samples in a training.

        Every rank of the ``mesh`` calls this together, and ``connect`` makes its pool an axis.
        Without a mesh, as in a validation, an instance makes all members of its samples. Raises
        LayoutError where the mesh has no whole number of pools.
        """
        members, own = training.members, training.members_of_instance
        if mesh is None or training.pool == 1:
            return cls(members, members, noise=noise, seed=training.seed)
        require_whole_pools(training, mesh.layout)
        pool = connect(mesh, training.pool)
        return cls(members, own, pool.index * own, pool, noise, training.seed)

    def expanded(self, tensor: Tensor) -> Tensor:
        """What all members have alike ``(batch, ...)``, for each of them ``(batch · own, ...)``."""
        return tensor if self.own == 1 else tensor.repeat_interleave(self.own, dim=0)

    def mean(self, forecast: Tensor) -> Tensor:
        """The mean of own members ``(batch · own, ...)``, ``(batch, ...)``."""
        return forecast if self.own == 1 else forecast.unflatten(0, (-1, self.own)).mean(1)

    def draw(self, samples: Iterable[int], *, rollout: int, step: int = _VALIDATION) -> Tensor:
        """Noise ``(samples · own, rollout, noise)`` for what is made of samples in a step.

        ``samples`` are their places in the step of all replicas, or in a validation their times.
        """
        members = range(self.first, self.first + self.own)
        keys = [
            (step, sample, member, application)
            for sample in samples
            for member in members
            for application in range(rollout)
        ]
        drawn = draw_noise(self.noise, keys, seed=self.seed)
        return drawn.view(-1, rollout, self.noise)

    def crps(self, prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """The loss of a step: the mean over everything of ``weights`` · almost fair CRPS.

        ``prediction (batch · own, channel, latitude, longitude)``, ``target (batch, ...)`` and
        ``weights (channel, latitude, 1)``. Of M members x and the truth y, at each point (Lang et
        al. 2024, arXiv 2412.15832, with α = 0.95)::

            Σⱼ |xⱼ − y| / M  −  (1 − (1 − α) / M) Σⱼₖ |xⱼ − xₖ| / (2 M (M − 1))

        Where a pool makes the members, the results of its replicas add up to it.
        """
        members = prediction.to(weights.dtype).unflatten(0, (-1, self.own))
        error = members - target.to(weights.dtype)[:, None]
        # It is linear between kinks, homogeneous, and blind to what all have in common: the sum of
        # slope · (xⱼ − y), each slope that of the whole sum over j and k.
        with torch.no_grad():
            slope = error.sign() / self.members
            pairs = self.members * (self.members - 1)
            factor = (1.0 - (1.0 - _ALPHA) / self.members) / pairs
            for others in self._of_pool(members):
                for other in others.unbind(1):
                    slope -= factor * (members - other[:, None]).sign()
        return (weights * (slope * error).sum(1)).mean()

    def _of_pool(self, members: Tensor) -> list[Tensor]:
        if self.pool is None:
            return [members]
        return exchange.all_gather(self.pool, members.contiguous())


def members_can_differ(config: Config) -> bool:
    """Whether anything is drawn for the members of a training's ensemble."""
    return bool(config.model.noise or config.model.local_noise or config.model.dropout)


def sampling_layout(layout: Layout, pool: int) -> Layout:
    """The place of a model instance among those that have samples of their own: pools are one."""
    return Layout(data=layout.data // pool).at(layout.coordinates.data // pool)

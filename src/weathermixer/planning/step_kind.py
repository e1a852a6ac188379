"""What a training step depends on, besides the network and the mesh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from weathermixer.config import Lengths, Parallel, Recompute, Training
from weathermixer.config.training_settings import ErrorKind
from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.planning.machine import ProductType


@dataclass(frozen=True)
class StepKind:
    """What a step depends on, besides the network and the mesh.

    ``samples`` are those of a model instance, each member of an ensemble one of its own:
    ``members`` for each sample that is read. ``micro_batch`` of them go through the network at a
    time, by default all. To each the network is applied ``rollout`` times, and the blocks
    ``latent`` times in each. ``dtype`` is a ``training.dtype``, ``recompute`` a
    ``training.recompute``. With ``shards_optimizer`` replicas divide the optimizer, and
    ``gradient_bytes`` are those of a gradient's element between them; ``narrows_exchange`` tells of
    a ``parallel.exchange_dtype``. Memory is for the most that any of the ``farthest`` lengths
    takes, by default those of the step, and with a loss of such an ``error``; ``keeps_average``
    tells of an average of the weights. ``pool`` counts the instances that make the members of a
    sample together. ``small_scales`` tells of a ``training.small_scales`` in the loss.
    """

    samples: int
    dtype: ProductType = "float32"
    rollout: int = 1
    recompute: Recompute = "none"
    shards_optimizer: bool = False
    gradient_bytes: int | None = None
    narrows_exchange: bool = False
    farthest: tuple[Lengths, ...] = ()
    latent: int = 1
    micro_batch: int | None = None
    error: ErrorKind = "squared"
    keeps_average: bool = False
    members: int = 1
    pool: int = 1
    small_scales: bool = False

    @classmethod
    def of(
        cls,
        training: Training,
        parallel: Parallel,
        *,
        lengths: Lengths | None = None,
        recompute: Recompute | None = None,
    ) -> Self:
        """The step of a training that most of its steps are, or of other ``lengths``.

        ``recompute`` is the training's by default, and nothing where that leaves it open.
        """
        lengths = lengths or usual_lengths(training)
        return cls(
            samples=training.instance_batch * training.members_of_instance,
            dtype=training.dtype,
            rollout=lengths.rollout,
            recompute=recompute or training.recompute or "none",
            shards_optimizer=parallel.shard_optimizer,
            gradient_bytes=2 if parallel.gradient_dtype else None,
            narrows_exchange=parallel.exchange_dtype is not None,
            farthest=tuple(dict.fromkeys(training.stages.values())),
            latent=lengths.latent,
            micro_batch=training.forecasts_at_once,
            error=training.error,
            keeps_average=training.average_decay is not None,
            members=training.members_of_instance,
            pool=training.pool,
            small_scales=training.small_scales > 0.0,
        )

    @property
    def passing(self) -> tuple[int, ...]:
        """Numbers of samples that go through the network after each other."""
        size = self.micro_batch or self.samples
        whole, rest = divmod(self.samples, size)
        return (size,) * whole + ((rest,) if rest else ())

    @property
    def samples_read(self) -> int:
        """Samples of which a model instance reads the states."""
        return self.samples // self.members

    @property
    def comparisons(self) -> int:
        """Times that a forecast is compared with what it should be: once more in small scales."""
        return 1 + self.small_scales

    @property
    def longest_rollout(self) -> int:
        """The most times that the network is applied to a sample."""
        return max((lengths.rollout for lengths in self.farthest), default=self.rollout)

    @property
    def forwards_again(self) -> int:
        """Applications of the network that are computed a second time."""
        return self.rollout - 1 if self.recompute == "stages" else 0


def usual_lengths(training: Training) -> Lengths:
    """How far samples are forecast in most of a training's steps; of a range, the longest."""
    starts = [start for start in training.stages if start < training.steps]
    lengths: dict[Lengths, int] = {}
    for start, stop in zip(starts, [*starts[1:], training.steps], strict=True):
        here = training.stages[start]
        lengths[here] = lengths.get(here, 0) + stop - start
    return max(lengths, key=lambda each: lengths[each])


def require_whole_pools(training: Training, layout: Layout) -> None:
    """Raise LayoutError where the replicas of a mesh are no whole number of pools."""
    if layout.data % training.pool:
        raise LayoutError(
            f"parallel.data ({layout.data}) is no multiple of the {training.pool} replicas that "
            f"make training.members ({training.members}), {training.members_of_instance} each: "
            "change parallel.data, or training.instance_members"
        )

"""What a rank of a training holds when it holds most, from sizes alone, in milliseconds.

:func:`step_memory` goes through a step as the code does, forward and back, and adds and takes away
the bytes of each tensor; a test holds it to what the real code holds on a fake rank. Not counted
are the interpreter and its libraries, what an allocator keeps that is free, and what a kernel needs
while it runs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from torch import Tensor

from weathermixer.data.feeding.read_ahead import buffer_bytes
from weathermixer.jigsaw.layout import shard
from weathermixer.jigsaw.pieces import local_parameters
from weathermixer.model.mixer import WeatherMixer
from weathermixer.planning.ledger import Ledger
from weathermixer.planning.sample_sizes import SampleSizes
from weathermixer.planning.step_kind import StepKind
from weathermixer.planning.step_tensors import StepTensors
from weathermixer.runs.shards import Shard, own_share

# What a plan may take of a device's memory. Tensors are predicted within 5% of what a step holds
# (docs/planning-memory.md); the rest is for blocks of an allocator that are larger than what
# was asked for, for the workspaces of kernels and for the buffers of communicators.
SAFE_SHARE = 0.85


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a rank holds at its peak, by what they are for; ``host`` beside the device.

    ``samples`` are the batch in hand, static fields and the weights of the loss, and
    on an accelerator the batch that is uploaded meanwhile. ``exchange`` is what is on its way:
    blocks sent and received, buckets between replicas. ``read_ahead`` is what the processor holds
    of batches to come, and ``checkpoint`` the copies of weights and averages that are written
    while training goes on, in the memory of the rank where it computes on the processor; on an
    accelerator both are the pinned memory of the ``host``, and not of the device.
    """

    parameters: int = 0
    optimizer: int = 0
    average: int = 0
    gradients: int = 0
    gathered_weights: int = 0
    activations: int = 0
    exchange: int = 0
    samples: int = 0
    read_ahead: int = 0
    checkpoint: int = 0
    host: int = 0

    @property
    def peak(self) -> int:
        """The most bytes that the device holds at one time."""
        return sum(getattr(self, field.name) for field in fields(self)) - self.host


def fits(num_bytes: float, device_bytes: float) -> bool:
    """Whether a device holds so many bytes with the room that is left for what is not planned."""
    return num_bytes <= SAFE_SHARE * device_bytes


def step_memory(model: WeatherMixer, kind: StepKind, *, on_accelerator: bool = False) -> StepMemory:
    """The memory of a training step on the rank that ``model`` was built for, as ``describe`` does.

    It is that of the lengths, among the ``farthest`` of the ``kind``, that take the most. The model
    may lie on any device, such as ``meta``, in the type of the training's weights; its
    ``arithmetic`` counts. ``on_accelerator`` tells what is read ahead from what the device holds.
    The rank with the most is among the corners of the mesh (``Layout.corners``).
    """
    kinds = [
        replace(kind, rollout=lengths.rollout, latent=lengths.latent) for lengths in kind.farthest
    ]
    held = [_memory_of(model, each, on_accelerator=on_accelerator) for each in kinds or [kind]]
    return max(held, key=lambda memory: memory.peak)


def _memory_of(model: WeatherMixer, kind: StepKind, *, on_accelerator: bool) -> StepMemory:
    ledger = Ledger()
    StepTensors(ledger, model, kind).walk()
    weight_bytes = next(model.parameters()).element_size()
    sizes = SampleSizes.of(model)
    batch = sizes.batch(kind.samples_read, kind.rollout) * weight_bytes
    # The batch in hand is one of the samples.
    ahead = buffer_bytes(batch, sizes.state * weight_bytes) - batch
    parts = {field.name: ledger.at_peak.get(field.name, 0) for field in fields(StepMemory)}
    copies = copied_bytes(model, kind)
    if on_accelerator:
        parts["samples"] += batch
        parts["host"] = ahead + copies
    else:
        parts["read_ahead"], parts["checkpoint"] = ahead, copies
    return StepMemory(**parts)


def copied_bytes(model: WeatherMixer, kind: StepKind) -> int:
    """Bytes that the rank that ``model`` was built for writes of a checkpoint, and copies before.

    The arguments are as in ``step_memory``.
    """
    sharded, keeps_average = kind.shards_optimizer, kind.keeps_average
    weights: dict[str, Tensor | Shard] = {}
    averages: dict[str, Tensor | Shard] = {}
    for name, parameter, piece in local_parameters(model):
        destination, block = piece.destination, piece.block
        axes = piece.shared_over
        replicas = () if destination.data is None else (destination.data,)
        weights[name] = Shard(parameter, block, (*replicas, *axes))
        if sharded and destination.rows_over is not None:
            own = shard(len(parameter), destination.rows_over.size, destination.rows_over.index)
            averages[name] = Shard(parameter[own.start : own.stop], block.rows(own), axes)
        else:
            averages[name] = weights[name]
    of_averages = {
        f"{number}.{name}": each
        for number in range(3 if keeps_average else 2)  # Adam's two, and that of the weights
        for name, each in averages.items()
    }
    written = own_share({**weights, **of_averages}).values()
    return sum(each.tensor.nbytes for each in written if isinstance(each, Shard))

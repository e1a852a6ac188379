"""A step of a network on every rank of a mesh, and the same on one process in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oracles.layers import Held, mixer
from support.networks import (
    Sample,
    Schemes,
    Sizes,
    gradient_of,
    held_activation,
    held_gradients,
    join_each,
    network_on,
)
from weathermixer.jigsaw.count import Counter
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.weights import kept_weights


@dataclass(frozen=True)
class Outcome:
    """What a rank has after a forward and a backward pass."""

    tensors: dict[str, Held]  # the output, the gradient of the state, and those of the parameters
    forward: Counter
    backward: Counter


@dataclass(frozen=True)
class NetworkStep:
    """A forward and a backward pass of a network, run on every rank of a mesh."""

    sizes: Sizes
    schemes: Schemes
    sample: Sample
    parameters: dict[str, Tensor]
    passes: int = 1
    state_gradient: bool = True
    reentrant: bool | None = None  # how blocks are checkpointed, if they are
    exchange_dtype: torch.dtype | None = None

    def __call__(self, mesh: Mesh) -> Outcome:
        mesh = mesh.exchanging(self.exchange_dtype)
        network = network_on(mesh, self.sizes, self.schemes, whole=self.parameters)
        network.reentrant = self.reentrant
        sample = self.sample.on(mesh.layout, self.sizes)
        state = sample.state.requires_grad_(self.state_gradient)
        apart = [] if self.reentrant is None else [network.blocks]
        before = mesh.counter.copy()
        with kept_weights(network, apart_from=apart):
            output = network(state, sample.static, passes=self.passes)
        forward = mesh.counter.since(before)
        before = mesh.counter.copy()
        output.backward(sample.gradient)
        backward = mesh.counter.since(before)
        sizes = self.sizes
        tensors = {"output": held_activation(mesh.layout, sizes.tokens, sizes.state, output)}
        if state.grad is not None:
            tensors["state"] = held_activation(mesh.layout, sizes.tokens, sizes.state, state.grad)
        return Outcome(tensors | held_gradients(network), forward, backward)

    def expected(self) -> dict[str, Tensor]:
        """The same on one process, from the description, in float64."""
        weights = {name: value.double().requires_grad_() for name, value in self.parameters.items()}
        state = self.sample.state.double().requires_grad_()
        output = mixer(
            weights,
            state,
            self.sample.static.double(),
            blocks=self.sizes.blocks,
            passes=self.passes,
        )
        output.backward(self.sample.gradient.double())
        tensors = {"output": output.detach(), "state": gradient_of(state)}
        return tensors | {name: gradient_of(value) for name, value in weights.items()}


def run_step(mesh: Mesh, step: NetworkStep) -> Outcome:
    return step(mesh)


def joined(outcomes: Sequence[Outcome]) -> dict[str, Tensor]:
    """The global tensors of all ranks' outcomes."""
    return join_each([outcome.tensors for outcome in outcomes])

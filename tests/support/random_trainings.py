"""Trainings of random networks, on one process in plain PyTorch and on every rank of a mesh.

A training is drawn with what is out of the ordinary in it: passes that add up or are broken off,
parameters that are frozen, ranks that keep their graphs or ask for other gradients.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Literal
from unittest.mock import patch

import torch
from torch import Tensor, nn

from oracles.layers import Held, Ranges, cut, part
from support.networks import held_parameters
from support.random_networks import (
    Attention,
    Description,
    Ends,
    Map,
    Mean,
    Norm,
    Pair,
    Position,
    Step,
    Within,
    after,
    after_all,
    draw_description,
    plain,
)
from weathermixer.jigsaw import buckets, lines
from weathermixer.jigsaw.cutting import Cut, CutLinear, CutNorm, CutTensors, parallelize
from weathermixer.jigsaw.layers import GatherRows, MeanRows
from weathermixer.jigsaw.layout import Dimension, Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.replicas import Replicas
from weathermixer.jigsaw.weights import kept_weights

RATE = 0.05
BUCKET_BYTES = 300  # a few weights of these networks at a time
Spoiling = Literal["forward", "no_grad", "inference", "backward", "forget", "evaluate", "ask"]


def table(steps: Sequence[Step], ends: Ends, mesh: Mesh, prefix: str = "") -> dict[str, Cut]:
    """How the modules of a network are cut."""
    cuts: dict[str, Cut] = {}
    for number, step in enumerate(steps):
        name, (rows, features) = f"{prefix}{number}", ends
        match step:
            case Map():
                inputs, others = ends if step.over == "domain" else ends[::-1]
                outputs = Dimension(step.outputs.sections * step.parts, step.outputs.unit)
                cuts[f"{name}.linear"] = CutLinear(others, step.over, inputs, outputs, step.scheme)
            case Pair():
                inputs, others = ends if step.over == "domain" else ends[::-1]
                expand, contract = step.schemes
                cuts[f"{name}.expand"] = CutLinear(others, step.over, inputs, step.hidden, expand)
                cuts[f"{name}.contract"] = CutLinear(
                    others, step.over, step.hidden, step.outputs, contract
                )
            case Norm():
                cuts[name] = CutNorm(rows, features)
            case Position():
                of_rows = ("domain", rows) if step.of_rows else None
                of_features = ("tensor", features) if step.of_features else None
                cuts[name] = CutTensors({"value": (of_rows, of_features)})  # type: ignore[dict-item]
            case Attention():
                cuts[f"{name}.gather"] = GatherRows(rows, mesh)
            case Mean():
                cuts[name] = MeanRows(rows, mesh)
            case Within():
                cuts |= table(step.steps, ends, mesh, f"{name}.inner.")
        ends = after(step, ends)
    return cuts


@dataclass(frozen=True)
class Spoil:
    """A pass that comes to nothing: broken off in a module, forgotten, or of other gradients."""

    how: Spoiling
    module: int = 0  # of those without children
    rank: int = 0


@dataclass(frozen=True)
class Training:
    network: Description
    seed: int
    batches: tuple[tuple[int, ...], ...]  # for each pass between two steps, of each replica
    inner: tuple[int, ...]  # dimensions between batch and features
    order: Literal["each", "later", "backwards", "together"]  # of forward and backward passes
    keeps: Literal["no", "all", "apart"]  # weights, for all passes of a step
    within: bool  # whether backward passes run where weights are kept
    input_gradient: bool
    frozen: tuple[tuple[int, ...], ...]  # for each step, the parameters that are
    replicas: Literal["none", "whole", "sharded"]
    copied: bool
    keeper: int | None  # the rank that keeps its graphs
    spoils: tuple[tuple[Spoil, ...], ...]  # before each step

    @property
    def steps(self) -> int:
        return len(self.frozen)

    def draw(self, step: int, index: int, ends: Ends) -> Tensor:
        """Numbers for all replicas, ``(rows, batch, ..., features)``."""
        generator = torch.Generator().manual_seed(1000 * self.seed + 10 * step + index)
        rows, features = (dimension.size for dimension in ends)
        batch = sum(self.batches[index % len(self.batches)])
        shape = (rows, batch, *self.inner, features)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def inputs(self, step: int) -> list[Tensor]:
        return [self.draw(step, each, self.network.ends) for each in range(len(self.batches))]

    def gradients(self, step: int) -> list[Tensor]:
        """With respect to the outputs; small, so that a step leaves a network well conditioned."""
        ends = after_all(self.network.steps, self.network.ends)
        count = len(self.batches)
        return [self.draw(step, count + each, ends) / 30.0 for each in range(count)]

    def freeze(self, model: nn.Module, step: int) -> None:
        for number, parameter in enumerate(model.parameters()):
            parameter.requires_grad_(number not in self.frozen[step])


def draw_training(layout: Layout, seed: int) -> Training:
    rng = random.Random(f"{layout.data}x{layout.domain}x{layout.tensor} {seed}")
    network = draw_description(rng)
    while not (count := len(list(plain(network, seed).parameters()))):
        network = draw_description(rng)
    passes = rng.randint(1, 3)
    steps = rng.randint(1, 2)
    batches = tuple(draw_batch(rng, layout.data) for _ in range(passes))
    frozen = tuple(
        tuple(number for number in range(count) if rng.random() < 0.2) if rng.random() < 0.4 else ()
        for _ in range(steps)
    )
    reentrant = network.has("reentrant")
    # A reentrant checkpoint has gradients only where its input has one.
    input_gradient = reentrant or rng.random() < 0.7 or any(len(each) == count for each in frozen)
    spoiling: list[Spoiling] = [
        "forward", "no_grad", "inference", "backward", "forget", "evaluate",
    ]  # fmt: skip
    # torch refuses it with a reentrant checkpoint.
    if input_gradient and not reentrant and not network.has("Position("):
        spoiling += ["ask", "ask"]
    spoils = tuple(
        tuple(
            Spoil(rng.choice(spoiling), rng.randrange(100), rng.randrange(layout.world_size))
            for _ in range(rng.choice([0, 0, 1, 2]))
        )
        for _ in range(steps)
    )
    return Training(
        network,
        seed,
        batches,
        rng.choice([(), (), (2,)]),
        rng.choice(["each", "each", "later", "backwards", "together"]),
        rng.choice(["no", "no", "all", "apart"]),
        rng.random() < 0.5,
        input_gradient,
        frozen,
        rng.choice(["none", "whole", "sharded"]),
        rng.random() < 0.2,
        rng.choice([None, None, rng.randrange(layout.world_size)]),
        spoils,
    )


def draw_batch(rng: random.Random, replicas: int) -> tuple[int, ...]:
    """Samples of each replica, of which one may have none."""
    samples = [rng.randint(1, 3) for _ in range(replicas)]
    if replicas > 1 and rng.random() < 0.15:
        samples[rng.randrange(replicas)] = 0
    return tuple(samples)


# On one process.


def alone(training: Training, *, noise: float = 0.0) -> dict[str, Tensor]:
    """Outputs and gradients of every step, and the parameters that are left.

    ``noise`` changes inputs by so much of themselves, to show how much it matters.
    """
    generator = torch.Generator().manual_seed(0)
    model = plain(training.network, training.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    found: dict[str, Tensor] = {}
    for step in range(training.steps):
        training.freeze(model, step)
        optimizer.zero_grad()
        for number, spoil in enumerate(training.spoils[step]):
            if spoil.how == "ask":
                found |= asked_alone(training, model, step, number)
        for index, (x, dy) in enumerate(
            zip(training.inputs(step), training.gradients(step), strict=True)
        ):
            x += noise * x * torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x.requires_grad_(training.input_gradient)
            y = model(x)
            y.backward(dy)
            found[f"{step} output {index}"] = y.detach()
            if x.grad is not None:
                found[f"{step} input gradient {index}"] = x.grad
        gradients = gradients_of(model)
        found |= {f"{step} gradient {name}": value for name, value in gradients.items()}
        if training.replicas != "none":
            norms = [value.norm() for value in gradients.values()]
            found[f"{step} norm"] = torch.stack([*norms, torch.zeros(())]).norm()[None]
        optimizer.step()
    return found | {f"parameter {name}": value.detach() for name, value in model.named_parameters()}


def asked_alone(training: Training, model: nn.Module, step: int, number: int) -> dict[str, Tensor]:
    x = training.inputs(step)[0].requires_grad_()
    model(x).backward(training.gradients(step)[0])
    found = gradients_of(model)
    assert x.grad is not None
    model.zero_grad()
    return {f"{step} asked {number} {name}": value for name, value in found.items()} | {
        f"{step} asked {number} input": x.grad
    }


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


# On a mesh.


class BrokenOff(Exception):
    """Raised on every rank in the middle of a pass."""


class OnRank:
    """A training as a rank takes part in it."""

    def __init__(self, mesh: Mesh, training: Training) -> None:
        self.mesh, self.training = mesh, training
        network = training.network
        model = plain(network, training.seed)
        model = parallelize(model, mesh, table(network.steps, network.ends, mesh))
        self.model = copy.deepcopy(model) if training.copied else model
        self.replicas: Replicas | None = None
        if training.replicas != "none":
            sharded = training.replicas == "sharded"
            self.replicas = Replicas(self.model, mesh, sharded=sharded)
        self.ends = after_all(network.steps, network.ends)
        self.kept: list[Tensor] = []
        self.found: dict[str, Held] = {}

    def run(self) -> dict[str, Held]:
        for step in range(self.training.steps):
            self.training.freeze(self.model, step)
            self.forget_gradients()
            for number, spoil in enumerate(self.training.spoils[step]):
                self.spoil(step, number, spoil)
            self.take_passes(step)
            self.found |= {f"{step} gradient {n}": held for n, held in self.gradients().items()}
            if self.replicas is not None:
                norm = self.replicas.gradient_norm()[None]
                self.found[f"{step} norm"] = Held((1,), ((range(1),),), norm)
            torch.optim.SGD(self.owned().values(), lr=RATE).step()
            if self.replicas is not None:
                self.replicas.finish_step()
        parameters = held_parameters(self.model)
        return self.found | {f"parameter {name}": held for name, held in parameters.items()}

    def take_passes(self, step: int) -> None:
        training = self.training
        held = [
            self.part(x, training.network.ends, each)
            for each, x in enumerate(training.inputs(step))
        ]
        inputs = [each.tensor.requires_grad_(training.input_gradient) for each in held]
        gradients = [
            self.part(dy, self.ends, each).tensor
            for each, dy in enumerate(training.gradients(step))
        ]
        outputs: list[Tensor] = []
        keeps = training.keeper == self.mesh.layout.rank
        waiting: list[tuple[list[Tensor], list[Tensor]]] = []
        with ExitStack() as scope:
            self.keep_weights(scope)
            for x, dy in zip(inputs, gradients, strict=True):
                y = self.model(x)
                outputs.append(y.detach())
                waiting.append(([y], [dy]))
                if keeps:
                    self.kept.append(y)
                if training.order == "each" and training.within:
                    torch.autograd.backward(*waiting.pop(), retain_graph=keeps)
                del y
            if training.order == "backwards":
                waiting.reverse()
            if training.order == "together":
                waiting = [tuple(map(flat, zip(*waiting, strict=True)))]  # type: ignore[list-item]
            if not training.within:
                scope.close()
            while waiting:
                torch.autograd.backward(*waiting.pop(0), retain_graph=keeps)
        for index, (x, y) in enumerate(zip(inputs, outputs, strict=True)):
            whole = training.draw(step, index, self.ends)
            self.found[f"{step} output {index}"] = self.held(y, whole, self.ends, index)
            if x.grad is not None:
                self.found[f"{step} input gradient {index}"] = held[index]._replace(tensor=x.grad)

    def keep_weights(self, scope: ExitStack) -> None:
        if self.training.keeps == "no":
            return
        apart = [
            module
            for module in self.model.modules()
            if getattr(module, "how", "") in ("checkpointed", "reentrant")
        ]
        chosen = apart if self.training.keeps == "apart" else []
        scope.enter_context(kept_weights(self.model, apart_from=chosen))

    def spoil(self, step: int, number: int, spoil: Spoil) -> None:
        network = self.training.network
        x = self.part(self.training.inputs(step)[0], network.ends, 0).tensor
        dy = self.part(self.training.gradients(step)[0], self.ends, 0).tensor
        match spoil.how:
            case "ask":
                self.ask(f"{step} asked {number}", x.requires_grad_(), dy, spoil.rank)
            case "forget":
                self.model(x.requires_grad_())
            case "evaluate":
                with torch.no_grad(), kept_weights(self.model):
                    self.model(x)
                    self.model(x)
            case "backward":
                with suppress(BrokenOff), self.broken(spoil.module, in_backward=True):
                    self.model(x.requires_grad_()).backward(dy)
            case _:
                modes = {"no_grad": torch.no_grad, "inference": torch.inference_mode}
                mode = modes.get(spoil.how, torch.enable_grad)
                with suppress(BrokenOff), self.broken(spoil.module), mode():
                    self.model(x.requires_grad_(spoil.how == "forward"))
        self.forget_gradients()

    def ask(self, name: str, x: Tensor, dy: Tensor, rank: int) -> None:
        """Let one rank ask for the gradient of its input alone."""
        y = self.model(x)
        if self.mesh.layout.rank == rank:
            (x.grad,) = torch.autograd.grad(y, x, dy)
        else:
            y.backward(dy)
            self.found |= {f"{name} {own}": held for own, held in self.gradients().items()}
        whole = self.training.inputs(0)[0]
        assert x.grad is not None
        self.found[f"{name} input"] = self.held(x.grad, whole, self.training.network.ends, 0)

    def broken(self, number: int, *, in_backward: bool = False) -> ExitStack:
        """Within, a pass ends in a module."""
        leaves = [module for module in self.model.modules() if not list(module.children())]

        def hook(_module: object, _inputs: object, output: Tensor) -> None:
            if not in_backward:
                raise BrokenOff
            if output.requires_grad:
                output.register_hook(break_off)

        scope = ExitStack()
        handle = leaves[number % len(leaves)].register_forward_hook(hook)
        scope.callback(handle.remove)
        return scope

    def forget_gradients(self) -> None:
        for parameter in (*self.model.parameters(), *self.owned().values()):
            parameter.grad = None

    def owned(self) -> dict[str, nn.Parameter]:
        if self.replicas is None:
            return dict(self.model.named_parameters())
        return self.replicas.parameters()

    def gradients(self) -> dict[str, Held]:
        blocks = (self.replicas or Replicas(self.model, self.mesh)).blocks()
        return {
            name: Held(blocks[name].shape, blocks[name].ranges, owned.grad.clone())
            for name, owned in self.owned().items()
            if owned.grad is not None
        }

    def part(self, whole: Tensor, ends: Ends, index: int) -> Held:
        ranges = self.ranges(whole, ends, index)
        return Held(tuple(whole.shape), ranges, cut(whole, ranges))

    def held(self, own: Tensor, whole: Tensor, ends: Ends, index: int) -> Held:
        return Held(tuple(whole.shape), self.ranges(whole, ends, index), own)

    def ranges(self, whole: Tensor, ends: Ends, index: int) -> tuple[Ranges, ...]:
        """What this rank has of an activation of a pass."""
        layout, (rows, features) = self.mesh.layout, ends
        data, domain, tensor = layout.coordinates
        batches = self.training.batches[index]
        first = sum(batches[:data])
        return (
            part(rows.sections, rows.unit, layout.domain, domain),
            (range(first, first + batches[data]),),
            *((range(size),) for size in self.training.inner),
            part(features.sections, features.unit, layout.tensor, tensor),
        )


def flat(lists: Sequence[list[Tensor]]) -> list[Tensor]:
    return [each for one in lists for each in one]


def break_off(_: Tensor) -> None:
    raise BrokenOff


def run_trainings(mesh: Mesh, trainings: Sequence[Training]) -> list[dict[str, Held]]:
    """Work for a pool: what a rank has of every output, gradient and parameter."""
    # Of reentrant checkpoints in passes without gradients.
    warnings.filterwarnings("ignore", "None of the inputs have requires_grad=True")
    with (
        patch.object(buckets, "BUCKET_BYTES", BUCKET_BYTES),
        # As NCCL does; other tests go in rounds, as gloo does.
        patch.object(lines, "COLLECTIVE_BACKENDS", {"gloo"}),
    ):
        return [OnRank(mesh, training).run() for training in trainings]

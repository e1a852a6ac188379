"""Networks drawn at random, in plain PyTorch: what their layers are, and what they compute.

A description is drawn from a seed and prints as what makes it again. How a network is cut stands
apart, in ``random_trainings.py``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from weathermixer.jigsaw.layout import Dimension
from weathermixer.jigsaw.product import Features, Scheme

Functions = Literal["gelu", "tanh", "silu"]
Way = Literal["added", "joined", "checkpointed", "reentrant", "twice"]
FUNCTIONS: dict[Functions, type[nn.Module]] = {
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
}
MOST = 12  # rows or features of an input


# What a network is made of. Activations are ``(rows, ..., features)``.


@dataclass(frozen=True)
class Map:
    """A linear map, of whose output ``parts`` are made at once: the first, gated by the others."""

    over: Features
    scheme: Scheme
    outputs: Dimension
    bias: bool
    parts: int = 1


@dataclass(frozen=True)
class Pair:
    """Two linear maps with a function between."""

    over: Features
    schemes: tuple[Scheme, Scheme]
    hidden: Dimension
    outputs: Dimension
    bias: tuple[bool, bool]
    between: Functions


@dataclass(frozen=True)
class Norm:
    kind: Literal["layer", "rms"]


@dataclass(frozen=True)
class Function:
    name: Functions


@dataclass(frozen=True)
class Position:
    """A parameter that is added, or multiplied with: of each row, feature, both, or one for all."""

    of_rows: bool
    of_features: bool
    multiplies: bool


@dataclass(frozen=True)
class Attention:
    """Each feature of a row looks at that of all rows."""


@dataclass(frozen=True)
class Mean:
    """The mean over the rows, as one."""


@dataclass(frozen=True)
class Within:
    """Steps that are wrapped.

    They are added to their input, laid end to end with it, computed again in the backward pass, or
    applied twice.
    """

    how: Way
    steps: tuple[Step, ...]


Step = Map | Pair | Norm | Function | Position | Attention | Mean | Within
Ends = tuple[Dimension, Dimension]  # rows and features


@dataclass(frozen=True)
class Description:
    rows: Dimension
    features: Dimension
    steps: tuple[Step, ...]

    @property
    def ends(self) -> Ends:
        return self.rows, self.features

    def has(self, *ways: str) -> bool:
        """Whether one of some words is in what the network prints as."""
        return any(way in repr(self.steps) for way in ways)


def after(step: Step, ends: Ends) -> Ends:
    """Rows and features that a step leaves of those that it takes."""
    rows, features = ends
    match step:
        case Map() | Pair():
            return (step.outputs, features) if step.over == "domain" else (rows, step.outputs)
        case Mean():
            return Dimension((1,)), features
        case Within("joined"):
            return rows, Dimension(features.sections * 2, features.unit)
        case _:
            return ends


def after_all(steps: Sequence[Step], ends: Ends) -> Ends:
    for step in steps:
        ends = after(step, ends)
    return ends


# As modules.


class Mapping(nn.Module):
    def __init__(self, step: Map, ends: Ends) -> None:
        super().__init__()
        self.step = step
        inputs = ends[0 if step.over == "domain" else 1].size
        self.linear = nn.Linear(inputs, step.parts * step.outputs.size, bias=step.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = apply(self.linear, x, self.step.over)
        first, *gates = y.chunk(self.step.parts, 0 if self.step.over == "domain" else -1)
        for gate in gates:
            first = first * gate.sigmoid()
        return first


class PairOfMaps(nn.Module):
    def __init__(self, step: Pair, ends: Ends) -> None:
        super().__init__()
        self.step = step
        inputs = ends[0 if step.over == "domain" else 1].size
        self.expand = nn.Linear(inputs, step.hidden.size, bias=step.bias[0])
        self.between = FUNCTIONS[step.between]()
        self.contract = nn.Linear(step.hidden.size, step.outputs.size, bias=step.bias[1])

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.between(apply(self.expand, x, self.step.over))
        return apply(self.contract, hidden, self.step.over)


class Positioned(nn.Module):
    def __init__(self, step: Position, ends: Ends) -> None:
        super().__init__()
        self.multiplies = step.multiplies
        rows, features = (size.size for size in ends)
        self.value = nn.Parameter(
            torch.empty(rows if step.of_rows else 1, features if step.of_features else 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        rows, features = self.value.shape
        value = self.value.view(rows, *([1] * (x.ndim - 2)), features)
        return x * value if self.multiplies else x + value


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gather = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        every = self.gather(x)
        return (F.softmax(torch.tanh(x[:, None] * every), dim=1) * every).sum(1)


class MeanOfRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(0, keepdim=True)


class Wrapped(nn.Module):
    def __init__(self, step: Within, ends: Ends) -> None:
        super().__init__()
        self.how = step.how
        self.inner = modules(step.steps, ends)

    def forward(self, x: Tensor) -> Tensor:
        match self.how:
            case "added":
                return x + self.inner(x)
            case "joined":
                return torch.cat([x, self.inner(x)], -1)
            case "twice":
                return self.inner(self.inner(x))
            case _:
                y: Tensor = checkpoint(self.inner, x, use_reentrant=self.how == "reentrant")
                return y


def apply(linear: nn.Module, x: Tensor, over: Features) -> Tensor:
    """A map over the features of ``x`` or, moved to where these are, over its rows."""
    mapped: Tensor = linear(x.movedim(0, -1)).movedim(-1, 0) if over == "domain" else linear(x)
    return mapped


def module(step: Step, ends: Ends) -> nn.Module:
    match step:
        case Map():
            return Mapping(step, ends)
        case Pair():
            return PairOfMaps(step, ends)
        case Norm("layer"):
            return nn.LayerNorm(ends[1].size)
        case Norm():
            return nn.RMSNorm(ends[1].size, eps=1e-5)
        case Function():
            return FUNCTIONS[step.name]()
        case Position():
            return Positioned(step, ends)
        case Attention():
            return Attending()
        case Mean():
            return MeanOfRows()
        case Within():
            return Wrapped(step, ends)


def modules(steps: Sequence[Step], ends: Ends) -> nn.Sequential:
    made = nn.Sequential()
    for step in steps:
        made.append(module(step, ends))
        ends = after(step, ends)
    return made


def plain(description: Description, seed: int) -> nn.Sequential:
    """The network in float64, with parameters of which each matters."""
    network = modules(description.steps, description.ends).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.ndim > 1 and not name.endswith("value"):
                noise /= parameter.shape[1] ** 0.5
            elif name.endswith(("value", "weight")):
                noise = 1.0 + 0.3 * noise
            parameter.copy_(noise)
    return network


# Drawn at random.


def draw_description(rng: random.Random) -> Description:
    ends = draw_dimension(rng), draw_dimension(rng)
    steps = draw_steps(rng, ends, rng.randint(1, 5), depth=2)
    return Description(*ends, steps)


def draw_dimension(rng: random.Random, most: int = MOST) -> Dimension:
    """Mostly single elements in one section."""
    unit = rng.choice([1, 1, 1, 2, 3])
    sections = rng.choice([1, 1, 1, 2])
    return Dimension(
        tuple(rng.randint(1, max(1, most // unit // sections)) for _ in range(sections)), unit
    )


def draw_steps(rng: random.Random, ends: Ends, count: int, depth: int) -> tuple[Step, ...]:
    steps: list[Step] = []
    for _ in range(count):
        steps.append(draw_step(rng, ends, depth))
        ends = after(steps[-1], ends)
    return tuple(steps)


def draw_step(rng: random.Random, ends: Ends, depth: int) -> Step:
    kinds = ["map", "map", "pair", "pair", "norm", "function", "position"]
    if depth:
        kinds += ["within", "within", "within", "attention", "mean"]
    match rng.choice(kinds):
        case "map":
            over = draw_over(rng)
            scheme: Scheme = rng.choice(["reduce", "gather"])
            parts = rng.choice([1, 1, 2, 3])
            return Map(over, scheme, draw_dimension(rng), rng.random() < 0.7, parts)
        case "pair":
            return draw_pair(rng, draw_over(rng), draw_dimension(rng))
        case "norm":
            return Norm(rng.choice(["layer", "rms"]))
        case "function":
            return Function(rng.choice(list(FUNCTIONS)))
        case "position":
            return Position(*(rng.random() < 0.5 for _ in range(3)))
        case "attention":
            return Attention()
        case "mean":
            return Mean() if rng.random() < 0.4 else Attention()
        case _:
            how: Way = rng.choice(["added", "joined", "checkpointed", "reentrant", "twice"])
            return Within(how, draw_inner(rng, ends, depth - 1))


def draw_inner(rng: random.Random, ends: Ends, depth: int) -> tuple[Step, ...]:
    """Steps that end where they began."""
    steps = draw_steps(rng, ends, rng.randint(1, 3), depth)
    rows, features = after_all(steps, ends)
    if rows != ends[0]:
        steps += (draw_pair(rng, "domain", ends[0]),)
    if features != ends[1]:
        steps += (draw_pair(rng, "tensor", ends[1]),)
    return steps


def draw_pair(rng: random.Random, over: Features, outputs: Dimension) -> Pair:
    schemes: list[tuple[Scheme, Scheme]] = [
        ("turn", "fold"),
        ("turn", "fold"),
        ("reduce", "gather"),
        ("gather", "reduce"),
    ]
    pair = rng.choice(schemes)
    # What is turned has single elements.
    hidden = Dimension((rng.randint(1, MOST),)) if pair[0] == "turn" else draw_dimension(rng)
    bias = rng.random() < 0.7, rng.random() < 0.7
    return Pair(over, pair, hidden, outputs, bias, rng.choice(list(FUNCTIONS)))


def draw_over(rng: random.Random) -> Features:
    return rng.choice(["domain", "tensor"])

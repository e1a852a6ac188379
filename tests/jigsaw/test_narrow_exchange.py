"""Products whose operands and partial sums travel in bfloat16: how far they are from exact ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from support.networks import mesh_name
from support.ranks import Pool
from weathermixer.jigsaw.cost import PAIRS, Pair
from weathermixer.jigsaw.cutting import CutLinear, parallelize
from weathermixer.jigsaw.layers import feed_forward
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.product import Features
from weathermixer.jigsaw.tensors import block_of, cut, gather, load_whole, whole_gradients

ROWS, SIZE, HIDDEN = 11, 13, 17
# The most that rounding to the 8 bits of bfloat16 changes a number by, relative to it.
UNIT = 2.0**-8
# Of a product of two maps: its input, both weights, what one hands to the other and two partial
# sums; of a gradient of a weight, as many. Each travels once.
ROUNDINGS = 6

Tensors = dict[str, Tensor]


class Maps(nn.Module):
    """Two linear maps, with a function between that rounds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Linear(SIZE, HIDDEN, bias=False)
        self.contract = nn.Linear(HIDDEN, SIZE, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return feed_forward(x, self.expand, lambda hidden: 2.0 * hidden, self.contract)


@dataclass(frozen=True)
class Step:
    """A forward and backward pass of the maps, over features that are cut along an axis."""

    schemes: Pair
    features: Features
    dtype: torch.dtype = torch.float64

    def given(self) -> Tensors:
        generator = torch.Generator().manual_seed(5)
        shapes = {
            "x": (ROWS, SIZE),
            "dy": (ROWS, SIZE),
            "expand.weight": (HIDDEN, SIZE),
            "contract.weight": (SIZE, HIDDEN),
        }
        return {
            name: torch.randn(shape, generator=generator, dtype=torch.float64).to(self.dtype)
            for name, shape in shapes.items()
        }

    def __call__(self, mesh: Mesh, exchange_dtype: torch.dtype | None) -> Tensors:
        """What the ranks of a mesh make of it, whole."""
        mesh = mesh.exchanging(exchange_dtype)
        with torch.device("meta"):
            maps = Maps()
        table = {
            name: CutLinear(ROWS, self.features, scheme=scheme)
            for name, scheme in zip(("expand", "contract"), self.schemes, strict=True)
        }
        maps = parallelize(maps, mesh, table).to(self.dtype).to_empty(device="cpu")
        given = self.given()
        load_whole(maps, {name: each for name, each in given.items() if "weight" in name})
        axes = (mesh.domain, mesh.tensor)
        over_rows, over_features = axes if self.features == "tensor" else axes[::-1]
        part = block_of((ROWS, SIZE), mesh, {0: (over_rows, ROWS), 1: (over_features, SIZE)})
        x = cut(given["x"], part).requires_grad_()
        y = maps(x)
        y.backward(cut(given["dy"], part))
        assert x.grad is not None
        return {"y": gather(y.detach(), part), "x": gather(x.grad, part), **whole_gradients(maps)}


def exact(given: Tensors) -> dict[str, NDArray[np.float64]]:
    """Output and gradients of ``y = 2 x W₁ᵀ W₂ᵀ``, in NumPy."""
    x, dy, first, second = (each.double().numpy() for each in given.values())
    hidden, of_hidden = 2.0 * x @ first.T, 2.0 * dy @ second
    return {
        "y": hidden @ second.T,
        "x": of_hidden @ first,
        "expand.weight": of_hidden.T @ x,
        "contract.weight": dy.T @ hidden,
    }


def steps_on(
    mesh: Mesh, steps: list[Step], exchange_dtype: torch.dtype | None = torch.bfloat16
) -> list[Tensors]:
    return [step(mesh, exchange_dtype) for step in steps]


@pytest.mark.parametrize(
    "layout", [Layout(domain=2, tensor=2), Layout(tensor=3), Layout(domain=3)], ids=mesh_name
)
def test_the_error_is_that_of_one_rounding_each_time_that_a_number_travels(
    pool: Pool, layout: Layout
) -> None:
    """Elementwise: |error| ≤ ((1 + u)ⁿ − 1) of the same sum of the factors' magnitudes."""
    both: tuple[Features, Features] = ("tensor", "domain")
    steps = [Step(schemes, features) for schemes in PAIRS for features in both]
    (made, *_) = pool.run(steps_on, layout, steps)
    growth = (1.0 + UNIT) ** ROUNDINGS - 1.0
    for step, tensors in zip(steps, made, strict=True):
        given = step.given()
        truth, most = exact(given), exact({name: each.abs() for name, each in given.items()})
        errors = {name: np.abs(tensors[name].numpy() - truth[name]) for name in truth}
        for name, error in errors.items():
            assert np.all(error <= growth * most[name]), (step, name)
        if step.features == "tensor" or layout.domain > 1:
            largest = max(float(error.max()) for error in errors.values())
            assert largest > UNIT / 16, "something has travelled"


def test_one_rank_sends_nothing_and_computes_the_same_bits() -> None:
    steps = [Step(schemes, "tensor", torch.float32) for schemes in PAIRS]
    narrow, wide = (steps_on(Mesh.describe(), steps, dtype) for dtype in (torch.bfloat16, None))
    for one, other in zip(narrow, wide, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def sent_by_bfloat16(mesh: Mesh, steps: list[Step]) -> list[bool]:
    """Whether exchanging bfloat16 changes a bit or a byte of steps that compute in it."""
    outcomes = []
    for exchange_dtype in (torch.bfloat16, None):
        before = mesh.counter.copy()
        made = steps_on(mesh, steps, exchange_dtype)
        outcomes.append((made, mesh.counter.since(before).bytes_sent))
    (narrow, sent), (wide, as_many) = outcomes
    is_same = [
        torch.equal(one[name], other[name])
        for one, other in zip(narrow, wide, strict=True)
        for name in one
    ]
    return [sent != as_many, not all(is_same)]


def test_what_is_computed_in_bfloat16_travels_in_it_already(pool: Pool) -> None:
    steps = [Step(schemes, "tensor", torch.bfloat16) for schemes in PAIRS]
    for changes in pool.run(sent_by_bfloat16, Layout(domain=2, tensor=2), steps):
        assert changes == [False, False]

"""Choices between schemes and meshes, by arithmetic alone."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import pytest
from torch import nn

from support.selection import exhaustive
from weathermixer.jigsaw.cost import (
    cheapest_pair,
    cheapest_scheme,
    layers_cost,
    product_cost,
    shared_cost,
)
from weathermixer.jigsaw.layers import LayerNorm, Linear
from weathermixer.jigsaw.layout import Layout, layouts
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.product import Features, Product, Scheme

FLOAT32 = 4


class Mixer(NamedTuple):
    """Sizes of the blocks of a mixer."""

    tokens: int
    channels: int
    token_hidden: int
    blocks: int

    @property
    def maps(self) -> list[tuple[int, int, int]]:
        """Inputs, outputs and rows of each linear map of a block."""
        n, c, h = self.tokens, self.channels, self.token_hidden
        return [(n, h, c), (h, n, c), (c, c, n), (c, c, n)]

    def model(self, mesh: Mesh) -> nn.Module:
        """The blocks as a rank holds them, without any memory for their parameters."""
        layers: list[nn.Module] = []
        for _ in range(self.blocks):
            layers += self._mixing("domain", self.tokens, self.token_hidden, mesh, self.channels)
            layers += self._mixing("tensor", self.channels, self.channels, mesh, self.tokens)
        return nn.ModuleList(layers)

    def _mixing(
        self, features: Features, size: int, hidden: int, mesh: Mesh, rows: int
    ) -> list[nn.Module]:
        linear = partial(Linear, mesh=mesh, rows=rows, features=features, device="meta")
        expand, contract = cheapest_pair(size, hidden, mesh, rows=rows, features=features)
        return [
            LayerNorm(self.channels, mesh, rows=self.tokens, device="meta"),
            linear(size, hidden, scheme=expand),
            linear(hidden, size, scheme=contract),
        ]

    def bytes_of_busiest(self, layout: Layout) -> int:
        costs = []
        for rank in range(layout.world_size):
            model = self.model(Mesh.describe(layout.at(rank)))
            layers = layers_cost(model, samples=1, element_bytes=FLOAT32)
            costs.append((layers + shared_cost(model, parameter_bytes=FLOAT32)).bytes_sent)
        return max(costs)

    def fewest_bytes(self, ways: int) -> int:
        return min(self.bytes_of_busiest(layout) for layout in layouts(ways))

    def lower_bound(self, ways: int) -> float:
        """Bytes that the busiest of ``ways`` ranks sends at least in a step.

        Each linear map is three products, forward, of the input's gradient and of the weight's, of
        the same three matrices or their gradients: each operand is gathered in one and reduced in
        another. A rank that does a share of the multiply-adds touches faces of the three matrices
        whose product is at least the square of the share (Loomis and Whitney 1949), and has its
        share of their elements to begin with.
        """
        elements = 0.0
        for inputs, outputs, rows in self.maps:
            matrices = sorted((inputs * outputs, inputs * rows, outputs * rows))
            if ways == 2:
                # With two ranks only the smallest of the three has to move.
                elements += matrices[0]
                continue
            share = inputs * outputs * rows / ways
            elements += 2 * (smallest_faces(matrices, share**2) - sum(matrices) / ways)
        return self.blocks * elements * FLOAT32


def smallest_faces(matrices: list[int], product: float) -> float:
    """The least sum of three faces, none larger than its matrix, with at least that product."""
    total = 0.0
    for index, matrix in enumerate(matrices):
        remaining = len(matrices) - index
        face = min(float(matrix), product ** (1 / remaining))
        total += face
        product /= face
    return total


def test_smallest_faces_are_equal_where_they_may_and_whole_matrices_where_not() -> None:
    assert smallest_faces([100, 100, 100], 1000.0) == pytest.approx(30)
    assert smallest_faces([2, 100, 100], 200.0) == pytest.approx(2 + 10 + 10)


MIXERS = {
    "A": Mixer(tokens=1080, channels=1080, token_hidden=540, blocks=3),
    "B": Mixer(tokens=1080, channels=2160, token_hidden=1080, blocks=3),
    "L": Mixer(tokens=4320, channels=2160, token_hidden=2160, blocks=1),
}


@pytest.mark.parametrize(
    ("name", "ways", "budget"),
    [
        ("A", 2, 44e6),
        ("B", 2, 116e6),
        ("L", 2, 78e6),
        ("A", 4, 52e6),
        ("B", 4, 118e6),
        ("L", 4, 118e6),
    ],
)
def test_the_busiest_rank_keeps_to_its_budget_and_near_the_lower_bound(
    name: str, ways: int, budget: float
) -> None:
    mixer = MIXERS[name]
    sent = mixer.fewest_bytes(ways)
    assert sent <= budget
    assert mixer.lower_bound(ways) <= sent <= 1.25 * mixer.lower_bound(ways)


@pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS)
@pytest.mark.parametrize("ways", [2, 4, 6, *exhaustive(8)])
def test_no_choice_sends_less_than_the_lower_bound(mixer: Mixer, ways: int) -> None:
    for layout in layouts(ways):
        assert mixer.bytes_of_busiest(layout) >= mixer.lower_bound(ways)


def test_one_rank_sends_nothing() -> None:
    assert MIXERS["A"].bytes_of_busiest(Layout()) == 0


@pytest.mark.parametrize("features", ["domain", "tensor"])
def test_the_cheapest_scheme_is_that_of_the_fewest_bytes(features: Features) -> None:
    chosen = set()
    for layout in [*layouts(4), *layouts(6)]:
        for inputs, outputs, rows in ((8, 64, 512), (64, 8, 512), (512, 64, 8), (64, 512, 8)):
            mesh = Mesh.describe(layout)
            scheme = cheapest_scheme(inputs, outputs, mesh, rows=rows, features=features)
            chosen.add(scheme)
            busiest = {}
            schemes: tuple[Scheme, ...] = ("reduce", "gather")
            for other in schemes:
                sent = []
                for rank in range(layout.world_size):
                    here = Mesh.describe(layout.at(rank))
                    product = Product.on(
                        here, inputs, outputs, rows=rows, features=features, scheme=other
                    )
                    cost = product_cost(product, samples=1, element_bytes=1)
                    sent.append((cost.fetch + cost.forward + cost.backward).bytes_sent)
                busiest[other] = max(sent)
            assert busiest[scheme] == min(busiest.values())
    assert chosen == {"reduce", "gather"}


def test_all_ranks_of_a_mesh_choose_the_same() -> None:
    for layout in layouts(6):
        chosen = {
            cheapest_pair(7, 5, Mesh.describe(layout.at(rank)), rows=11, features="domain")
            for rank in range(6)
        }
        assert len(chosen) == 1


def test_weights_stay_where_they_are_the_largest() -> None:
    mesh = Mesh.describe(Layout(domain=2, tensor=2))
    assert cheapest_pair(4096, 4096, mesh, rows=16) == ("turn", "fold")
    assert cheapest_pair(64, 64, mesh, rows=4096) != ("turn", "fold")


@pytest.mark.parametrize("ways", [1, 2, 6, 12])
def test_layouts_are_all_meshes_of_as_many_ways(ways: int) -> None:
    found = layouts(ways, data=3)
    assert {layout.ways for layout in found} == {ways}
    assert {layout.data for layout in found} == {3}
    shapes = {(layout.domain, layout.tensor) for layout in found}
    assert len(shapes) == len(found) == sum(ways % domain == 0 for domain in range(1, ways + 1))
    assert all(math.prod(shape) == ways for shape in shapes)

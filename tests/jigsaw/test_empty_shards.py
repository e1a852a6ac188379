"""Fewer rows or features than ranks: some hold nothing, and all compute what one process does."""

from __future__ import annotations

from itertools import product

import pytest

from support.cut_layers import Chain, Kind, Norm, run_chain, run_norm
from support.networks import errors, join_each, mesh_name
from support.ranks import Pool
from weathermixer.jigsaw.cost import PAIRS
from weathermixer.jigsaw.layout import Dimension, Layout
from weathermixer.jigsaw.product import Features, Scheme

MESHES = [Layout(domain=3), Layout(tensor=3), Layout(domain=2, tensor=2), Layout(tensor=4)]
FEW, MANY = Dimension((1,)), Dimension((5,))
SINGLE: list[tuple[Scheme, ...]] = [("reduce",), ("gather",)]
FEATURES: tuple[Features, ...] = ("tensor", "domain")
CHAINS = [
    Chain(features, sizes, rows, schemes)
    for features, rows, schemes in product(FEATURES, (FEW, MANY), [*SINGLE, *PAIRS])
    for sizes in product((FEW, MANY), repeat=len(schemes) + 1)
    if FEW in (rows, *sizes)
]
KINDS: tuple[Kind, ...] = ("layer", "rms")
NORMS = [
    Norm(kind, channels, rows) for kind, channels, rows in product(KINDS, (FEW, MANY), (FEW, MANY))
]


@pytest.fixture(scope="module", params=MESHES, ids=mesh_name)
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


def test_linear_layers_and_their_gradients_are_those_of_one_process(
    pool: Pool, layout: Layout
) -> None:
    for chain in CHAINS:
        found = join_each(pool.run(run_chain, layout, chain, 2))
        for name, error in errors(found, chain.expected(2)).items():
            assert error <= 1e-12, (chain, name)


def test_norms_and_their_gradients_are_those_of_one_process(pool: Pool, layout: Layout) -> None:
    for norm in NORMS:
        found = join_each(pool.run(run_norm, layout, norm, 2))
        for name, error in errors(found, norm.expected(2)).items():
            assert error <= 1e-12, (norm, name)

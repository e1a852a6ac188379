"""How random trainings on a mesh differ from the same on one process, by more than rounding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from oracles.layers import Held, cut
from support.networks import join_each
from support.random_trainings import Training, alone


def mistakes(training: Training, ranks: Sequence[Mapping[str, Held]], most: float) -> list[str]:
    """What differs from one process."""
    expected = alone(training)
    asked = {name for name in expected if " asked " in name}
    found = [{name: held for name, held in one.items() if name not in asked} for one in ranks]
    said = [
        f"rank {rank} lacks {sorted(expected.keys() - asked - one.keys())} "
        f"or has {sorted(one.keys() - expected.keys())} besides"
        for rank, one in enumerate(found)
        if one.keys() != expected.keys() - asked
    ]
    if said:
        return said
    try:
        joined = join_each(found)
    except AssertionError as error:
        return [str(error)]
    said = list(differences(joined, {name: expected[name] for name in joined}, training, most))
    for rank, one in enumerate(ranks):
        # A rank that asked for another gradient has none of these.
        own = {name: held for name, held in one.items() if name in asked and held.tensor.numel()}
        parts = {name: cut(expected[name], held.ranges) for name, held in own.items()}
        if own:
            tensors = {name: held.tensor for name, held in own.items()}
            said += [f"rank {rank}: {each}" for each in differences(tensors, parts, training, most)]
    return said


def differences(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], training: Training, most: float
) -> Iterator[str]:
    """What is further from what is expected than rounding explains.

    A few networks are ill conditioned: there, noise in the input as small as rounding makes as much
    on one process.
    """
    said = list(too_far(found, expected, most))
    if said and not list(too_far(found, expected, 1e-7)):
        whole, rounded = alone(training), alone(training, noise=4e-16)
        if list(too_far(rounded, whole, most / 30.0)):
            return
    yield from said


def too_far(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], most: float
) -> Iterator[str]:
    """What is not as expected, by more than the rounding of what is larger explains."""
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        scale = max(float(value.abs().max()), 1e-4 * largest)
        error = float((found[name] - value).abs().max()) / scale
        if not error <= most:
            yield f"{name} differs by {error:.1e}"

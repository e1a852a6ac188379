from __future__ import annotations

import weakref

import torch
from torch import Tensor

from weathermixer.forecast.rollout import rollout

STATIC = torch.linspace(0.0, 1.0, 6, dtype=torch.float64).view(1, 2, 3)


def _step(state: Tensor, static: Tensor) -> Tensor:
    return torch.sin(1.3 * state) + static


def test_a_rollout_is_the_model_applied_again_and_again() -> None:
    state = torch.randn(2, 1, 2, 3, dtype=torch.float64)
    expected = state
    for later in rollout(_step, [state], [(STATIC,)] * 5):
        expected = torch.sin(1.3 * expected) + STATIC
        assert torch.equal(later, expected)


def test_the_state_is_handed_on_as_it_is() -> None:
    handed: list[Tensor] = []

    def step(state: Tensor, static: Tensor) -> Tensor:
        handed.append(state)
        return _step(state, static)

    first = torch.randn(1, 1, 2, 3, dtype=torch.float64)
    returned = list(rollout(step, [first], [(STATIC,)] * 3))
    assert [id(state) for state in handed] == [id(first), id(returned[0]), id(returned[1])]
    assert {state.dtype for state in returned} == {torch.float64}


def test_no_gradients_are_kept_and_the_caller_keeps_its_own() -> None:
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    steps = rollout(lambda s, _: weight * s, [torch.ones(1, 1, 2, 3).double()], [(STATIC,)] * 2)
    assert not next(steps).requires_grad
    assert torch.is_grad_enabled()
    assert (weight * 2.0).requires_grad


def test_earlier_states_are_released() -> None:
    first = torch.ones(1, 1, 2, 3).double()
    alive = [weakref.ref(first)]

    def step(state: Tensor, static: Tensor) -> Tensor:
        result = _step(state, static)
        alive.append(weakref.ref(result))
        return result

    steps = rollout(step, [first], [(STATIC,)] * 20)
    del first
    for _ in steps:
        assert [reference() is not None for reference in alive] == [False] * (len(alive) - 1) + [
            True
        ]
    assert len(alive) == 21

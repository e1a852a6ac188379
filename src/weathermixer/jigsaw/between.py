"""The elementwise function between two maps, on one piece at a time and twice.

It is computed in the forward pass, and once more in the backward pass: that takes less time than
the memory of what it made is worth. So it has to make the same of the same, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from weathermixer.jigsaw.gradients import JigsawError

Elementwise = Callable[[Tensor], Tensor]


def apply_between(between: Elementwise, inner: Tensor) -> Tensor:
    """What the function makes of a piece.

    Raises JigsawError where it changes the piece or its shape, or draws random numbers.
    """
    if inner.is_inference():  # nothing is computed again
        return between(inner).contiguous()
    version, random = inner._version, _random_state(inner.device)
    hidden = between(inner)
    if inner._version != version or hidden.shape != inner.shape:
        raise JigsawError(
            "the function between two linear maps has to be elementwise and leave its input alone"
        )
    if _random_state(inner.device) != random:
        raise JigsawError(
            "the function between two linear maps draws random numbers, and is computed twice: let "
            "a torch.nn.Dropout do so, which parallelize() replaces"
        )
    return hidden.contiguous()


def _random_state(device: torch.device) -> list[bytes]:
    """The states of the generators that functions draw from which are given none."""
    # What watches or fakes operations is not concerned.
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        states = [torch.get_rng_state()]
        if device.type not in ("cpu", "meta"):
            states.append(torch.get_device_module(device).get_rng_state(device))
        return [state.numpy().tobytes() for state in states]


def differentiate_between(
    between: Elementwise, inner: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """What the function made of a piece, and the gradient of the piece.

    Raises JigsawError where the function has parameters, whose gradients would be lost.
    """
    with torch.enable_grad():
        variable = inner.detach().requires_grad_()
        hidden = between(variable)
    _refuse_parameters(hidden, variable)
    (inner_gradient,) = torch.autograd.grad(hidden, variable, gradient)
    return hidden.detach().contiguous(), inner_gradient.contiguous()


def _refuse_parameters(hidden: Tensor, variable: Tensor) -> None:
    """Raise JigsawError where anything but the piece would want a gradient, and not get it."""
    nodes, seen = [hidden.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf is not variable:
            raise JigsawError(
                "the function between two linear maps has parameters of its own, which it may not: "
                "apply the maps one after the other"
            )
        nodes += [following for following, _ in node.next_functions]

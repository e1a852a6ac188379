"""Compiling what lies between the products of a network: one kernel where there were several.

Products, norms and exchanges stay what they are. What is compiled are functions of tensors alone,
each of them whole, so that the compiler meets neither ranks nor parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weathermixer.errors import UserError
from weathermixer.jigsaw.dropout import Dropout, scale_and_zero
from weathermixer.model.mixer import Mixing, WeatherMixer, activate, fields_of, patches_of

BACKEND = "inductor"  # of torch.compile

C = TypeVar("C", bound=Callable[..., object])


def compiled(function: C) -> C:
    """The same function, compiled for each shape and type at its first call with it."""
    return cast(C, torch.compile(function, backend=BACKEND, dynamic=False))


def compile_between_products(model: WeatherMixer) -> None:
    """Compile the elementwise work of a network that is cut, in place; results change by rounding.

    In each mixing GELU and dropout become one kernel; so do, before the encoder and after the
    decoder, joining fields, cutting them into patches, and casts.
    """
    activate_and_zero = compiled(_activate_and_zero)

    def activation(hidden: Tensor, dropout: nn.Module) -> Tensor:
        assert isinstance(dropout, Dropout), "a network that is cut has the twin"
        # Drawn outside, since the key of a draw, another in each step, would be compiled in.
        positions = dropout.draw(hidden)
        if positions is None:
            return activate(hidden, dropout)
        return activate_and_zero(hidden, positions, dropout.scale)

    for module in model.modules():
        if isinstance(module, Mixing):
            module.activation = activation
    model.patches, model.fields = compiled(patches_of), compiled(fields_of)


def require_compiler(device: torch.device) -> None:
    """Raise UserError where PyTorch cannot compile for a device."""
    try:
        compiled(_probe)(torch.ones(2, device=device))
    except RuntimeError as error:
        needed = "a C++ compiler" if device.type == "cpu" else "Triton"
        what, *_ = str(error).split("\n\n")  # then come hints for developers
        raise UserError(
            f"training.compile is on, but PyTorch cannot compile for this device ({device.type}: "
            f"{' '.join(what.split())}): install {needed}, or set training.compile=false"
        ) from error


def _activate_and_zero(hidden: Tensor, positions: Tensor, scale: float) -> Tensor:
    return scale_and_zero(F.gelu(hidden), positions, scale)


def _probe(x: Tensor) -> Tensor:
    return x + 1.0

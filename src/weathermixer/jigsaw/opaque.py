"""Keeping ``torch.compile`` out of exchanges, of which it would trace one rank's half."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def opaque(function: Callable[P, T]) -> Callable[P, T]:
    """A function that a compiler calls as it is, and what it calls too; a graph breaks there."""
    disabled: list[Callable[P, T]] = []

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        # A second of imports that those need who compile, and nobody else.
        if "torch._dynamo" not in sys.modules:
            return function(*arguments, **options)
        if not disabled:
            disabled.append(torch.compiler.disable(function))  # type: ignore[no-untyped-call]
        return disabled[0](*arguments, **options)

    return call

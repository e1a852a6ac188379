"""What the network computes in: the types of its numbers, and how precisely it multiplies them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Arithmetic:
    """The meaning of a ``training.dtype``.

    ``states`` is the type of states and weights, ``products`` that in which blocks and decoder
    compute. With ``rounds_products``, products of float32 round their factors to TF32's 10 bits,
    where the device can.
    """

    states: torch.dtype
    products: torch.dtype
    rounds_products: bool = False

    @classmethod
    def of(cls, dtype: str) -> Arithmetic:
        """The arithmetic that ``training.dtype`` names: float64, float32, tf32 or bfloat16."""
        return _BY_NAME[dtype]

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Within, this process's products of float32 are as this arithmetic says."""
        # Not fp32_precision, which would leave what the compiler asks for undecided, and raise.
        matmul = torch.backends.cuda.matmul
        before = matmul.allow_tf32
        matmul.allow_tf32 = self.rounds_products
        try:
            yield
        finally:
            matmul.allow_tf32 = before

    def remark(self, device: torch.device) -> str | None:
        """What the user should know of this arithmetic on a device, where there is something."""
        if self.rounds_products and not _has_tf32(device):
            return (
                f"training.dtype is tf32, which this device ({device.type}) does not have: "
                "products are computed in float32"
            )
        return None


_BY_NAME = {
    "float64": Arithmetic(torch.float64, torch.float64),
    "float32": Arithmetic(torch.float32, torch.float32),
    "tf32": Arithmetic(torch.float32, torch.float32, rounds_products=True),
    "bfloat16": Arithmetic(torch.float32, torch.bfloat16),
}


def _has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_tf32_supported()

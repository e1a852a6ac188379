"""Does a device compute what the processor computes in float64? A small network, one step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from device.learner import Learner, published
from weathermixer.jigsaw.mesh import Mesh

# Largest relative differences: of the loss; of any parameter's gradient, as norms; and of what a
# step changes in all of them. Adam's first step keeps little of a gradient but its sign, so that a
# value near zero can change by twice the step.
TOLERANCES = {
    "float64": (1e-12, 1e-9, 1e-6),
    "float32": (1e-5, 1e-3, 5e-2),
    "tf32": (1e-3, 3e-2, 3e-1),
    "bfloat16": (1e-2, 1e-1, 4e-1),
}


def compare(device: torch.device) -> list[dict[str, Any]]:
    """The differences in every arithmetic, each with whether it is within its tolerance."""
    expected = _step("float64", torch.device("cpu"))
    rows = []
    for dtype, limits in TOLERANCES.items():
        found = _step(dtype, device)
        loss = abs(found[0] / expected[0] - 1.0)
        gradient = _largest_distance(found[1], expected[1])
        change = float((_flat(found[2]) - _flat(expected[2])).norm() / _flat(expected[2]).norm())
        differences = (loss, gradient, change)
        rows.append(
            {
                "dtype": dtype,
                "loss": loss,
                "gradient": gradient,
                "change": change,
                "tolerances": limits,
                "within": all(a <= b for a, b in zip(differences, limits, strict=True)),
            }
        )
    return rows


def _step(dtype: str, device: torch.device) -> tuple[float, dict[str, Tensor], dict[str, Tensor]]:
    """Loss, gradients and changes of all parameters, without dropout, whose draws differ."""
    architecture, training = published(small=True, dtype=dtype)
    mesh = replace(Mesh.describe(), device=device)
    learner = Learner.on(
        mesh, replace(architecture, dropout=0.0), training, noise_on=torch.device("cpu")
    )
    model = learner.state.model
    before = _on_processor({name: p.detach() for name, p in model.named_parameters()})
    gradients: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda p, name=name: gradients.update({name: p.grad.clone()})
        )
    outcome = learner.step()
    after = _on_processor({name: p.detach() for name, p in model.named_parameters()})
    return (
        outcome.loss,
        _on_processor(gradients),
        {name: after[name] - before[name] for name in before},
    )


def _on_processor(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to("cpu", torch.float64, copy=True) for name, tensor in tensors.items()}


def _largest_distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative difference of a parameter's gradient, as norms.

    A shift of what a norm takes has none but rounding: it counts by a hundredth of the largest.
    """
    floor = 1e-2 * max(gradient.norm() for gradient in expected.values())
    return max(
        float((found[name] - gradient).norm() / torch.maximum(gradient.norm(), floor))
        for name, gradient in expected.items()
    )


def _flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])

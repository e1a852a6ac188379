"""Adam over a network's parameters: groups, rates, and its state as named tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from weathermixer.config import Training
from weathermixer.training.schedule import learning_rate

_AVERAGES = ("exp_avg", "exp_avg_sq")


def build_optimizer(
    parameters: Mapping[str, nn.Parameter], training: Training
) -> torch.optim.Optimizer:
    """AdamW or Adam over named parameters, with its averages at zero.

    AdamW decays weights alone; biases and gains are left free. Adam, as published, adds the decay
    of every parameter to its gradient. Each group carries ``scale``, its share of the learning
    rate.
    """
    decay_all = training.optimizer == "adam"
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        scale = training.highest_rate(name) / training.learning_rate
        decayed = decay_all or parameter.ndim >= 2
        members.setdefault((scale, decayed), []).append(parameter)
    groups = [
        {
            "params": parameters,
            "weight_decay": training.weight_decay if decayed else 0.0,
            "scale": scale,
        }
        for (scale, decayed), parameters in members.items()
    ]
    kind = torch.optim.Adam if decay_all else torch.optim.AdamW
    optimizer = kind(groups, lr=0.0, betas=training.betas, fused=True)
    for parameter in parameters.values():
        # What the optimizer would make at its first step, made now so that a checkpoint can be
        # loaded into it.
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            **{name: torch.zeros_like(parameter) for name in _AVERAGES},
        }
    return optimizer


def set_step(optimizer: torch.optim.Optimizer, step: int, training: Training) -> None:
    """Set the learning rates of all groups to those of an optimizer step, counted from 0."""
    rate = learning_rate(step, training)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def step_unless(bad: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Take a step, unless ``bad``, which has one element, is true: then nothing is changed.

    The device decides, so that the processor need not wait for what it has computed.
    """
    # By which torch.amp tells a fused optimizer to leave out a step.
    optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
    optimizer.step()


def restart_at(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Set the number of steps that Adam's averages hold, by which it corrects their bias."""
    for state in optimizer.state.values():
        state["step"].fill_(step)


def optimizer_tensors(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[tuple[str, str], Tensor]:
    """Adam's averages by ``(name of the average, name of the parameter)``."""
    return {
        (average, name): optimizer.state[parameter][average]
        for average in _AVERAGES
        for name, parameter in parameters.items()
    }


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the elements of tensors, as this rank holds them."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

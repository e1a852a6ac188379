"""The learning rate, as a pure function of the step."""

from __future__ import annotations

import math

from weathermixer.config import Training


def learning_rate(step: int, training: Training) -> float:
    """The learning rate of an optimizer step, the first of which is 0.

    It rises linearly from ``warmup_learning_rate`` to ``learning_rate`` over ``warmup_steps``.
    Then, with the schedule

    ``cosine``, it falls as half a cosine to ``final_learning_rate`` over ``cycle_steps`` (or all
    that are left). Each cycle starts at half the height of the one before, and never below where it
    ends (Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983).

    ``constant``, it stays.

    ``cooldown``, it stays until the last ``cooldown_steps``, over which it falls to
    ``final_learning_rate`` by 1 − √x of its height, where *x* is the fraction of them that were
    taken (Hägele et al. 2024, https://arxiv.org/abs/2405.18392).
    """
    highest, lowest = training.learning_rate, training.final_learning_rate
    if step < training.warmup_steps:
        start = training.warmup_learning_rate
        return start + (highest - start) * step / training.warmup_steps
    if training.schedule == "constant":
        return highest
    if training.schedule == "cooldown":
        falling = training.cooldown_length
        taken = max(step - (training.steps - falling), 0)
        return lowest + (highest - lowest) * (1.0 - math.sqrt(taken / falling))
    length = training.cycle_steps or training.steps - training.warmup_steps
    cycle, position = divmod(step - training.warmup_steps, length)
    height = max(highest * 0.5**cycle - lowest, 0.0)
    return lowest + height * (1.0 + math.cos(math.pi * position / length)) / 2.0

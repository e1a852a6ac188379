"""The moving average of the weights, which forecasts may use in their place.

It is kept of the elements that this rank's optimizer changes, in their type, so it is cut and
divided as the optimizer's own averages are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """The exponential moving average of parameters over optimizer steps, free of where it began.

    After *n* steps, with decay *d* and weights *w*, it is

        (1 − d) / (1 − dⁿ) · Σ dⁿ⁻ⁱ wᵢ  over i = 1 … n,

    the bias-corrected average of Kingma and Ba (2015, section 7.2,
    https://arxiv.org/abs/1412.6980). ``tensors`` has it by the parameters' names; ``steps`` is *n*.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        """Begin an average that has seen no step, of ``parameters`` on their devices."""
        self._parameters, self._decay = parameters, decay
        self.tensors = {name: each.detach().clone() for name, each in parameters.items()}
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as an optimizer step has left them."""
        self.steps += 1
        # That of the last step among all, by which the sum above goes on from n − 1 to n.
        weight = (1.0 - self._decay) / (1.0 - self._decay**self.steps)
        torch._foreach_lerp_(list(self.tensors.values()), self._current(), weight)

    @torch.no_grad()
    def restart(self) -> None:
        """Begin anew with the parameters as they are, as after a first step."""
        self.steps = 1
        torch._foreach_copy_(list(self.tensors.values()), self._current())

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the parameters and their averages, in place; a second call undoes it."""
        for average, parameter in zip(self.tensors.values(), self._current(), strict=True):
            before = parameter.clone()
            parameter.copy_(average)
            average.copy_(before)

    def _current(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self._parameters.values()]

"""Another network in WeatherMixer's place: plain PyTorch that maps fields to fields.

Everything around it is WeatherMixer's: what it is given, increments that are added to the state,
arithmetic. Each rank has all of it, so that ranks can be nothing but replicas.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

import torch
from torch import Tensor, nn

from weathermixer.config import Config
from weathermixer.errors import UserError
from weathermixer.jigsaw.cutting import CutTensors, parallelize
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture
from weathermixer.model.mixer import Increment, WeatherMixer

NetworkBuilder: TypeAlias = Callable[[Architecture], nn.Module]
"""Makes a network for fields of these sizes.

It maps ``(batch, architecture.inputs, latitude, longitude)`` to ``(batch, architecture.predicted,
latitude, longitude)``.
"""


class OtherNetwork(nn.Module):
    """A network of fields, applied as :class:`~weathermixer.model.mixer.WeatherMixer` is.

    ``network`` is given, all normalised, the prognostic channels of the states, the newest first,
    then static fields and forcings. With ``model.prediction: increment`` what it makes of the
    prognostic channels is in units of each one's step standard deviation, and added to the newest
    state; else it is the next state. ``arithmetic`` is the type that products compute in, where it
    is not that of the weights, by ``torch.autocast``.
    """

    def __init__(
        self,
        architecture: Architecture,
        network: nn.Module,
        *,
        arithmetic: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.arithmetic = arithmetic
        self.network = network
        self.head = Increment(architecture) if architecture.prediction == "increment" else None

    def forward(
        self,
        state: Tensor,
        *given: Tensor,
        applications: int = 1,
        noise: Tensor | None = None,
    ) -> Tensor:
        """The state one step later, of states and fields as WeatherMixer takes them.

        The network has to be applied again for a later one, and knows no noise.
        """
        assert applications == 1 and noise is None, "such settings are refused"
        a = self.architecture
        state = state[:, : a.prognostic]
        earlier, fields = given[: a.input_times - 1], given[a.input_times - 1 :]
        inputs = torch.cat(
            [
                state,
                *(each[:, : a.prognostic] for each in earlier),
                *(each.expand(len(state), -1, -1, -1) for each in fields),
            ],
            dim=1,
        )
        with self._arithmetic(state):
            made = self.network(inputs)
        expected = (len(state), a.predicted, *state.shape[2:])
        if made.shape != expected:
            raise UserError(
                f"the network makes {tuple(made.shape)} of {tuple(inputs.shape)}, and {expected} "
                "is expected (batch, predicted channels, latitude, longitude): correct its output"
            )
        made = made.to(state.dtype)
        return made if self.head is None else self.head(made, state)

    def _arithmetic(self, state: Tensor) -> AbstractContextManager[object]:
        if self.arithmetic in (None, state.dtype):
            return nullcontext()
        return torch.autocast(state.device.type, self.arithmetic)


Network: TypeAlias = WeatherMixer | OtherNetwork
"""What a training trains and a forecast applies."""


def build_other(
    builder: NetworkBuilder,
    architecture: Architecture,
    mesh: Mesh,
    *,
    seed: int,
    increment_scale: Tensor,
    dtype: torch.dtype = torch.float32,
    arithmetic: torch.dtype | None = None,
) -> OtherNetwork:
    """A network of one's own with the weights that its builder draws, determined by the seed.

    ``increment_scale (prognostic,)`` and the types are as :func:`~weathermixer.model.cuts.build`
    has them. Raises UserError for a network of which a checkpoint could not keep all that it
    learns.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = builder(architecture)
    _require_real_parameters(network)
    model = OtherNetwork(architecture, network, arithmetic=arithmetic)
    model = model.to(device=mesh.device, dtype=dtype)
    if model.head is not None:
        model.head.scale.copy_(increment_scale.view(-1, 1, 1))
    # Every rank has all of each parameter: then a replica, whose gradients are summed over `data`.
    whole = {
        name: CutTensors({own: (None,) * parameter.ndim for own, parameter in parameters})
        for name, module in model.named_modules()
        if (parameters := list(module.named_parameters(recurse=False)))
    }
    return parallelize(model, mesh, whole)


def require_settings_for_other(config: Config) -> None:
    """Raise UserError for the first setting that only WeatherMixer can follow."""
    training, parallel = config.training, config.parallel
    for name, is_default, remedy in (
        ("model.noise", config.model.noise == 0, "remove it"),
        ("model.local_noise", config.model.local_noise == 0, "remove it"),
        ("training.latent_rollout", training.longest_latent == 1, "use training.rollout"),
        ("training.compile", not training.compile, "let its builder compile what it can"),
        ("training.recompute", training.recompute != "blocks", "set it to none or stages"),
        ("training.learning_rates", not training.learning_rates, "remove it"),
        ("training.edge_learning_rate", training.edge_learning_rate is None, "remove it"),
        ("parallel.domain", parallel.domain in (None, 1), "use parallel.data"),
        ("parallel.tensor", parallel.tensor in (None, 1), "use parallel.data"),
    ):
        if not is_default:
            raise UserError(
                f"{name} is a setting of WeatherMixer that a network of your own cannot follow: "
                f"{remedy}"
            )


def _require_real_parameters(network: nn.Module) -> None:
    parameters = dict(network.named_parameters())
    if not parameters:
        raise UserError("the network has no parameters: there is nothing to train")
    for name, parameter in parameters.items():
        if not parameter.is_floating_point():
            raise UserError(
                f"the network's parameter {name} is of {parameter.dtype}: let it hold real "
                "numbers, of which torch.view_as_complex makes complex ones"
            )
    for name in network.state_dict():
        if name not in parameters:
            raise UserError(
                f"the network's buffer {name} would be missing from checkpoints, which hold "
                "parameters: make it one, or give register_buffer persistent=False where the "
                "builder makes it anew"
            )

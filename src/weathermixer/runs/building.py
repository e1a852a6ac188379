"""The network that a run trains, built for what the run knows: sizes, settings and statistics."""

from __future__ import annotations

import torch

from weathermixer.config import Training
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.model.cuts import Part, build
from weathermixer.model.mixer import WeatherMixer
from weathermixer.model.other_network import Network, NetworkBuilder, build_other


def build_network(
    architecture: Architecture,
    training: Training,
    normalisation: Normalisation,
    *,
    mesh: Mesh,
    network: NetworkBuilder | None,
    draws_weights: bool,
) -> Network:
    """Build what a rank holds of the network that is given, else of a WeatherMixer.

    Where a checkpoint is going to fill the weights, those of WeatherMixer are not drawn.
    """
    if network is None:
        return build_model(
            architecture, training, normalisation, mesh=mesh, draws_weights=draws_weights
        )
    arithmetic = Arithmetic.of(training.dtype)
    return build_other(
        network,
        architecture,
        mesh,
        seed=training.seed,
        increment_scale=torch.from_numpy(normalisation.increment_scale[: architecture.prognostic]),
        dtype=arithmetic.states,
        arithmetic=arithmetic.products,
    )


def build_model(
    architecture: Architecture,
    training: Training,
    normalisation: Normalisation,
    *,
    mesh: Mesh | None = None,
    draws_weights: bool = True,
) -> WeatherMixer:
    """Build a WeatherMixer with its initial weights; with a ``mesh``, the part that a rank holds.

    Where a checkpoint is going to fill the weights, they need not be drawn.
    """
    mesh = mesh or Mesh.describe()
    own, arithmetic = Part.on(mesh, architecture), Arithmetic.of(training.dtype)
    return build(
        architecture,
        mesh,
        seed=training.seed if draws_weights else None,
        increment_scale=torch.from_numpy(normalisation.increment_scale[own.prognostic]),
        samples=training.forecasts_at_once,
        dtype=arithmetic.states,
        arithmetic=arithmetic.products,
        recompute=training.recompute == "blocks",
    )

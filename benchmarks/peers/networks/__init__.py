"""The networks that ``skill.py`` trains beside WeatherMixer, each by its name in the table.

A network is a builder as the training loop takes it: a function of an
:class:`~weathermixer.model.architecture.Architecture` that returns a module, which maps fields
``(batch, inputs, latitude, longitude)`` to ``(batch, predicted, latitude, longitude)``. Its last
layer begins with zeros, as WeatherMixer's does, so that it forecasts persistence at first. To add
one, write it in a file of its own and name it here.
"""

from __future__ import annotations

from torch import nn

from peers.networks import unet, vit
from weathermixer.model.architecture import Architecture
from weathermixer.model.other_network import NetworkBuilder


def spherical_network(architecture: Architecture) -> nn.Module:
    """The spherical network, for whoever has torch-harmonics, which no extra installs.

    It asks for another PyTorch than the pinned one.
    """
    from peers.networks.sfno import SphericalNetwork

    return SphericalNetwork(architecture)


NETWORKS: dict[str, NetworkBuilder] = {
    "sfno": spherical_network,
    "vit": vit.VisionTransformer,
    "unet": unet.UNet,
}

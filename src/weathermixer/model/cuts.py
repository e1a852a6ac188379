"""How the network is cut over a mesh, and the part of it and of a state that a rank holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weathermixer.config import Data
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.forcings import Forcings, forcing_fields
from weathermixer.jigsaw.cost import cheapest_pair, cheapest_scheme
from weathermixer.jigsaw.cutting import Cut, CutLinear, CutNorm, CutTensors, parallelize
from weathermixer.jigsaw.halo import Halo
from weathermixer.jigsaw.initial import linear_bound
from weathermixer.jigsaw.layers import Linear, initialise
from weathermixer.jigsaw.layout import Dimension
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture
from weathermixer.model.mixer import Increment, WeatherMixer


def cuts(architecture: Architecture, mesh: Mesh, *, samples: int = 1) -> dict[str, Cut]:
    """How each module of a WeatherMixer is cut, by its name: the table for ``parallelize``.

    Products move what is cheapest to move for batches of ``samples``; any other batch works too.
    """
    a = architecture
    tokens, channels, points = a.token_dimension, a.channels, a.point_dimension
    both, predicted = Dimension((channels, channels)), a.predicted_dimension
    of_tokens = cheapest_pair(
        tokens, a.token_hidden, mesh, rows=channels, features="domain", samples=samples
    )
    of_channels = cheapest_pair(channels, a.channel_hidden, mesh, rows=tokens, samples=samples)

    def single(
        inputs: Dimension,
        outputs: Dimension,
        rows: Dimension,
        *,
        input_gradient: bool = True,
    ) -> CutLinear:
        scheme = cheapest_scheme(
            inputs, outputs, mesh, rows=rows, samples=samples, input_gradient=input_gradient
        )
        return CutLinear(rows, in_features=inputs, out_features=outputs, scheme=scheme)

    table: dict[str, Cut] = {
        "encoder": single(a.input_features, Dimension((channels,)), tokens, input_gradient=False),
        "blocks.*.norm": CutNorm(tokens),
        "blocks.*.0.expand": CutLinear(channels, "domain", tokens, None, of_tokens[0]),
        "blocks.*.0.contract": CutLinear(channels, "domain", None, tokens, of_tokens[1]),
        "blocks.*.1.expand": CutLinear(tokens, scheme=of_channels[0]),
        "blocks.*.1.contract": CutLinear(tokens, scheme=of_channels[1]),
        "decoder.norm": CutNorm(tokens),
        "decoder.linear": single(both, a.predicted_features, tokens),
    }
    if a.overlap:
        table["halo"] = Halo(a.overlap, mesh)
        table["ring"] = single(
            a.ring_features, Dimension((channels,)), tokens, input_gradient=False
        )
    if a.smoothing:
        prognostic = Dimension((a.prognostic,))
        table["smoothing"] = CutTensors(
            {
                name: (("tensor", channels), None, None, None)
                for name, channels in (("kernel", predicted), ("state_kernel", prognostic))
            }
            | {
                "diffusion": (("tensor", prognostic), None, None),
                "bias": (("tensor", predicted), None, ("domain", a.longitude_dimension)),
            }
        )
        table["smoothing.halo"] = Halo(a.smoothing, mesh)
    if a.drawn:
        table["blocks.*.modulation"] = CutTensors(
            {"scale": (None, ("tensor", channels)), "shift": (None, ("tensor", channels))}
        )
    if a.local_noise:
        table["point_noise"] = CutTensors({"amplitude": (("tensor", predicted), None, None)})
    if a.prediction == "increment":
        prognostic = Dimension((a.prognostic,))
        return table | {"head": CutTensors({"scale": (("tensor", prognostic), None, None)})}
    pair = Dimension((*predicted.sections, a.prognostic))
    return table | {
        "head.decoded_norm": CutNorm(points, predicted),
        "head.norm": CutNorm(points, pair),
        "head.linear": single(pair, predicted, points),
    }


def check_cuts(architecture: Architecture, mesh: Mesh) -> None:
    """Raise LayoutError where some rank of the mesh would be left with nothing to do."""
    domain, tensor = mesh.domain.size, mesh.tensor.size
    architecture.token_dimension.require_parts(domain, "columns of patches", "domain")
    hidden = Dimension((architecture.token_hidden,))
    hidden.require_parts(domain, "hidden values of token mixing", "domain")
    for size, what in (
        (architecture.prognostic, "variables"),
        (architecture.channels, "latent channels"),
        (architecture.channel_hidden, "hidden values of channel mixing"),
    ):
        Dimension((size,)).require_parts(tensor, what, "tensor")


@dataclass(frozen=True)
class Part:
    """The part of states, static fields and forcings that a rank holds: all latitudes of these.

    ``prognostic`` and ``diagnostic`` are places among all channels, where the latter come last.
    """

    prognostic: slice
    diagnostic: slice
    static: slice
    forcings: slice
    longitudes: slice

    @classmethod
    def on(cls, mesh: Mesh, architecture: Architecture) -> Part:
        """What of a state the rank holds that the mesh describes."""
        a = architecture
        fields = a.fields_of(mesh.tensor.size, mesh.tensor.index)
        (longitudes,) = a.longitude_dimension.ranges(mesh.domain.size, mesh.domain.index)
        first = a.prognostic
        return cls(
            prognostic=slice(fields.prognostic.start, fields.prognostic.stop),
            diagnostic=slice(first + fields.diagnostic.start, first + fields.diagnostic.stop),
            static=slice(fields.static.start, fields.static.stop),
            forcings=slice(fields.forcings.start, fields.forcings.stop),
            longitudes=slice(longitudes.start, longitudes.stop),
        )

    @property
    def channels(self) -> list[int]:
        """The places, among all channels, of those that the rank predicts, in its order."""
        return [
            place
            for part in (self.prognostic, self.diagnostic)
            for place in range(part.start, part.stop)
        ]

    def names_among(self, channels: Sequence[str]) -> list[str]:
        """The names of the rank's channels that are among the first of all channels, given here."""
        return [channels[place] for place in self.channels if place < len(channels)]

    def of(self, normalisation: Normalisation) -> Normalisation:
        """What normalises and describes this part."""
        return normalisation.part(self.channels, self.static, self.longitudes)

    def forcings_of(self, data: Data, normalisation: Normalisation) -> Forcings:
        """The forcings of this part of what ``normalisation`` describes."""
        return Forcings(
            forcing_fields(data.forcings)[self.forcings],
            normalisation.latitude,
            normalisation.longitude[self.longitudes],
            data.step_hours,
        )

    def share(self, normalisation: Normalisation) -> float:
        """The fraction that it is of the values of a whole state."""
        own = self.of(normalisation)
        return (len(own.channels) * own.grid[1]) / (
            len(normalisation.channels) * normalisation.grid[1]
        )


def describe(
    architecture: Architecture,
    mesh: Mesh,
    *,
    samples: int = 1,
    arithmetic: torch.dtype | None = None,
    recompute: bool = False,
) -> WeatherMixer:
    """A rank's part of a network on the meta device: nothing is allocated.

    Raises LayoutError where some rank of the mesh would be left with nothing to do.
    """
    check_cuts(architecture, mesh)
    model = WeatherMixer(
        architecture, arithmetic=arithmetic, recompute=recompute, device=torch.device("meta")
    )
    return cut(model, mesh, samples=samples)


def cut(model: WeatherMixer, mesh: Mesh, *, samples: int = 1) -> WeatherMixer:
    """Cut a whole network over a mesh, in place: what remains is this rank's part.

    Products move what is cheapest to move for batches of ``samples``.
    """
    a = model.architecture
    model = parallelize(model, mesh, cuts(a, mesh, samples=samples))
    model.prognostic = len(a.fields_of(mesh.tensor.size, mesh.tensor.index).prognostic)
    (model.tokens,) = a.token_dimension.ranges(mesh.domain.size, mesh.domain.index)
    (model.longitudes,) = a.longitude_dimension.ranges(mesh.domain.size, mesh.domain.index)
    return model


def build(
    architecture: Architecture,
    mesh: Mesh,
    *,
    seed: int | None,
    increment_scale: Tensor,
    samples: int = 1,
    dtype: torch.dtype = torch.float32,
    arithmetic: torch.dtype | None = None,
    recompute: bool = False,
    device: Any = None,
) -> WeatherMixer:
    """A rank's part of a network with its initial weights, which a seed and their names determine.

    Without a ``seed`` the weights are whatever was in their memory, for a checkpoint to fill.
    ``increment_scale (prognostic,)``, of this rank's channels, is each one's step standard
    deviation divided by its standard deviation. ``samples`` is the batch that the movement of data
    is chosen for. ``dtype`` is the type of the weights; ``arithmetic`` (the same where unset) and
    ``recompute`` are as in :class:`~weathermixer.model.mixer.WeatherMixer`. Raises LayoutError
    where some rank of the mesh would be left with nothing to do.
    """
    model = describe(
        architecture, mesh, samples=samples, arithmetic=arithmetic, recompute=recompute
    )
    model = model.to(dtype).to_empty(device=device or mesh.device)
    if seed is not None:
        initialise(model, seed)
        if model.ring is not None:
            _scale_as_one(model.encoder, model.ring)
    if isinstance(model.head, Increment):
        if seed is not None:
            # Starting from persistence, the best forecast that needs no weights.
            nn.init.zeros_(model.decoder.linear.weight)
        model.head.scale.copy_(increment_scale.view(-1, 1, 1))
    return model


def _scale_as_one(*layers: nn.Module) -> None:
    """Give maps whose results are added the initial weights that one map of all inputs would have.

    Each has those that keep the scale of its own inputs.
    """
    linears = [layer for layer in layers if isinstance(layer, Linear)]
    fan_in = sum(layer.product.inputs.size for layer in linears)
    for layer in linears:
        layer.weight.detach().mul_(linear_bound(fan_in) / linear_bound(layer.product.inputs.size))

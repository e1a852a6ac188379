"""The sizes that define a WeatherMixer, and where what they count may be cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from weathermixer.config import Data, Model
from weathermixer.data.channels import channels_of, predicted_channels
from weathermixer.data.forcings import forcing_fields
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Dimension, shard


class Fields(NamedTuple):
    """Which fields of each kind a rank holds, counted within the kind."""

    prognostic: range
    diagnostic: range
    static: range
    forcings: range


@dataclass(frozen=True)
class Architecture:
    """The sizes that define a WeatherMixer.

    ``prognostic``, ``static``, ``forcings`` and ``diagnostic`` count fields; the last are predicted
    alone. The network is given the state at ``input_times``. ``grid`` and ``patch`` are latitude ×
    longitude; ``token_hidden`` and ``channel_hidden`` are the widths of the hidden layers
    themselves. ``noise`` counts the numbers by which the norms of the blocks are modulated, and
    ``local_noise`` those that each token has of its own; ``overlap`` the grid points around a patch
    that its token is given too, and ``smoothing`` those around each point that decoded fields, and
    what is added of the state, are smoothed over.
    """

    prognostic: int
    static: int
    grid: tuple[int, int]
    patch: tuple[int, int]
    channels: int
    blocks: int
    token_hidden: int
    channel_hidden: int
    dropout: float
    prediction: Literal["increment", "state"]
    forcings: int = 0
    diagnostic: int = 0
    input_times: int = 1
    noise: int = 0
    overlap: int = 0
    smoothing: int = 0
    local_noise: int = 0

    @property
    def drawn(self) -> int:
        """Numbers that are drawn for an application: those of all tokens, then those of each.

        Where tokens have some of their own, ``local_noise``, one of each grid point comes last.
        """
        of_points = self.grid[0] * self.grid[1] if self.local_noise else 0
        return self.noise + self.tokens * self.local_noise + of_points

    @property
    def predicted(self) -> int:
        """Channels that the network predicts."""
        return self.prognostic + self.diagnostic

    @property
    def inputs(self) -> int:
        """Fields that the network is given: of all input times, static ones and forcings."""
        return self.input_times * self.prognostic + self.static + self.forcings

    @property
    def points_per_patch(self) -> int:
        """Grid points in a patch."""
        return self.patch[0] * self.patch[1]

    @property
    def tokens(self) -> int:
        """Patches of a state."""
        return self.grid[0] * self.grid[1] // self.points_per_patch

    @property
    def token_dimension(self) -> Dimension:
        """Tokens, which are cut between columns of patches."""
        return Dimension((self.grid[1] // self.patch[1],), unit=self.grid[0] // self.patch[0])

    @property
    def longitude_dimension(self) -> Dimension:
        """Longitudes, cut where tokens are."""
        return Dimension((self.grid[1] // self.patch[1],), unit=self.patch[1])

    @property
    def point_dimension(self) -> Dimension:
        """Grid points, cut where longitudes are."""
        longitudes = self.longitude_dimension
        return Dimension(longitudes.sections, unit=longitudes.unit * self.grid[0])

    @property
    def predicted_dimension(self) -> Dimension:
        """Channels that are predicted, prognostic and diagnostic ones cut apart.

        A rank predicts those that it is given, and its part of the others.
        """
        return Dimension(
            (self.prognostic, self.diagnostic) if self.diagnostic else (self.prognostic,)
        )

    @property
    def predicted_features(self) -> Dimension:
        """Values in a patch of what is predicted, cut between variables."""
        return Dimension(self.predicted_dimension.sections, unit=self.points_per_patch)

    @property
    def input_features(self) -> Dimension:
        """Values in a patch of what the encoder takes: states, the newest first, and given fields.

        Static fields and forcings are one section, so that a mesh divides them as evenly as can be.
        """
        given = self.static + self.forcings
        states = (self.prognostic,) * self.input_times
        return Dimension((*states, given), unit=self.points_per_patch)

    @property
    def kernel_size(self) -> int:
        """Weights of a kernel by which fields of a channel are smoothed."""
        return (2 * self.smoothing + 1) ** 2

    @property
    def ring_features(self) -> Dimension:
        """Values around a patch that the encoder takes too, those of the newest state alone."""
        around = (self.patch[0] + 2 * self.overlap) * (self.patch[1] + 2 * self.overlap)
        return Dimension((self.prognostic,), unit=around - self.points_per_patch)

    def fields_of(self, parts: int, index: int) -> Fields:
        """The fields of part ``index`` of ``parts`` along ``tensor``.

        They follow the cuts of ``input_features`` and ``predicted_features``.
        """
        given = shard(self.static + self.forcings, parts, index)
        return Fields(
            prognostic=shard(self.prognostic, parts, index),
            diagnostic=shard(self.diagnostic, parts, index),
            static=range(min(given.start, self.static), min(given.stop, self.static)),
            forcings=range(
                max(given.start - self.static, 0),
                max(given.stop - self.static, 0),
            ),
        )


def architecture_of(data: Data, model: Model, grid: tuple[int, int]) -> Architecture:
    """The architecture that a configuration asks for on a grid; UserError if patches do not fit."""
    for name, points, size in zip(("latitude", "longitude"), grid, model.patch, strict=True):
        if points % size:
            raise UserError(
                f"model.patch {model.patch[0]}×{model.patch[1]} does not divide the store's grid "
                f"{grid[0]}×{grid[1]} (latitude × longitude): {points} points of {name} are no "
                f"multiple of {size}, so choose a divisor of {points}"
            )
    prognostic = len(channels_of(data.variables, data.levels))
    tokens = (grid[0] // model.patch[0]) * (grid[1] // model.patch[1])
    return Architecture(
        prognostic=prognostic,
        static=len(data.static),
        grid=grid,
        patch=model.patch,
        channels=model.channels,
        blocks=model.blocks,
        token_hidden=max(1, round(model.token_hidden * tokens)),
        channel_hidden=max(1, round(model.channel_hidden * model.channels)),
        dropout=model.dropout,
        prediction=model.prediction,
        forcings=len(forcing_fields(data.forcings)),
        diagnostic=len(predicted_channels(data)) - prognostic,
        input_times=data.input_times,
        noise=model.noise,
        local_noise=model.local_noise,
        overlap=model.overlap,
        smoothing=model.smoothing,
    )

"""The sizes that define a WeatherMixer, and where what they count may be cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from weathermixer.config import Data, Model
from weathermixer.data.channels import channels_of
from weathermixer.data.forcings import forcing_fields
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Dimension


@dataclass(frozen=True)
class Architecture:
    """The sizes that define a WeatherMixer.

    ``prognostic``, ``static`` and ``forcings`` count fields. ``grid`` and ``patch`` are latitude ×
    longitude; ``token_hidden`` and ``channel_hidden`` are the widths of the hidden layers
    themselves.
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
    def state_features(self) -> Dimension:
        """Values in a patch of a state, cut between variables."""
        return Dimension((self.prognostic,), unit=self.points_per_patch)

    @property
    def input_features(self) -> Dimension:
        """Values in a patch of what the encoder takes: those of the state, then the given ones.

        Static fields and forcings are one section, so that a mesh divides them as evenly as can be.
        """
        given = self.static + self.forcings
        return Dimension((self.prognostic, given), unit=self.points_per_patch)

    def fields_of(self, parts: int, index: int) -> tuple[range, range, range]:
        """The channels, static fields and forcings of part ``index`` of ``parts`` along ``tensor``.

        They follow the cut of ``input_features``.
        """
        channels, given = (
            range(part.start // self.points_per_patch, part.stop // self.points_per_patch)
            for part in self.input_features.ranges(parts, index)
        )
        first_static = self.prognostic
        first_forcing = first_static + self.static
        static = range(
            min(given.start, first_forcing) - first_static,
            min(given.stop, first_forcing) - first_static,
        )
        forcings = range(
            max(given.start, first_forcing) - first_forcing,
            max(given.stop, first_forcing) - first_forcing,
        )
        return channels, static, forcings


def architecture_of(data: Data, model: Model, grid: tuple[int, int]) -> Architecture:
    """The architecture that a configuration asks for on a grid; UserError if patches do not fit."""
    for name, points, size in zip(("latitude", "longitude"), grid, model.patch, strict=True):
        if points % size:
            raise UserError(
                f"model.patch {model.patch[0]}×{model.patch[1]} does not divide the store's grid "
                f"{grid[0]}×{grid[1]} (latitude × longitude): {points} points of {name} are no "
                f"multiple of {size}, so choose a divisor of {points}"
            )
    tokens = (grid[0] // model.patch[0]) * (grid[1] // model.patch[1])
    return Architecture(
        prognostic=len(channels_of(data.variables, data.levels)),
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
    )

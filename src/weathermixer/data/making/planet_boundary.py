"""The ground below the planet's air: land, mountains, surface temperatures, and grids to see it on.

Everything is read from the files that ``jcm`` comes with, monthly means of the present climate at
T30. Like ``planet_model.py``, this module needs the extra ``planet``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from dinosaur import spherical_harmonic
from dinosaur.coordinate_systems import CoordinateSystem
from dinosaur.primitive_equations import truncated_modal_orography
from jcm.data.bc import interpolate as boundary
from jcm.forcing import ForcingData
from jcm.physics.speedy.speedy_coords import get_speedy_coords
from jcm.terrain import TerrainData, get_terrain
from numpy.typing import NDArray

from weathermixer.data.making import vertical
from weathermixer.data.making.planet_numerics import TRUTH

TRUNCATION = 21


def planet_coordinates(layers: int = TRUTH.layers) -> CoordinateSystem:
    """The coordinates of the dynamics: harmonics truncated at T21, and SPEEDY's sigma layers."""
    return get_speedy_coords(layers=layers, spectral_truncation=TRUNCATION)


def layer_centres(coords: CoordinateSystem) -> list[float]:
    """``ln σ`` of the layers' centres, highest layer first."""
    bounds = np.asarray(coords.vertical.boundaries, dtype=np.float64)
    centres = (bounds[1:] + bounds[:-1]) / 2
    assert (np.diff(centres) > 0).all()
    return [float(centre) for centre in np.log(centres)]


def gaussian_grid(grid: tuple[int, int]) -> spherical_harmonic.Grid:
    """The Gaussian grid of ``rows × columns``, south to north, on which to see the harmonics."""
    return spherical_harmonic.Grid(
        longitude_wavenumbers=TRUNCATION + 1,
        total_wavenumbers=TRUNCATION + 2,
        longitude_nodes=grid[1],
        latitude_nodes=grid[0],
        radius=get_speedy_coords(spectral_truncation=TRUNCATION).horizontal.radius,
    )


def static_fields(grid: tuple[int, int]) -> NDArray[np.float32]:
    """Land-sea mask, soil type and geopotential at the surface, ``(field, latitude, longitude)``.

    The soil type is no texture, which the model lacks, but its annual mean availability of soil
    water, in five classes from dry to wet (1 to 5), and 0 at sea.
    """
    seen = gaussian_grid(grid)
    coords = planet_coordinates()
    surface = surface_geopotential(seen, terrain_on(coords), coords)
    land = np.asarray(land_fraction(seen))
    with xr.open_dataset(_boundary_file("forcing.nc")) as forcing:
        wet = _regrid(boundary.upsample_forcings_ds, forcing, seen)["soilw_am"].mean("time")
    soil = np.where(land >= 0.5, np.clip(np.ceil(5.0 * wet.values), 1.0, 5.0), 0.0)
    fields = np.stack([land, soil, np.asarray(surface)]).astype(np.float32)
    return np.ascontiguousarray(np.swapaxes(fields, -1, -2))


def land_fraction(grid: spherical_harmonic.Grid) -> jax.Array:
    """Fraction of land ``(longitude, latitude)``, 0 to 1, rounded near both as jcm's own is."""
    with xr.open_dataset(_boundary_file("terrain.nc")) as terrain:
        land = _regrid(boundary.upsample_terrain_ds, terrain, grid)["lsm"].values
    _, rounded = get_terrain(fmask=jnp.asarray(land, jnp.float32))
    return rounded


def surface_geopotential(
    grid: spherical_harmonic.Grid, terrain: TerrainData, coords: CoordinateSystem
) -> jax.Array:
    """Geopotential of the ground ``(longitude, latitude)`` as the dynamics have it, m² s⁻².

    It is a truncated series, which ripples at sea.
    """
    height = truncated_modal_orography(terrain.orog, coords, wavenumbers_to_clip=2)
    return vertical.GRAVITY * grid.to_nodal(height)


def terrain_on(coords: CoordinateSystem) -> TerrainData:
    """Land, sea and orography on the coordinates of the dynamics."""
    with _quiet():
        return TerrainData.from_file(_boundary_file("terrain.nc"), coords)


def forcing_on(coords: CoordinateSystem) -> ForcingData:
    """The monthly climatology of sea and land surfaces, for every day of any year."""
    with xr.open_dataset(_boundary_file("forcing.nc")) as monthly:
        # Regridded by month: jcm would do it for every day of the year, thirty times slower.
        regridded = _regrid(boundary.upsample_forcings_ds, monthly, coords.horizontal)
    with _quiet():
        return ForcingData.from_dataset(regridded, coords, align_mode="wrap_year")


def _boundary_file(name: str) -> Any:
    return resources.files("jcm.data.bc") / "t30" / "clim" / name


def _regrid(function: Any, fields: xr.Dataset, grid: spherical_harmonic.Grid) -> xr.Dataset:
    with _quiet():
        return function(fields, grid)


@contextmanager
def _quiet() -> Iterator[None]:
    """While entered, hides xarray's warnings of what jcm will have to change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)  # and pandas'
        yield

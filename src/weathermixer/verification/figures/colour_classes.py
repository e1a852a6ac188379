"""Values cut into classes at round numbers, each with a colour, as on a printed chart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

_NUM_CLASSES = 16
_NUM_ERROR_CLASSES = 13  # odd: the middle one is no error to speak of
_MOST_LABELS = 6
_COLOUR_MAPS = {
    "geopotential": "YlGnBu_r",
    "temperature": "RdYlBu_r",
    "2m_temperature": "RdYlBu_r",
    "specific_humidity": "GnBu",
    "mean_sea_level_pressure": "PRGn",
}
_WINDS = "PuOr_r"
_ERRORS = "RdBu_r"
_SPREADS = "BuPu"


@dataclass(frozen=True)
class ColourClasses:
    """Classes of values: ``bounds`` between them, increasing, and a colour for each."""

    bounds: tuple[float, ...]
    colours: tuple[str, ...]

    def classify(self, values: NDArray[np.floating]) -> NDArray[np.uint8]:
        """The index of each value's class."""
        return np.searchsorted(self.bounds, values, side="right").astype(np.uint8)

    @property
    def labels(self) -> tuple[str, ...]:
        """A label for each bound, empty where there is no room for it.

        Bounds on both sides of zero are labelled in pairs.
        """
        bounds = self.bounds
        step = -(-len(bounds) // _MOST_LABELS)
        is_symmetric = all(a == -b for a, b in zip(bounds, reversed(bounds), strict=True))
        labels = []
        for index, bound in enumerate(bounds):
            place = min(index, len(bounds) - 1 - index) if is_symmetric else index
            labels.append(f"{bound:g}".replace("-", "−") if place % step == 0 else "")
        return tuple(labels)


def classes_of_states(values: NDArray[np.floating], variable: str) -> ColourClasses:
    """About sixteen classes for states of a variable, between values that are not rare."""
    low, high = (float(bound) for bound in np.percentile(values, (0.5, 99.5)))
    is_wind = "component_of_wind" in variable
    if is_wind:
        high = max(abs(low), abs(high))
        low = -high
    step = nice((high - low) / _NUM_CLASSES) if high > low else max(abs(high), 1.0)
    first = math.ceil(low / step + 1e-9)
    last = max(first + 1, math.floor(high / step - 1e-9))
    bounds = tuple(round(step * index, 12) for index in range(first, last + 1))
    name = _WINDS if is_wind else _COLOUR_MAPS.get(variable, "viridis")
    return ColourClasses(bounds, _colours(name, len(bounds) + 1))


def classes_of_errors(errors: NDArray[np.floating]) -> ColourClasses:
    """Classes for errors, about zero, that widen outwards so that small and large ones show."""
    largest = max(float(np.percentile(np.abs(errors), 99.7)), 1e-12)
    outer = [nice(largest / 1.6)]
    while len(outer) < _NUM_ERROR_CLASSES // 2:
        outer.append(nice(outer[-1] / 1.9))
    bounds = (*(-bound for bound in outer), *reversed(outer))
    return ColourClasses(bounds, _colours(_ERRORS, len(bounds) + 1))


def classes_of_spread(errors: ColourClasses) -> ColourClasses:
    """Classes for the spread of an ensemble between the positive bounds of those of its errors."""
    bounds = tuple(bound for bound in errors.bounds if bound > 0.0)
    return ColourClasses(bounds, _colours(_SPREADS, len(bounds) + 1))


def nice(value: float) -> float:
    """Round a number to the nearest of 1, 2 and 5 times a power of ten.

    >>> [nice(value) for value in (0.9, 1.6, 37.0, 0.0052)]
    [1.0, 2.0, 50.0, 0.005]
    """
    power = 10.0 ** math.floor(math.log10(value))
    nearest = min((1.0, 2.0, 5.0, 10.0), key=lambda digit: abs(math.log(digit * power / value)))
    return float(f"{nearest * power:.1g}")


def _colours(name: str, number: int) -> tuple[str, ...]:
    chosen = colormaps[name](np.linspace(0.02, 0.98, number))
    return tuple("#" + "".join(f"{round(255 * part):02x}" for part in rgb[:3]) for rgb in chosen)

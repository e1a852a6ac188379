"""From the units that a file states to SI: known, or refused.

Units are written in many ways (``m s**-1``, ``m/s``, ``m.s-1``); here they are taken apart into
symbols and powers, so that no list of spellings is needed.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Symbol: base symbols with their powers, factor, offset. An offset is of a whole unit alone.
_SYMBOLS: dict[str, tuple[dict[str, int], float, float]] = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), ({"m": 1}, 1.0, 0.0)),
    **dict.fromkeys(("km", "kilometer", "kilometers"), ({"m": 1}, 1000.0, 0.0)),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), ({"m": 1}, 0.01, 0.0)),
    **dict.fromkeys(("mm", "millimeter", "millimeters"), ({"m": 1}, 0.001, 0.0)),
    # A geopotential metre is a height; what it is of geopotential is for the variable to say.
    **dict.fromkeys(("gpm", "gpmeter"), ({"m": 1}, 1.0, 0.0)),
    **dict.fromkeys(("dam", "gpdam"), ({"m": 1}, 10.0, 0.0)),
    **dict.fromkeys(("s", "sec", "second", "seconds"), ({"s": 1}, 1.0, 0.0)),
    **dict.fromkeys(("h", "hr", "hour", "hours"), ({"s": 1}, 3600.0, 0.0)),
    **dict.fromkeys(("knot", "knots", "kt", "kts", "kn"), ({"m": 1, "s": -1}, 1852 / 3600, 0.0)),
    **dict.fromkeys(("kg", "kilogram", "kilograms"), ({"kg": 1}, 1.0, 0.0)),
    **dict.fromkeys(("g", "gram", "grams"), ({"kg": 1}, 1e-3, 0.0)),
    "mg": ({"kg": 1}, 1e-6, 0.0),
    **dict.fromkeys(("J", "joule", "joules"), ({"kg": 1, "m": 2, "s": -2}, 1.0, 0.0)),
    **dict.fromkeys(("Pa", "pa", "pascal", "pascals"), ({"kg": 1, "m": -1, "s": -2}, 1.0, 0.0)),
    **dict.fromkeys(
        (
            *("hPa", "hpa", "HPa", "hectopascal", "hectopascals", "mbar", "mb"),
            *("millibar", "millibars", "mbars"),
        ),
        ({"kg": 1, "m": -1, "s": -2}, 100.0, 0.0),
    ),
    **dict.fromkeys(("kPa", "kilopascal"), ({"kg": 1, "m": -1, "s": -2}, 1000.0, 0.0)),
    **dict.fromkeys(("bar", "bars"), ({"kg": 1, "m": -1, "s": -2}, 1e5, 0.0)),
    **dict.fromkeys(("K", "kelvin", "kelvins", "degK", "deg_K"), ({"K": 1}, 1.0, 0.0)),
    **dict.fromkeys(
        ("degC", "deg_C", "degree_C", "degrees_C", "celsius", "degree_Celsius", "°C", "C"),
        ({"K": 1}, 1.0, 273.15),
    ),
    **dict.fromkeys(
        ("degF", "deg_F", "fahrenheit", "°F", "F"), ({"K": 1}, 5 / 9, 273.15 - 32 * 5 / 9)
    ),
    **dict.fromkeys(
        ("dimensionless", "fraction", "ratio", "unitless", "proportion", "numeric"), ({}, 1.0, 0.0)
    ),
    **dict.fromkeys(("%", "percent"), ({}, 0.01, 0.0)),
}
_CASELESS = {symbol.lower(): meaning for symbol, meaning in _SYMBOLS.items() if len(symbol) > 2}
_NUMBERS_ALONE = re.compile(r"\(?\s*[01](\.0)?\s*(-\s*1(\.0)?\s*\)?)?")  # such as "1", "(0 - 1)"
_FACTOR = re.compile(r"(?P<symbol>[^\d\s*/^.+\-]+)(?:\*\*|\^)?(?P<power>[+-]?\d+)?")


@dataclass(frozen=True)
class Conversion:
    """A linear conversion of units: ``factor · values + offset``."""

    factor: float = 1.0
    offset: float = 0.0

    def __call__(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Convert values, into float32; their bits stay where there is nothing to convert."""
        if self == Conversion():
            return np.asarray(values, np.float32)
        return (values * np.float64(self.factor) + self.offset).astype(np.float32)


def conversion(units: str, to: str) -> Conversion | None:
    """The conversion from ``units`` to others; None where one is unknown or they do not match.

    >>> [conversion(text, "m s-1") for text in ("m/s", "m s**-1", "km h-1", "K")]
    [Conversion(factor=1.0, offset=0.0), Conversion(factor=1.0, offset=0.0), \
Conversion(factor=0.2777777777777778, offset=0.0), None]
    >>> conversion("degC", "K")
    Conversion(factor=1.0, offset=273.15)
    """
    source, target = _parse(units), _parse(to)
    if source is None or target is None or source[0] != target[0]:
        return None
    factor = source[1] / target[1]
    return Conversion(factor, (source[2] - target[2]) / target[1])


def _parse(text: str) -> tuple[dict[str, int], float, float] | None:
    """Base symbols with their powers, factor and offset of a unit; None where a symbol is unknown.

    ``m2/s2``, ``m**2 s**-2``, ``m^2.s^-2`` and ``J/kg`` are the same.
    """
    text = text.strip()
    if _NUMBERS_ALONE.fullmatch(text):
        return {}, 1.0, 0.0
    if (meaning := _meaning(text)) is not None:
        return meaning
    powers: Counter[str] = Counter()
    factor = 1.0
    for number, part in enumerate(text.split("/")):
        sign = -1 if number else 1
        rest = part.replace("**", "^")
        pieces = [piece for piece in re.split(r"[\s*.·]+", rest) if piece not in ("", "1")]
        for piece in pieces:
            match = _FACTOR.fullmatch(piece)
            meaning = _meaning(match["symbol"]) if match else None
            if match is None or meaning is None or meaning[2]:
                return None
            power = sign * int(match["power"] or 1)
            factor *= meaning[1] ** power
            for base, each in meaning[0].items():
                powers[base] += each * power
    return {base: power for base, power in sorted(powers.items()) if power}, factor, 0.0


def _meaning(symbol: str) -> tuple[dict[str, int], float, float] | None:
    meaning = _SYMBOLS.get(symbol) or _CASELESS.get(symbol.lower())
    if meaning is None:
        return None
    return dict(sorted(meaning[0].items())), meaning[1], meaning[2]

"""The world's coastlines, for maps: Natural Earth at 1:110 million, in the public domain.

`coastlines.npz` beside this file is written by `tools/make_coastlines.py`.
"""

from functools import cache
from importlib.resources import files

import numpy as np

HUNDREDTHS_PER_DEGREE = 100.0


def coastlines() -> list[np.ndarray]:
    """The coastlines as polylines ``(point, 2)``: longitude in [−180, 180] and latitude, degrees.

    A line that crosses the date line is cut there, so that none runs across the map.
    """
    return list(_load())


@cache
def _load() -> tuple[np.ndarray, ...]:
    with (files(__package__) / "coastlines.npz").open("rb") as file, np.load(file) as stored:
        degrees = stored["points"] / HUNDREDTHS_PER_DEGREE
        lines = np.split(degrees, stored["offsets"][1:-1])
    for line in lines:
        line.setflags(write=False)
    return tuple(lines)

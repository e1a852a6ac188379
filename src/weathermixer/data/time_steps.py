"""Hours and seconds, as people and files write times, and the times and differences of NumPy."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


@overload
def to_timedelta(hours: float) -> np.timedelta64: ...
@overload
def to_timedelta(hours: NDArray[np.floating]) -> NDArray[np.timedelta64]: ...
def to_timedelta(
    hours: float | NDArray[np.floating],
) -> np.timedelta64 | NDArray[np.timedelta64]:
    """A time difference of so many hours, or an array of them, rounded to whole seconds.

    >>> to_timedelta(1.5)
    np.timedelta64(5400,'s')
    """
    seconds = np.round(np.asarray(hours, dtype=np.float64) * 3600.0)
    return seconds.astype("timedelta64[s]")[()]


@overload
def to_hours(difference: np.timedelta64) -> float: ...
@overload
def to_hours(difference: NDArray[np.timedelta64]) -> NDArray[np.float64]: ...
def to_hours(
    difference: np.timedelta64 | NDArray[np.timedelta64],
) -> float | NDArray[np.float64]:
    """A time difference of any unit, or an array of them, in hours.

    >>> to_hours(np.timedelta64(90, "m"))
    1.5
    """
    hours = difference / np.timedelta64(1, "h")
    return float(hours) if np.ndim(hours) == 0 else hours


def to_seconds(instants: NDArray[Any]) -> NDArray[np.int64]:
    """Times in whole seconds since 1970-01-01T00:00:00, or time differences in whole seconds.

    >>> to_seconds(np.array(["1970-01-01T01"], dtype="datetime64[h]"))
    array([3600])
    """
    kind = "datetime64[s]" if instants.dtype.kind == "M" else "timedelta64[s]"
    return instants.astype(kind).astype(np.int64)

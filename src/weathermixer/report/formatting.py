"""Numbers, times and units as a reader wants them, and numbers as a page's script wants them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from weathermixer.verification.headline import shown_units, title_of

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_DIGITS_DRAWN = 4
MISSING = "–"


def short_number(value: float | None, digits: int = 3) -> str:
    """Format a number to a few significant digits, with a true minus sign.

    >>> [short_number(value) for value in (1234.5, 0.04567, -3.0, 2.5e-7, 0.0, None)]
    ['1234', '0.0457', '−3.00', '2.50·10⁻⁷', '0', '–']
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0.0:
        return "0"
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if not -4 <= exponent < 6:
        mantissa = f"{value / 10.0**exponent:.{digits - 1}f}"
        text = f"{mantissa}·10{str(exponent).translate(_SUPERSCRIPTS)}"
    else:
        text = f"{value:.{max(0, digits - 1 - exponent)}f}"
    return text.replace("-", "−")


def percent(value: float | None) -> str:
    """Format a share as a signed whole percentage: ``+12 %``."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{round(100.0 * value):+d} %".replace("-", "−").replace("+0 %", "0 %")


def grouped_number(value: int) -> str:
    """Format a whole number with thin spaces between thousands.

    >>> grouped_number(2_155_000)
    '2\u2009155\u2009000'
    """
    return f"{value:,}".replace(",", "\u2009")


def short_lead(hours: float) -> str:
    """A lead time as forecasters say it: hours up to two days, then whole days as days."""
    if hours >= 48.0 and hours % 24.0 == 0.0:
        return f"{hours / 24.0:g} d"
    return f"{hours:g} h"


def lead_in_words(hours: float) -> str:
    r"""A lead time with its unit written out, after a space that does not break.

    >>> [lead_in_words(hours) for hours in (6.0, 24.0, 72.0)]
    ['6\xa0hours', '24\xa0hours', '3\xa0days']
    """
    number, unit = (
        (hours / 24.0, "day") if hours >= 48.0 and hours % 24.0 == 0.0 else (hours, "hour")
    )
    return f"{number:g}\u00a0{unit}{'' if number == 1.0 else 's'}"


def date_text(time: object) -> str:
    """Format a time to the minute: ``2005-08-05 00:00``."""
    return str(np.datetime64(str(time), "m")).replace("T", " ")


def values_to_draw(
    values: Iterable[float | None], factor: float = 1.0, *, digits: int = _DIGITS_DRAWN
) -> list[float | None]:
    """Values times ``factor``, with the digits that can be seen; None where there is no number."""
    return [
        None if value is None or not math.isfinite(value) else float(f"{factor * value:.{digits}g}")
        for value in values
    ]


def units_of(channel: str) -> tuple[str, float]:
    """The unit in which a channel is shown, and the factor to it; none and 1 for an unknown one."""
    try:
        return shown_units(channel)
    except ValueError:
        return "", 1.0


def label_of(channel: str) -> str:
    """A channel in words; its name as it is where this project does not know it."""
    try:
        title = title_of(channel)
    except ValueError:
        return channel
    return title[0].upper() + title[1:]

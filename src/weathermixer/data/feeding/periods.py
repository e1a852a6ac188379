"""Which times a model learns from, is watched on, and is judged by. Pure: nothing is read here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import Period
from weathermixer.config.dates import periods_overlap
from weathermixer.errors import UserError


class Periods(NamedTuple):
    """Three periods, inclusive: ``train`` to learn from, ``validation``, and ``test``.

    The last two are None where no time is left for them.
    """

    train: Period
    validation: Period | None
    test: Period | None


def periods(
    times: NDArray[np.datetime64], train: Period | None = None, validation: Period | None = None
) -> Periods:
    """The three periods of increasing ``times (time,)``: those given, and defaults for the others.

    By default the first four fifths of the times train, the next tenth validates, the last tests.
    Testing keeps only times after both others. Raises UserError where a default would share times
    with the period that was given beside it.
    """
    count = len(times)
    # Rounded up, so that the few times of a very small data set all train.
    four_fifths, nine_tenths = -(-4 * count // 5), -(-9 * count // 10)
    chosen = Periods(
        train or (times[0], times[four_fifths - 1]),
        validation or _span(times[four_fifths:nine_tenths]),
        None,
    )
    one_is_default = (train is None) != (validation is None)
    if one_is_default and chosen.validation and periods_overlap(chosen.train, chosen.validation):
        raise UserError(
            f"the training period {_text(chosen.train)} and the validation period "
            f"{_text(chosen.validation)} overlap: set both data.train and data.validation"
        )
    last = times[nine_tenths:]
    for used in (chosen.train, chosen.validation):
        if used is not None:
            last = last[last > used[1]]
    return chosen._replace(test=_span(last))


def _span(times: NDArray[np.datetime64]) -> Period | None:
    return (times[0], times[-1]) if len(times) else None


def _text(period: Period) -> str:
    return f"{period[0]}/{period[1]}"

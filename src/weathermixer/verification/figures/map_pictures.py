"""One forecast beside what happened, drawn: what every map of this project is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.channels import parse_channel
from weathermixer.verification.comparison import Comparison
from weathermixer.verification.figures.colour_classes import (
    ColourClasses,
    classes_of_errors,
    classes_of_spread,
    classes_of_states,
)
from weathermixer.verification.figures.map_canvas import MapCanvas
from weathermixer.verification.headline import shown_units
from weathermixer.verification.regions import Regions

Picture = NDArray[np.float64]


@dataclass(frozen=True)
class MapPictures:
    """A channel of one forecast, the truth and the error, a picture for each lead time.

    ``forecasts``, ``truths`` and ``errors`` hold values in shown units at the canvas's pixels,
    coloured by ``state_classes`` and ``error_classes``. ``rmse`` is this forecast's alone, by lead
    time, over all that the grid covers. Of an ensemble, all of these are of its mean, and there are
    ``spreads``, standard deviations of its members, coloured by ``spread_classes``, with their
    root mean squares ``spread``; else these are empty.
    """

    channel: str
    forecasts: tuple[Picture, ...]
    truths: tuple[Picture, ...]
    errors: tuple[Picture, ...]
    rmse: tuple[float, ...]
    state_classes: ColourClasses
    error_classes: ColourClasses
    spreads: tuple[Picture, ...] = ()
    spread: tuple[float, ...] = ()

    @property
    def spread_classes(self) -> ColourClasses:
        """The classes of the spread, bounded as those of errors so that the two can be compared."""
        return classes_of_spread(self.error_classes)


def draw_pictures(
    comparison: Comparison, canvas: MapCanvas, *, channel: str, time: int, leads: Sequence[int]
) -> MapPictures:
    """Draw a channel of the forecast from one initial time, at some lead times, by their indices.

    Raises UserError where the fields cannot be read.
    """
    _, factor = shown_units(channel)
    regions = Regions.of(comparison.grid)
    forecasts, truths, errors, rmse = [], [], [], []
    spreads, spread = [], []

    def root_mean_square(field: Picture) -> float:
        return float(np.sqrt(regions.mean_product(field[None], field[None])[0, 0]))

    for lead in leads:
        forecast, truth = (
            factor * field.astype(np.float64) for field in comparison.fields(time, lead, channel)
        )
        if comparison.forecast.members is not None:
            deviation = forecast.std(axis=0, ddof=1)
            forecast = forecast.mean(axis=0)
            spreads.append(canvas.draw(deviation))
            spread.append(root_mean_square(deviation))
        error = forecast - truth
        forecasts.append(canvas.draw(forecast))
        truths.append(canvas.draw(truth))
        errors.append(canvas.draw(error))
        rmse.append(root_mean_square(error))
    states, differences = np.stack(forecasts + truths), np.stack(errors)
    variable = parse_channel(channel).variable
    return MapPictures(
        channel,
        tuple(forecasts),
        tuple(truths),
        tuple(errors),
        tuple(rmse),
        classes_of_states(states[np.isfinite(states)], variable),
        classes_of_errors(differences[np.isfinite(differences)]),
        tuple(spreads),
        tuple(spread),
    )


def fullest_initial_time(comparison: Comparison) -> tuple[int, list[int]]:
    """The initial time with the most lead times that can be compared, and those lead times.

    Both are indices; of several such initial times, it is the first.
    """
    time = int(comparison.pairs.sum(axis=1).argmax())
    return time, np.flatnonzero(comparison.pairs[time]).tolist()

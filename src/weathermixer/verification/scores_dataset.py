"""Scores as a data set after the manner of WeatherBench 2: a variable each, with its levels."""

from __future__ import annotations

import numpy as np
import xarray as xr

from weathermixer.data.time_steps import to_timedelta
from weathermixer.data.variables import attributes_of, variables_of
from weathermixer.verification.verification_record import Verification


def scores_dataset(verification: Verification) -> xr.Dataset:
    """All scores, as variables ``(source, metric, region, prediction_timedelta, [level])``.

    They are in the variable's units where the metric has any, NaN where a score is not defined;
    sources are the model, forecasts beside it and baselines. The coordinate ``pairs
    (prediction_timedelta,)`` counts the forecasts that a mean is of. Spectra, rank histogram and
    what is significant are not among them.
    """
    regions, scores = verification.regions, verification.scores
    sources, metrics = tuple(scores.values), scores.metrics
    values = np.array(
        [
            [
                [regions[region].values[source][metric] for region in regions]
                if all(metric in each.values[source] for each in regions.values())
                else np.full((len(regions), len(scores.lead_hours), len(scores.channels)), np.nan)
                for metric in metrics
            ]
            for source in sources
        ]
    )
    dims = ("source", "metric", "region", "prediction_timedelta")
    fields = {}
    for name, places in variables_of(scores.channels).items():
        attributes = attributes_of(name)
        if None in places:
            fields[name] = xr.DataArray(values[..., places[None]], dims=dims, attrs=attributes)
            continue
        levels = [level for level in places if level is not None]
        fields[name] = xr.DataArray(
            values[..., list(places.values())],
            dims=(*dims, "level"),
            coords={"level": ("level", np.array(levels, np.int64), {"units": "hPa"})},
            attrs=attributes,
        )
    leads = to_timedelta(np.array(scores.lead_hours)).astype("timedelta64[ns]")
    return xr.Dataset(
        fields,
        coords={
            "source": list(sources),
            "metric": list(metrics),
            "region": list(regions),
            "prediction_timedelta": leads,
            "pairs": ("prediction_timedelta", np.array(scores.pairs)),
        },
        attrs={
            "initial_times": [str(time) for time in verification.initial_times],
            "unscored_pairs": verification.num_unscored,
            "warnings": list(verification.warnings),
        },
    )

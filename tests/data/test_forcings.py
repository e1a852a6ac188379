"""Forcings against another algorithm for the sun, and against what clocks and calendars say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from oracles.sun import mean_flux
from support.waves import CHANNELS, write_waves
from weathermixer.config import FORCING_NAMES
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.feeding.read_ahead import StateReader, read_ahead
from weathermixer.data.forcings import Forcings, forcing_fields, mean_insolation
from weathermixer.data.store.store import Store

LATITUDE = np.array([90.0, 75.0, 66.0, 40.0, 0.0, -23.4, -60.0, -89.5, -90.0])
LONGITUDE = np.arange(0.0, 360.0, 45.0) + 3.0
FIELDS = forcing_fields(FORCING_NAMES)


def at(time: str, longitude: NDArray[np.float64] = LONGITUDE) -> dict[str, NDArray[np.float64]]:
    forcings = Forcings(FIELDS, LATITUDE, longitude, 6.0)
    fields = np.empty(forcings.shape)
    forcings.fill(fields, np.datetime64(time, "s"))
    return dict(zip(FIELDS, fields, strict=True))


@pytest.mark.parametrize("hours", [1.0, 6.0, 24.0])
@pytest.mark.parametrize(
    "time",
    ["1959-01-01T00", "1979-03-21T03", "2000-02-29T12", "2020-06-20T18", "2021-12-21T06"],
)
def test_radiation_is_that_of_another_algorithm_summed_over_minutes(
    time: str, hours: float
) -> None:
    begin = np.datetime64(time, "s")
    expected = mean_flux(begin, hours, LATITUDE, LONGITUDE)
    found = mean_insolation(begin, hours, LATITUDE, LONGITUDE)
    # W m-2, of at most 1,400. Over a day, the sun's declination changes by 0.4° about an equinox.
    assert np.abs(found - expected).max() < (1.2 if hours == 24.0 else 0.4)
    assert expected.max() > 300.0


def test_it_is_normalised_by_mean_and_spread_over_the_sphere_at_an_instant() -> None:
    """At a hundred thousand places, which the sine of latitude and the longitude space evenly."""
    sines = (np.arange(300) + 0.5) / 150.0 - 1.0
    latitude, longitude = np.rad2deg(np.arcsin(sines)), np.arange(0.0, 360.0)
    forcings = Forcings(("toa_solar_radiation",), latitude, longitude, 1.0 / 60.0)
    (field,) = fields = np.empty(forcings.shape)
    forcings.fill(fields, np.datetime64("2021-04-04T10", "s"))  # the sun at its mean distance
    assert field.mean() == pytest.approx(0.0, abs=1e-3)
    assert field.std() == pytest.approx(1.0, abs=1e-3)


def test_the_hour_is_that_of_the_sun_wherever_a_place_lies() -> None:
    longitude = np.array([0.0, 90.0, 180.0, 270.0])
    fields = at("2003-05-07T06:00:00", longitude)
    hours = np.array([6.0, 12.0, 18.0, 0.0])  # local mean solar time
    np.testing.assert_allclose(
        fields["hour_of_day_sine"],
        np.sin(2 * np.pi * hours / 24) + 0 * LATITUDE[:, None],
        atol=1e-9,
    )
    np.testing.assert_allclose(
        fields["hour_of_day_cosine"],
        np.cos(2 * np.pi * hours / 24) + 0 * LATITUDE[:, None],
        atol=1e-9,
    )


def test_the_year_goes_round_without_a_jump_in_a_leap_year() -> None:
    days = np.arange("1995-01-01", "2005-01-01", dtype="datetime64[D]")
    phases = [at(str(day), LONGITUDE[:1]) for day in days[:: 365 // 4]]
    sine, cosine = (
        np.array([each[f"day_of_year_{name}"][0, 0] for each in phases])
        for name in ("sine", "cosine")
    )
    np.testing.assert_allclose(sine**2 + cosine**2, 1.0)
    turned = np.diff(np.unwrap(np.arctan2(sine, cosine)))
    np.testing.assert_allclose(turned, 2 * np.pi * 91 / 365.2422)
    new_years = [at(f"{year}-01-01")["day_of_year_cosine"][0, 0] for year in range(1979, 2030)]
    assert min(new_years) > np.cos(2 * np.pi * 2.0 / 365.0)


def test_a_part_of_the_grid_has_its_part_of_the_fields() -> None:
    whole = at("2019-08-11T21")
    forcings = Forcings(FIELDS[1:4:2], LATITUDE, LONGITUDE[3:5], 6.0)
    fields = np.empty(forcings.shape)
    forcings.fill(fields, np.datetime64("2019-08-11T21", "s"))
    np.testing.assert_array_equal(fields[0], whole["hour_of_day_cosine"][:, 3:5])
    np.testing.assert_array_equal(fields[1], whole["day_of_year_cosine"][:, 3:5])


def test_a_batch_has_the_forcings_of_the_time_at_which_each_of_its_steps_begins(
    tmp_path: Path,
) -> None:
    store = Store.open(write_waves(tmp_path / "s.zarr", times=20))
    normalisation = Normalisation.from_store(store, CHANNELS, (), (store.times[0], store.times[-1]))
    forcings = Forcings(FIELDS, store.latitude, store.longitude, 6.0)
    reader = StateReader(
        store, normalisation, torch.float64, num_states=20, memory_bytes=0, forcings=forcings
    )
    (batch,) = read_ahead(reader, [np.array([[3, 4, 5], [11, 12, 13]])])
    assert batch.forcings.shape == (2, 2, 5, 8, 16)
    expected = np.empty(forcings.shape)
    for sample, first in enumerate((3, 11)):
        for step in range(2):
            forcings.fill(expected, store.times[first + step])
            np.testing.assert_array_equal(batch.forcings[sample, step], expected)
    reader = StateReader(
        store,
        normalisation,
        torch.float64,
        num_states=20,
        memory_bytes=0,
        forcings=forcings,
        input_times=2,
    )
    (later,) = read_ahead(reader, [np.array([[2, 3, 4, 5], [10, 11, 12, 13]])])
    assert torch.equal(later.forcings, batch.forcings)
    # Computed, not read.
    assert batch.bytes_read == 6 * 2 * 8 * 16 * 4

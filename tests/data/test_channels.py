"""Names, units and what is plausible."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weathermixer.data.channels import (
    GRAVITY,
    LEVELS_HPA,
    PRESSURE_VARIABLES,
    PROGNOSTIC_VARIABLES,
    Channel,
    channels_of,
    implausibility,
    names,
    parse_channel,
    standard_height_m,
)
from weathermixer.data.store.typical import typical
from weathermixer.errors import UserError

ALL = channels_of(list(PROGNOSTIC_VARIABLES), LEVELS_HPA)


def test_all_variables_on_the_usual_levels_are_69_channels() -> None:
    assert len(ALL) == 69
    assert ALL[0].name == "geopotential_50"
    assert ALL[-1].name == "2m_temperature"


@given(st.sampled_from(sorted(PRESSURE_VARIABLES)), st.integers(1, 1100))
def test_names_of_channels_are_read_back(variable: str, level: int) -> None:
    channel = Channel(variable, level)
    assert parse_channel(channel.name) == channel


@pytest.mark.parametrize("name", ["2m_temperature", "land_sea_mask"])
def test_names_of_surface_channels_are_read_back(name: str) -> None:
    assert parse_channel(name) == Channel(name)


@pytest.mark.parametrize("name", ["rain", "rain_500", "temperature_x", "2m_temperature_500", ""])
def test_unknown_channels_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="is not one that WeatherMixer knows"):
        parse_channel(name)


def test_unknown_variable_of_a_configuration_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.variables names 'rain'"):
        channels_of(["temperature", "rain"], [500])


def test_names_keep_the_order_given() -> None:
    chosen = channels_of(["2m_temperature", "temperature"], [850, 500])
    assert names(chosen) == ("2m_temperature", "temperature_850", "temperature_500")


@pytest.mark.parametrize(
    ("level_hpa", "height_m"), [(1013.25, 0.0), (850, 1457.0), (500, 5574.0), (100, 16180.0)]
)
def test_standard_heights_are_those_of_the_icao_table(level_hpa: float, height_m: float) -> None:
    assert standard_height_m(level_hpa) == pytest.approx(height_m, abs=6.0)


def field_of(channel: Channel) -> np.ndarray:
    """A field with the channel's typical mean, and half its spread."""
    mean, std = typical(channel)
    return mean + 0.5 * std * np.sin(np.linspace(0, 40, 128)).reshape(8, 16)


@pytest.mark.parametrize("channel", ALL, ids=lambda channel: channel.name)
def test_typical_fields_are_plausible(channel: Channel) -> None:
    assert implausibility(channel, field_of(channel)) is None


@pytest.mark.parametrize("level", LEVELS_HPA)
def test_geopotential_height_is_told_from_geopotential(level: int) -> None:
    channel = Channel("geopotential", level)
    wrong = implausibility(channel, field_of(channel) / GRAVITY)
    assert wrong is not None
    assert "Multiply it by 9.80665" in wrong


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("temperature_500", lambda kelvin: kelvin - 273.15),
        ("2m_temperature", lambda kelvin: kelvin - 273.15),
        ("mean_sea_level_pressure", lambda pascal: pascal / 100.0),
        ("specific_humidity_1000", lambda fraction: fraction * 1000.0),
    ],
)
def test_other_units_are_told_by_their_values(
    name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    channel = parse_channel(name)
    wrong = implausibility(channel, change(field_of(channel)))
    assert wrong is not None
    assert f"are they in {channel.units}?" in wrong


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_found(value: float) -> None:
    field = field_of(Channel("2m_temperature"))
    field[3, 5] = value
    wrong = implausibility(Channel("2m_temperature"), field)
    assert wrong == "1 of 128 values are NaN or infinite"

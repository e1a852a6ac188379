"""Units as files state them: converted where they are known, and otherwise no units at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weathermixer.data.archives.units import Conversion, conversion
from weathermixer.data.channels import VARIABLES

METRES_PER_SECOND = ("m s**-1", "m s-1", "m/s", "m s^-1")
GEOPOTENTIAL = ("m**2 s**-2", "m2 s-2", "m^2 s^-2", "m2/s2", "m^2/s^2", "m**2/s**2", "J/kg")
FRACTION = ("(0 - 1)", "1", "dimensionless", "0-1", "fraction", "Proportion")
KELVIN = ("K", "kelvin", "Kelvin")
SI_SPELLINGS = {
    "geopotential": GEOPOTENTIAL,
    "specific_humidity": ("kg kg**-1", "kg kg-1", "kg/kg", "1", "kg kg^-1"),
    "temperature": KELVIN,
    "u_component_of_wind": METRES_PER_SECOND,
    "v_component_of_wind": METRES_PER_SECOND,
    "mean_sea_level_pressure": ("Pa", "pascal", "Pascals", "kg m-1 s-2"),
    "10m_u_component_of_wind": METRES_PER_SECOND,
    "10m_v_component_of_wind": METRES_PER_SECOND,
    "2m_temperature": KELVIN,
    "land_sea_mask": FRACTION,
    "soil_type": FRACTION,
    "geopotential_at_surface": GEOPOTENTIAL,
    **{f"total_precipitation_{hours}hr": ("m", "metre", "meters") for hours in (6, 12, 24)},
}
# Text, SI unit, what 2.5 of it is.
CONVERTIBLE = [
    ("degC", "K", 275.65),
    ("°C", "K", 275.65),
    ("celsius", "K", 275.65),
    ("degF", "K", (2.5 - 32) * 5 / 9 + 273.15),
    ("hPa", "Pa", 250.0),
    ("HPA", "Pa", 250.0),
    ("mbar", "Pa", 250.0),
    ("millibars", "Pa", 250.0),
    ("kPa", "Pa", 2500.0),
    ("km h-1", "m s-1", 2.5 / 3.6),
    ("knots", "m s-1", 2.5 * 1852 / 3600),
    ("cm/s", "m s-1", 0.025),
    ("m s-1 ", "m s-1", 2.5),
    ("m.s-1", "m s-1", 2.5),
    ("m*s**-1", "m s-1", 2.5),
    ("m·s^-1", "m s-1", 2.5),
    ("g/kg", "kg kg-1", 0.0025),
    ("g kg**-1", "kg kg-1", 0.0025),
    ("mg kg-1", "kg kg-1", 2.5e-6),
    ("%", "1", 0.025),
    ("gpm", "m", 2.5),
    ("dam", "m", 25.0),
    ("km2 h-2", "m2 s-2", 2.5 / 3.6**2),
]
UNKNOWN = [
    ("furlong", "m"),
    ("m", "m2 s-2"),
    ("gpm", "m2 s-2"),
    ("K", "Pa"),
    ("m s-2", "m s-1"),
    ("degC m", "K m"),
    ("10 m s-1", "m s-1"),
    ("m s-1 (10 m)", "m s-1"),
    ("level", "hPa"),
    ("", "K"),
    ("**", "K"),
    ("m/", "K"),
]


@pytest.mark.parametrize(
    ("variable", "text"), [(name, text) for name, texts in SI_SPELLINGS.items() for text in texts]
)
def test_every_spelling_of_an_si_unit_leaves_values_as_they_are(variable: str, text: str) -> None:
    to_si = conversion(text, VARIABLES[variable].units)
    assert to_si == Conversion()
    values = np.random.default_rng(0).standard_normal(9).astype(np.float32)
    assert to_si(values).tobytes() == values.tobytes()


def test_every_variable_has_spellings_here() -> None:
    assert SI_SPELLINGS.keys() == VARIABLES.keys()


@pytest.mark.parametrize(("text", "si", "expected"), CONVERTIBLE)
def test_other_units_of_the_same_quantity_are_converted(
    text: str, si: str, expected: float
) -> None:
    convert = conversion(text, si)
    assert convert is not None
    assert convert(np.array([2.5], np.float32))[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("text", "si"), UNKNOWN)
def test_units_that_are_unknown_or_of_something_else_are_not_converted(text: str, si: str) -> None:
    assert conversion(text, si) is None


@given(
    units=st.sampled_from([("degF", "degC"), ("hPa", "kPa"), ("knots", "km h-1"), ("g", "kg")]),
    value=st.floats(-1e4, 1e4),
)
def test_a_conversion_there_and_back_changes_nothing(units: tuple[str, str], value: float) -> None:
    there, back = conversion(*units), conversion(*reversed(units))
    assert there is not None
    assert back is not None
    returned = back(there(np.array([value])).astype(np.float64))[0]
    assert returned == pytest.approx(value, rel=1e-5, abs=1e-3)


def test_conversion_is_in_double_precision() -> None:
    convert = conversion("degC", "K")
    assert convert is not None
    values = np.array([-39.95, 0.01, 31.37], np.float32)
    exact = (values.astype(np.float64) + 273.15).astype(np.float32)
    np.testing.assert_array_equal(convert(values), exact)

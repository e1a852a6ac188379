"""The names that settings may use, and the levels and fields that they use by default.

Names alone: units, bounds and aliases of variables are in ``data/channels.py``.
"""

from __future__ import annotations

PRESSURE_LEVEL_NAMES = (
    "geopotential",
    "specific_humidity",
    "temperature",
    "u_component_of_wind",
    "v_component_of_wind",
)
VARIABLE_NAMES = (
    *PRESSURE_LEVEL_NAMES,
    "mean_sea_level_pressure",
    "10m_u_component_of_wind",
    "10m_v_component_of_wind",
    "2m_temperature",
)
DIAGNOSTIC_NAMES = (
    "total_precipitation_6hr",
    "total_precipitation_12hr",
    "total_precipitation_24hr",
)
FORCING_NAMES = ("hour_of_day", "day_of_year", "toa_solar_radiation")
STATIC_NAMES = ("land_sea_mask", "soil_type", "geopotential_at_surface")
LEVELS_HPA = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)

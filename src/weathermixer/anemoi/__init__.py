"""Trained networks in ECMWF's anemoi-inference, for its commands, inputs and outputs.

A :class:`WeatherMixerRunner` is its runner named ``weathermixer``, in one process or, below its
runner ``parallel``, on ranks that hold a network together. The extra ``anemoi`` installs what it
needs.
"""

from __future__ import annotations

from weathermixer.tested_versions import require_tested_version

# What a runner asks of its checkpoint changes from one 0.x to the next.
require_tested_version(
    "anemoi-inference", shown_as="anemoi-inference", tested="0.13", extra="anemoi"
)

from weathermixer.anemoi.names import anemoi_name, ecmwf_units  # noqa: E402
from weathermixer.anemoi.runner import WeatherMixerRunner  # noqa: E402

__all__ = ["WeatherMixerRunner", "anemoi_name", "ecmwf_units"]

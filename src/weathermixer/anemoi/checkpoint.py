"""A run or an export in the place of a checkpoint of anemoi's, which is a pickle.

Forcings and static fields come with the network, so that none are asked of an input.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import Any

import numpy as np
from anemoi.inference.checkpoint import Checkpoint
from anemoi.inference.checkpoint import get_multi_dataset_metadata as metadata_by_dataset

from weathermixer.anemoi.names import anemoi_name, described
from weathermixer.config import Config
from weathermixer.data.channels import names, predicted_channels
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.time_steps import to_timedelta
from weathermixer.errors import UserError
from weathermixer.forecast.options import UNBOUND
from weathermixer.runs.exported_run import open_trained
from weathermixer.runs.run import Run

DATASET = "data"
"""What anemoi calls the only data set of a checkpoint."""


class TrainedCheckpoint(Checkpoint):
    """What a runner asks of a checkpoint, answered by a run or an export."""

    multi_dataset = True
    overrides: tuple[str, ...] = ()

    @classmethod
    def overridden(cls, overrides: tuple[str, ...]) -> type[TrainedCheckpoint]:
        """The class for such overrides: runners make a checkpoint themselves, of its path alone."""
        return type(cls.__name__, (cls,), {"overrides": overrides})

    @cached_property
    def run(self) -> Run:
        """The run or the export. Raises UserError for what is neither, or is damaged."""
        return open_trained(self.path).read()

    @cached_property
    def run_config(self) -> Config:
        """The configuration of a forecast by it."""
        return self.run.config_with(self.overrides, base_overrides=UNBOUND)

    @cached_property
    def multi_dataset_metadata(self) -> dict[str, Any]:
        """What is known of each data set; ``patch_metadata`` of a configuration changes it."""
        metadata = metadata_of(self.run_config, self.run.normalisation)
        arrays = {DATASET: _points(self.run.normalisation)}
        by_dataset: dict[str, Any] = metadata_by_dataset(metadata, arrays, self.metadata_base)
        if self.patch_metadata:
            by_dataset[DATASET].patch(self.patch_metadata)
        return by_dataset


def metadata_of(config: Config, normalisation: Normalisation) -> dict[str, Any]:
    """What a checkpoint of anemoi's would say of the network.

    Raises UserError for a network with channels that ECMWF tells apart by more than their names.
    """
    channels = names(predicted_channels(config.data))
    predicted = [anemoi_name(channel) for channel in channels]
    _require_distinct(channels, predicted)
    num_given = len(channels) - len(config.data.diagnostic)
    given, diagnostic = predicted[:num_given], predicted[num_given:]
    places = list(range(num_given))
    step = to_timedelta(config.data.step_hours) * config.training.shortest_advance
    times = config.data.input_times
    frequency = f"{step // np.timedelta64(1, 's')}s"
    latitudes, longitudes = normalisation.grid
    return {
        "metadata_inference": {
            "dataset_names": [DATASET],
            "task": "forecaster",
            DATASET: {
                "data_indices": {
                    "input": {name: place for place, name in enumerate(given)},
                    "output": {name: place for place, name in enumerate(predicted)},
                },
                "variable_types": {"forcing": [], "prognostic": given, "diagnostic": diagnostic},
                "timesteps": {
                    "timestep": frequency,
                    "input_relative_date_indices": list(range(times)),
                    "output_relative_date_indices": [times],
                },
            },
        },
        "config": {
            # The network computes in its own precision. In another than this PyTorch warns on
            # processors of the autocast that a runner begins, and that is ended within it.
            "training": {"precision": "bf16", "multistep_output": 1},
            "data": {"frequency": frequency, "datasets": {DATASET: {}}},
        },
        "data_indices": {
            DATASET: {
                "model": {
                    "input": {"full": places, "prognostic": places, "forcing": []},
                    "output": {"full": list(range(len(channels))), "prognostic": places},
                }
            }
        },
        "dataset": {
            DATASET: {
                "variables": predicted,
                "shape": [1, len(channels), 1, latitudes * longitudes],
                "variables_metadata": {
                    name: described(channel)
                    for name, channel in zip(predicted, channels, strict=True)
                },
                "data_request": {"grid": None, "area": None},
            }
        },
        "provenance_training": {},
    }


def _points(normalisation: Normalisation) -> dict[str, np.ndarray]:
    """The coordinates of the grid's points, row by row from the north."""
    latitude, longitude = normalisation.latitude, normalisation.longitude
    return {
        "latitudes": np.repeat(latitude, longitude.size),
        "longitudes": np.tile(longitude, latitude.size),
    }


def _require_distinct(channels: tuple[str, ...], names: list[str]) -> None:
    for name, number in Counter(names).items():
        if number > 1:
            equal = [each for each, other in zip(channels, names, strict=True) if other == name]
            raise UserError(
                f"{' and '.join(equal)} are both {name} for ECMWF, so that outputs could not tell "
                "them apart: forecast with 'weathermixer forecast'"
            )

"""How many values a rank holds of one sample, of which most of what it holds is a multiple."""

from __future__ import annotations

from dataclasses import dataclass

from weathermixer.model.mixer import WeatherMixer
from weathermixer.planning.block_tensors import linear


@dataclass(frozen=True)
class SampleSizes:
    """How many values the rank that a model was built for holds of one sample.

    ``state`` and ``forcings`` are those of one time, ``prognostic`` what the network is given of
    the state; ``static`` fields have no other.
    """

    state: int
    prognostic: int
    static: int
    forcings: int
    channels: int
    input_times: int

    @property
    def points(self) -> int:
        """Grid points of the rank's longitudes."""
        return self.state // self.channels

    @property
    def inputs(self) -> int:
        """Values of what the encoder maps."""
        return self.input_times * self.prognostic + self.static + self.forcings

    def batch(self, samples: int, rollout: int) -> int:
        """Values of a batch: its states, and the forcings of the steps between them."""
        return samples * ((self.input_times + rollout) * self.state + rollout * self.forcings)

    @classmethod
    def of(cls, model: WeatherMixer) -> SampleSizes:
        """The sizes of what belongs to a model's layers."""
        a, product = model.architecture, linear(model.encoder).product
        fields = a.fields_of(product.along.size, product.along.index)
        points = product.source.own_rows * a.points_per_patch
        channels = len(fields.prognostic) + len(fields.diagnostic)
        return cls(
            state=points * channels,
            prognostic=points * len(fields.prognostic),
            static=points * len(fields.static),
            forcings=points * len(fields.forcings),
            channels=channels,
            input_times=a.input_times,
        )

"""The runner ``weathermixer`` of anemoi-inference."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from anemoi.inference.config.run import RunConfiguration
from anemoi.inference.runner import Runner, RunnerClasses

from weathermixer.anemoi.checkpoint import TrainedCheckpoint
from weathermixer.anemoi.network import FlatNetwork
from weathermixer.errors import UserError
from weathermixer.forecast.members import remark_on_equal_members
from weathermixer.forecast.options import check_overrides
from weathermixer.jigsaw.weights import kept_weights

LOG = logging.getLogger(__name__)


class WeatherMixerRunner(Runner):
    """Runs what ``checkpoint`` of a configuration names: a run or an export.

    In a configuration it is ``runner: weathermixer`` or, with its options, ``runner: {weathermixer:
    {member: 3}}``; on several ranks ``runner: {parallel: {base_runner: weathermixer}}``, where
    options stand beside ``base_runner``.
    """

    def __init__(
        self,
        config: RunConfiguration,
        *,
        overrides: Sequence[str] = (),
        member: int | None = None,
    ) -> None:
        """Open the run or the export, whose weights are loaded with the first forecast.

        ``overrides`` are those of ``weathermixer forecast``, such as ``training.dtype=float32``.
        With a ``member`` a network with noise or dropout draws, as ``forecast --members`` draws for
        the member of this number; without one it draws nothing. Raises UserError for what cannot be
        had.
        """
        if config.precision is not None:
            raise UserError(
                f"precision: {config.precision} does not reach the network: leave it out, or give "
                "the runner overrides: [training.dtype=...]"
            )
        if member is not None and member < 0:
            raise UserError(f"member: {member} is none: members are counted from 0")
        check_overrides(overrides, members=member)
        self._member = member
        checkpoint = TrainedCheckpoint.overridden(tuple(overrides))
        super().__init__(config, classes=RunnerClasses(checkpoint=checkpoint))

    @cached_property
    def model(self) -> FlatNetwork:
        """The network, on the device of the runner."""
        run, config = self.checkpoint.run, self.checkpoint.run_config
        with torch.inference_mode(False):
            network = FlatNetwork(run, config, member=self._member, device=self.device)
        if self._member is not None:
            remark = remark_on_equal_members(network.stepper.network)
            if remark is not None:
                LOG.warning(remark)
        return network

    def run(self, **arguments: Any) -> Iterator[dict[str, Any]]:
        """States of a forecast, as every runner makes them."""
        with kept_weights(self.model.stepper.network):
            yield from super().run(**arguments)

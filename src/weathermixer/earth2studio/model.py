"""A trained network in the place of any other prognostic model of Earth2Studio."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from earth2studio.utils.checkpoint import bind_checkpoint_state
from numpy.typing import NDArray
from torch import Tensor, nn

from weathermixer.config import Config
from weathermixer.data.time_steps import to_timedelta
from weathermixer.earth2studio.names import earth2studio_name
from weathermixer.errors import UserError
from weathermixer.forecast.options import UNBOUND, check_overrides
from weathermixer.forecast.stepper import Start, Stepper, require_plausible
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.runs.exported_run import open_trained
from weathermixer.runs.run import Run, Weights

Coordinates = OrderedDict[str, NDArray[Any]]
"""The values of each dimension of a tensor, in their order: Earth2Studio's ``CoordSystem``."""

Hook = Callable[[Tensor, Coordinates], tuple[Tensor, Coordinates]]
"""Changes states and their coordinates between steps."""

_GRID_TOLERANCE_DEGREES = 1e-3
_STATE_DIMENSIONS = ("lead_time", "variable", "lat", "lon")


@dataclass
class _Resumed:
    """What a checkpoint of Earth2Studio keeps of an iteration: its newest states, in SI units."""

    x: Tensor | None = None
    coord_keys: tuple[str, ...] = ()
    coord_values: tuple[np.ndarray, ...] = ()


class Earth2Model(nn.Module):
    """A run or an export as a ``PrognosticModel``, to give to Earth2Studio's workflows.

    Tensors are ``([ensemble,] time, lead time, variable, latitude, longitude)`` in SI units, with
    any dimensions in the place of the first two among which is ``time``, initial times in UTC.
    Lead times of what it is given end with that from which it steps, and are as many, a step
    apart, as the network takes. Variables have Earth2Studio's names. With a dimension ``ensemble``
    a network with noise or dropout draws for each of these members, as ``forecast --members``
    draws for the members of the same numbers; without one it draws nothing.

    What it makes is what ``weathermixer forecast`` makes of the same states. Earth2Studio's
    checkpoints of the second level resume it within a forecast, to rounding. ``front_hook`` and
    ``rear_hook``, which may be set, change what a step is given and what it has made.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        checkpoint: str = "newest",
        weights: Weights | None = None,
        overrides: Sequence[str] = (),
    ) -> None:
        """Load a run, or an export of one, as :func:`weathermixer.open_model` opens it.

        ``overrides`` are those of ``weathermixer forecast``, such as ``--training.dtype=float32``.
        Raises UserError for what is none, is damaged, or lacks such a checkpoint.
        """
        super().__init__()
        # An ensemble is known by its coordinates, later.
        check_overrides(overrides, members=2)
        run = open_trained(path).read()
        config = run.config_with(overrides, base_overrides=UNBOUND)
        self._config, self._normalisation = config, run.normalisation
        mesh = self._connect(run, config)
        self.stepper = Stepper(run, config, mesh, checkpoint=checkpoint, weights=weights)
        self._step = to_timedelta(config.data.step_hours)
        names = [earth2studio_name(channel) for channel in run.normalisation.channels]
        self._outputs, self._inputs = np.array(names), np.array(names[: self._num_inputs])
        self.checkpoint = bind_checkpoint_state(_Resumed())
        # Not of Earth2Studio's mixin: to import its models takes half a minute.
        self.front_hook: Hook = _unchanged
        self.rear_hook: Hook = _unchanged

    def _connect(self, run: Run, config: Config) -> Mesh:
        """The mesh on which a network computes."""
        return Mesh.describe()

    def __str__(self) -> str:
        """The name under which Earth2Studio writes of it."""
        return "weathermixer"

    def input_coords(self) -> Coordinates:
        """The dimensions of what it takes; of any size are ``batch`` and ``time``."""
        back = np.arange(self._config.data.input_times)[::-1]
        return self._coords(-self._step * back, self._inputs)

    def output_coords(self, input_coords: Coordinates) -> Coordinates:
        """The dimensions of what follows from an input of such coordinates.

        Raises UserError where it does not take them.
        """
        self._require(input_coords)
        ahead = self._step * self._config.training.shortest_advance
        made = self._coords(input_coords["lead_time"][-1:] + ahead, self._outputs)
        return self._with_lead(input_coords, made)

    @torch.no_grad()
    def __call__(self, x: Tensor, coords: Coordinates) -> tuple[Tensor, Coordinates]:
        """The states one step on from ``x``, whose coordinates are ``coords``.

        Raises UserError for coordinates that it does not take, for states that are missing or
        cannot be SI units, and for one that becomes NaN or infinite.
        """
        made_coords = self.output_coords(coords)
        return self._whole(next(self._advance(x, coords)), made_coords), made_coords

    def create_iterator(
        self, x: Tensor, coords: Coordinates
    ) -> Iterator[tuple[Tensor, Coordinates]]:
        """States and their coordinates step by step, without an end: first those of ``x`` itself.

        Of a variable that is only predicted, these are NaN. Raises UserError as a call does.
        """
        self._require(coords)
        if self._resumes(coords):
            x, coords = self._resumed(x)
        else:
            self._keep(x, coords)
            newest = self._coords(coords["lead_time"][-1:], self._outputs)
            yield self._filled(x[..., -1:, :, :, :]), self._with_lead(coords, newest)
        states: Iterator[Tensor] | None = None
        while True:
            x, coords = self.front_hook(x, coords)
            if states is None or self._is_hooked:
                states = self._advance(x, coords)
            made_coords = self.output_coords(coords)
            with torch.no_grad():
                made = self._whole(next(states), made_coords)
            made, made_coords = self.rear_hook(made, made_coords)
            x = torch.cat([x, made[..., : len(self._inputs), :, :]], dim=-4)[..., 1:, :, :, :]
            coords = coords.copy()
            coords["lead_time"] = np.append(coords["lead_time"], made_coords["lead_time"])[1:]
            self._keep(x, coords)
            yield made, made_coords

    def _advance(self, x: Tensor, coords: Coordinates) -> Iterator[Tensor]:
        """States ``(batch, variable, latitude, longitude)`` that follow, one at a time."""
        states = x.flatten(0, x.ndim - 5)
        start = _start(coords)
        require_plausible(states, start, self._normalisation.channels, list(self._inputs))
        return self._states(states, start)

    def _states(self, states: Tensor, start: Start) -> Iterator[Tensor]:
        """What follows ``states (batch, input time, variable, latitude, longitude)``."""
        return self.stepper.advance(states.to(self.stepper.mean.device), start)

    @property
    def _num_inputs(self) -> int:
        return self.stepper.network.architecture.prognostic

    @property
    def _is_hooked(self) -> bool:
        return not self.front_hook is self.rear_hook is _unchanged

    def _coords(self, lead_time: NDArray[Any], variable: NDArray[Any]) -> Coordinates:
        free = np.empty(0)
        return OrderedDict(
            batch=free,
            time=free,
            lead_time=lead_time.astype("timedelta64[ns]"),
            variable=variable.copy(),
            lat=self._normalisation.latitude.copy(),
            lon=self._normalisation.longitude.copy(),
        )

    def _with_lead(self, coords: Coordinates, made: Coordinates) -> Coordinates:
        """The state's dimensions of ``made`` after the others, which are those of ``coords``."""
        names = [*list(coords)[:-4], *_STATE_DIMENSIONS]
        return OrderedDict(
            (name, made[name] if name in _STATE_DIMENSIONS else coords[name]) for name in names
        )

    def _require(self, coords: Coordinates) -> None:
        """Raise UserError where coordinates are not those of an input."""
        names = tuple(coords)
        if names[-4:] != _STATE_DIMENSIONS or "time" not in names[:-4]:
            raise UserError(
                f"the dimensions are {', '.join(names)}: the model takes time, then "
                f"{', '.join(_STATE_DIMENSIONS)}, with others before these four alone"
            )
        expected = self.input_coords()
        _require_equal("variable", coords, expected["variable"])
        back = coords["lead_time"] - coords["lead_time"][-1:]
        if not np.array_equal(back, expected["lead_time"]):
            raise UserError(
                f"lead_time is {_few(coords['lead_time'])}: the model takes "
                f"{len(expected['lead_time'])}, {self._config.data.step_hours:g} h apart"
            )
        for name in ("lat", "lon"):
            here, there = expected[name], np.asarray(coords[name], dtype=np.float64)
            if here.shape != there.shape or np.abs(here - there).max() > _GRID_TOLERANCE_DEGREES:
                raise UserError(
                    f"{name} is {_few(there)}, and the network was trained on {_few(here)}: map "
                    "the states to input_coords() first"
                )

    def _whole(self, made: Tensor, coords: Coordinates) -> Tensor:
        """States ``(batch, variable, ...)`` in the dimensions of ``coords``."""
        return made.view([len(values) for values in coords.values()])

    def _filled(self, x: Tensor) -> Tensor:
        """``x`` with NaN for what is only predicted, on the device that it steps on."""
        missing = len(self._outputs) - len(self._inputs)
        return nn.functional.pad(x, (0, 0, 0, 0, 0, missing), value=float("nan"))

    def _resumes(self, coords: Coordinates) -> bool:
        """Whether there is a state to resume, of these forecasts and not of others."""
        kept = self.checkpoint
        if kept.checkpoint_level < 2 or not kept.checkpoint_state_loaded or kept.x is None:
            return False
        names = list(coords)[:-4]
        at = dict(zip(kept.coord_keys, kept.coord_values, strict=True))
        return all(name in at and np.array_equal(at[name], coords[name]) for name in names)

    def _resumed(self, x: Tensor) -> tuple[Tensor, Coordinates]:
        kept = self.checkpoint
        values = map(np.copy, kept.coord_values)
        return kept.x.to(x.device), OrderedDict(zip(kept.coord_keys, values, strict=True))

    def _keep(self, x: Tensor, coords: Coordinates) -> None:
        kept = self.checkpoint
        if kept.checkpoint_enabled and kept.checkpoint_level == 2:
            kept.x = x.detach().clone().to(kept.device)
            kept.coord_keys = tuple(coords)
            kept.coord_values = tuple(np.copy(values) for values in coords.values())


def _unchanged(x: Tensor, coords: Coordinates) -> tuple[Tensor, Coordinates]:
    return x, coords


def _start(coords: Coordinates) -> Start:
    """Initial times and members of forecasts, in the order of a batch of all of them."""
    names = list(coords)[:-4]
    places = np.indices([len(coords[name]) for name in names]).reshape(len(names), -1)
    of = {name: coords[name][place] for name, place in zip(names, places, strict=True)}
    members = tuple(map(int, of["ensemble"])) if "ensemble" in of else None
    lead_time = coords["lead_time"][-1].astype("timedelta64[s]")
    return Start(of["time"].astype("datetime64[s]"), lead_time, members)


def _require_equal(name: str, coords: Coordinates, expected: NDArray[Any]) -> None:
    found = list(coords[name])
    if found != list(expected):
        absent = [each for each in expected if each not in found]
        raise UserError(
            f"{name} is {_few(coords[name])}, and the model takes {_few(expected)}"
            + (f"; missing are {_few(absent)}" if absent else ", in this order")
            + ": map the states to input_coords() first"
        )


def _few(values: Sequence[object] | NDArray[Any]) -> str:
    """Some values in words, such as ``z500, z850, … (69)``."""
    shown = ", ".join(map(str, values[:3]))
    return shown if len(values) <= 3 else f"{shown}, … {values[-1]} ({len(values)})"

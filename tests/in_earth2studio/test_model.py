"""A model of Earth2Studio steps as our forecasts do, and refuses what it does not take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.earth2 import (
    STEPS,
    VARIABLES,
    field,
    given,
    our_forecast,
    run_of,
    take,
)
from support.waves import write_waves
from weathermixer.earth2studio import Earth2Model
from weathermixer.earth2studio.model import Coordinates
from weathermixer.errors import UserError


@pytest.mark.parametrize(
    ("training", "data"),
    [
        ({"dtype": "float64"}, {}),
        ({"dtype": "bfloat16"}, {"forcings": ["toa_solar_radiation", "hour_of_day"]}),
        ({"latent_rollout": 2}, {"input_times": 1, "forcings": ["day_of_year"]}),
    ],
    ids=["float64", "forcings", "latent rollout"],
)
def test_steps_are_those_of_our_forecast(
    waves: Path, source: Path, tmp_path: Path, training: dict[str, Any], data: dict[str, Any]
) -> None:
    run = run_of(waves, tmp_path, training=training, data=data)
    advance = training.get("latent_rollout", 1)
    model = Earth2Model(run)
    x, coords = given(model, source)
    made = [state.numpy() for state, _ in take(model, x, coords, STEPS + 1)][1:]
    ours = our_forecast(run, waves, tmp_path, steps=STEPS * advance)
    for place, name in enumerate(VARIABLES):
        expected = np.moveaxis(field(ours, name), 1, 0)
        np.testing.assert_array_equal([state[:, 0, place] for state in made], expected)


def test_a_call_makes_what_the_iterator_makes(run: Path, source: Path) -> None:
    model = Earth2Model(run)
    x, coords = given(model, source)
    (newest, at), *steps = take(model, x, coords, STEPS + 1)
    torch.testing.assert_close(newest, x[:, -1:], rtol=0, atol=0)
    assert at["lead_time"] == [np.timedelta64(0)]
    for step, (expected, there) in enumerate(steps, start=1):
        made, coords_made = model(x, coords)
        assert list(coords_made) == ["time", "lead_time", "variable", "lat", "lon"]
        assert coords_made["lead_time"] == there["lead_time"] == [np.timedelta64(6 * step, "h")]
        assert made.shape == tuple(len(values) for values in coords_made.values())
        # Between calls states are rounded to float32 in SI units.
        torch.testing.assert_close(made, expected, rtol=0, atol=2e-4)
        assert (step == 1) == torch.equal(made, expected)
        x = torch.cat([x[:, 1:], made], dim=1)
        leads = np.concatenate([coords["lead_time"][1:], coords_made["lead_time"]])
        coords = coords_made.copy()
        coords["lead_time"] = leads


def test_hooks_change_what_a_step_is_given_and_what_it_made(run: Path, source: Path) -> None:
    model = Earth2Model(run)
    x, coords = given(model, source)
    expected, window = [], x
    at = coords
    for _ in range(STEPS):
        made, made_at = model(window + 0.5, at)
        expected.append(made * 1.01)
        window = torch.cat([window[:, 1:] + 0.5, expected[-1]], dim=1)
        at = made_at | {"lead_time": np.append(at["lead_time"][1:], made_at["lead_time"])}
    model.front_hook = lambda x, coords: (x + 0.5, coords)
    model.rear_hook = lambda x, coords: (x * 1.01, coords)
    hooked = [state for state, _ in take(model, x, coords, STEPS + 1)][1:]
    for one, other in zip(hooked, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_other_dimensions_may_stand_in_any_order_before_the_state(
    noisy_run: Path, source: Path
) -> None:
    model = Earth2Model(noisy_run)
    x, coords = given(model, source)
    many = x.expand(2, *x.shape).contiguous()
    ensemble_first = type(coords)(ensemble=np.array([4, 1])) | coords
    made, _ = model(many, ensemble_first)
    time_first = type(coords)(time=coords["time"], ensemble=np.array([4, 1])) | coords
    other, other_coords = model(many.transpose(0, 1).contiguous(), time_first)
    assert list(other_coords)[:2] == ["time", "ensemble"]
    torch.testing.assert_close(other.transpose(0, 1), made, rtol=0, atol=1e-3)
    alone, _ = model(many[:1], ensemble_first | {"ensemble": np.array([1])})
    torch.testing.assert_close(alone[0], made[1], rtol=0, atol=1e-3)
    assert (made[0] - made[1]).abs().max() > 0.01


def test_what_is_only_predicted_is_missing_at_first(tmp_path: Path, source: Path) -> None:
    name = "total_precipitation_6hr"
    wet = write_waves(tmp_path / "wet.zarr", levels=(500, 850), diagnostic=(name,))
    run = run_of(wet, tmp_path, data={"diagnostic": [name]})
    model = Earth2Model(run)
    assert list(model.input_coords()["variable"]) == VARIABLES
    x, coords = given(model, source)
    (first, at), (made, at_made) = take(model, x, coords, 2)
    assert list(at["variable"]) == list(at_made["variable"]) == [*VARIABLES, "tp06"]
    assert first[:, :, -1].isnan().all() and not first[:, :, :-1].isnan().any()
    ours = our_forecast(run, wet, tmp_path, steps=1)
    np.testing.assert_array_equal(made[:, :, -1], field(ours, "tp06"))


def test_what_was_forecast_may_lie_beyond_what_was_observed(run: Path, source: Path) -> None:
    model = Earth2Model(run)
    x, coords = given(model, source)
    coords["lead_time"] = coords["lead_time"] + np.timedelta64(240, "h")
    made, _ = model(x + 200.0, coords)
    assert made.isfinite().all()
    x[0, 1, 2, 3, 4] = float("nan")
    with pytest.raises(UserError, match=r"^t2m of .* NaN or infinite"):
        model(x, coords)


def other_grid(x: torch.Tensor, coords: Coordinates) -> None:
    coords["lat"] = coords["lat"] + 1.0


def other_variable(x: torch.Tensor, coords: Coordinates) -> None:
    coords["variable"] = np.array(["t500", "t700", "t2m"])


def other_order(x: torch.Tensor, coords: Coordinates) -> None:
    coords["variable"] = coords["variable"][::-1]


def other_leads(x: torch.Tensor, coords: Coordinates) -> None:
    coords["lead_time"] = coords["lead_time"] * 2


def no_time(x: torch.Tensor, coords: Coordinates) -> None:
    coords["batch"] = coords.pop("time")
    coords.move_to_end("batch", last=False)


def gap(x: torch.Tensor, coords: Coordinates) -> None:
    x[0, 1, 2, 3, 4] = float("nan")


def celsius(x: torch.Tensor, coords: Coordinates) -> None:
    x -= 273.15


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (other_grid, r"^lat is 79\.75, .* \(8\), and the network was trained on 78\.75, "),
        (other_variable, "^variable is t500, t700, t2m, .* missing are t850: map"),
        (other_order, "^variable is t2m, t850, t500, and .* t500, t850, t2m, in this order: map"),
        (other_leads, "^lead_time is .*: the model takes 2, 6 h apart$"),
        (no_time, "^the dimensions are batch, lead_time, .*: the model takes time, then lead_time"),
        (gap, r"^t2m of the forecasts from 2001-01-05T06:00:00 on .*1 of 128 values are NaN"),
        (celsius, r"^t500 of .* are they in K\?\): give states in SI units without gaps$"),
    ],
)
def test_what_the_network_does_not_take_is_refused(
    run: Path,
    source: Path,
    spoil: Callable[[torch.Tensor, Coordinates], None],
    sentence: str,
) -> None:
    model = Earth2Model(run)
    x, coords = given(model, source)
    spoil(x, coords)
    with pytest.raises(UserError, match=sentence):
        model(x, coords)
    with pytest.raises(UserError, match=sentence):
        take(model, x, coords, 2)


def test_a_gap_in_a_member_and_an_unstable_forecast_are_refused(
    noisy_run: Path, run: Path, source: Path
) -> None:
    model = Earth2Model(noisy_run)
    x, coords = given(model, source)
    x[0, 1, 2, 3, 4] = float("inf")
    members = type(coords)(ensemble=np.array([0])) | coords
    with pytest.raises(UserError, match=r"^t2m of .* \(1 values are NaN or infinite\)"):
        model(x[None], members)
    unstable = Earth2Model(run)
    with torch.no_grad():
        unstable.get_parameter("stepper.network.encoder.bias").fill_(float("inf"))
    with pytest.raises(UserError, match=r"^the forecast from 2001-01-05T06:00:00 is NaN or .* 6 h"):
        unstable(*given(unstable, source))

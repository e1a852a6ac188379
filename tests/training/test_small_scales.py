"""The loss of small scales is what a Fourier transform of each circle of latitude says it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from oracles.loss import cost
from support.networks import mesh_name
from support.ranks import Pool
from support.selection import exhaustive
from weathermixer.config import Training
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture
from weathermixer.model.cuts import Part
from weathermixer.training.ensemble import Ensemble
from weathermixer.training.passes import Objective

Array = NDArray[np.float64]

CHANNELS = ("geopotential_500", "temperature_850", "2m_temperature")
LATITUDE = np.array([75.0, 45.0, 15.0, -15.0, -45.0, -75.0])
LONGITUDES = 24
NORMALISATION = Normalisation(
    channels=CHANNELS,
    mean=np.zeros(3),
    std=np.ones(3),
    step_std=np.full(3, 0.3),
    static_channels=(),
    static=np.empty((0, 6, LONGITUDES), np.float32),
    latitude=LATITUDE,
    longitude=np.linspace(0.0, 360.0, LONGITUDES, endpoint=False),
)
ARCHITECTURE = Architecture(
    prognostic=3,
    static=0,
    grid=(6, LONGITUDES),
    patch=(3, 2),
    channels=8,
    blocks=1,
    token_hidden=4,
    channel_hidden=4,
    dropout=0.0,
    prediction="increment",
)
RNG = np.random.default_rng(2)
# Largest scales first, as in the atmosphere.
TARGET = RNG.normal(size=(2, 3, 6, LONGITUDES)).cumsum(-1).cumsum(-1) * 0.1
TARGET -= TARGET.mean(-1, keepdims=True)
PREDICTION = TARGET + 0.8 * RNG.normal(size=TARGET.shape)


def objective(training: Training, members: int = 1) -> Objective:
    return Objective.of(
        training,
        NORMALISATION,
        ARCHITECTURE,
        Mesh.describe(),
        share=1.0,
        ensemble=Ensemble(members, members),
    )


def added(training: Training, prediction: Array, target: Array, *, members: int = 1) -> Tensor:
    """What small scales add to the loss."""
    given, truth = torch.from_numpy(prediction), torch.from_numpy(target)
    with_them = objective(training.model_copy(update={"dtype": "float64"}), members)
    without = replace(with_them, small_scales=None)
    whole, rest = (each.compare(given, truth, each.weights) for each in (with_them, without))
    return whole - rest


def filtered(fields: Array) -> Array:
    """Fields, each wavenumber times (2 sin(π k / N))⁴."""
    numbers = np.arange(LONGITUDES // 2 + 1)
    response = (2.0 * np.sin(np.pi * numbers / LONGITUDES)) ** 4
    spectrum = np.fft.rfft(fields, axis=-1) * response
    result: Array = np.fft.irfft(spectrum, n=LONGITUDES, axis=-1)
    return result


def rows() -> Array:
    """Areas of rows of points, by the poles' caps and the midpoints between, in the mean 1."""
    edges = np.concatenate([[90.0], (LATITUDE[1:] + LATITUDE[:-1]) / 2, [-90.0]])
    areas = -np.diff(np.sin(np.deg2rad(edges)))
    result: Array = (areas / areas.mean())[:, None]
    return result


def units(target: Array) -> Array:
    mean: Array = (rows() * filtered(target) ** 2).mean((2, 3), keepdims=True)
    return np.sqrt(mean)


@pytest.mark.parametrize("error", ["squared", "absolute", "huber"])
def test_it_is_the_mean_cost_of_errors_whose_wavenumbers_are_weighted(error: str) -> None:
    training = Training.model_validate(
        {
            "small_scales": 0.3,
            "error": error,
            "huber_threshold": 1.5,
            "channel_weights": {"2m_temperature": 0.5},
        }
    )
    scaled = filtered(PREDICTION - TARGET) / units(TARGET)
    assert 0.1 < np.mean(np.abs(scaled) > 1.5) < 0.9, "both sides of the threshold count"
    weights = rows() * np.array([1.0, 1.0, 0.5])[:, None, None]
    expected = 0.3 * (weights * cost(scaled, error, 1.5)).mean()
    assert added(training, PREDICTION, TARGET).item() == pytest.approx(expected, rel=1e-9)


def test_of_an_ensemble_it_is_the_crps_of_filtered_members() -> None:
    training = Training(small_scales=0.2, error="crps", members=3)
    members = TARGET[:, None] + RNG.normal(size=(2, 3, *TARGET.shape[1:]))
    ours = added(training, members.reshape(6, *TARGET.shape[1:]), TARGET, members=3)
    scale = units(TARGET)
    truth, drawn = filtered(TARGET) / scale, filtered(members) / scale[:, None]
    error = np.abs(drawn - truth[:, None]).mean(1)
    between = np.abs(drawn[:, :, None] - drawn[:, None]).sum((1, 2))
    # Almost fair, with α = 0.95, of three members.
    crps = error - (1.0 - 0.05 / 3.0) * between / (2.0 * 3.0 * 2.0)
    assert ours.item() == pytest.approx(0.2 * (rows() * crps).mean(), rel=1e-9)


@pytest.mark.parametrize("error", ["squared", "absolute", "huber"])
def test_its_gradient_is_its_slope(error: str) -> None:
    options = {"small_scales": 0.3, "error": error, "dtype": "float64"}
    loss = objective(Training.model_validate(options))
    prediction = torch.from_numpy(PREDICTION[:1]).requires_grad_()
    target = torch.from_numpy(TARGET[:1])
    assert torch.autograd.gradcheck(
        lambda given: loss.compare(given, target, loss.weights), (prediction,)
    )


@settings(max_examples=30, deadline=None)
@given(
    number=st.integers(1, LONGITUDES // 2),
    size=st.floats(0.01, 10.0),
    phase=st.floats(0.0, 6.0),
    level=st.floats(-5.0, 5.0),
)
def test_an_error_of_one_wavenumber_costs_by_its_response(
    number: int, size: float, phase: float, level: float
) -> None:
    angles = 2.0 * np.pi * np.arange(LONGITUDES) / LONGITUDES
    wave = size * np.cos(number * angles + phase)
    errors = np.broadcast_to(wave + level, TARGET.shape)  # a constant costs nothing here
    response = (2.0 * np.sin(np.pi * number / LONGITUDES)) ** 8
    expected = (response * (wave**2).mean() / units(TARGET) ** 2).mean()
    ours = added(Training(small_scales=1.0), TARGET + errors, TARGET)
    assert ours.item() == pytest.approx(expected, rel=1e-6, abs=1e-7 * (1 + level**2))


def test_a_channel_without_small_scales_in_a_sample_counts_nothing_in_it() -> None:
    target = TARGET.copy()
    target[0, 1] = 0.7
    target[1, 2] = np.arange(6.0)[:, None]
    both = PREDICTION - TARGET + target
    scale = units(target)
    scale[0, 1] = scale[1, 2] = np.inf
    expected = (rows() * (filtered(both - target) / scale) ** 2).mean()
    ours = added(Training(small_scales=1.0), both, target)
    assert ours.item() == pytest.approx(expected, rel=1e-9)


def on_a_rank(mesh: Mesh, exchange_dtype: torch.dtype | None) -> tuple[float, Tensor]:
    """A rank's part of the loss of small scales, and of its gradient."""
    part = Part.on(mesh, ARCHITECTURE)
    training = Training(small_scales=0.3, dtype="float64", channel_weights={"temperature": 2.0})
    loss = Objective.of(
        training,
        part.of(NORMALISATION),
        ARCHITECTURE,
        mesh.exchanging(exchange_dtype),
        share=part.share(NORMALISATION),
    )
    own = np.ix_(range(len(TARGET)), part.channels, range(6))
    given, target = (
        torch.from_numpy(whole[own][..., part.longitudes]) for whole in (PREDICTION, TARGET)
    )
    given.requires_grad_()
    assert loss.small_scales is not None
    value = loss.small_scales.begin(given, target)() * loss.share
    value.backward()
    assert given.grad is not None
    return value.item(), given.grad


# Two of the meshes leave the longitudes, and the channels, in unequal parts.
@pytest.mark.parametrize(
    "layout",
    [Layout(domain=2, tensor=2), *exhaustive(Layout(domain=4), Layout(domain=3), Layout(tensor=3))],
    ids=mesh_name,
)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["", "exchanged in bfloat16"])
def test_on_any_mesh_it_is_that_of_one_rank(
    pool: Pool, layout: Layout, dtype: torch.dtype | None
) -> None:
    whole, gradient = on_a_rank(Mesh.describe(), None)
    parts = pool.run(on_a_rank, layout, dtype)
    assert sum(value for value, _ in parts) == pytest.approx(whole, rel=1e-12)
    for rank, (_, own) in enumerate(parts):
        part = Part.on(Mesh.describe(layout.at(rank)), ARCHITECTURE)
        expected = gradient[:, part.channels][..., part.longitudes]
        torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("layout", [Layout(domain=3), Layout(data=2, domain=2)])
def test_ranks_with_a_longitude_each_are_too_many(layout: Layout) -> None:
    network = replace(ARCHITECTURE, grid=(6, 2 * layout.domain - 1), patch=(3, 1))
    arguments: Sequence[object] = (NORMALISATION, network, Mesh.describe(layout))
    with pytest.raises(LayoutError, match=r"training\.small_scales .* domain \([23]\) .* rank 1:"):
        Objective.of(Training(small_scales=0.1), *arguments, share=1.0)  # type: ignore[arg-type]
    Objective.of(Training(), *arguments, share=1.0)  # type: ignore[arg-type]

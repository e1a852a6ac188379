from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from oracles.layers import Held, cut, join, part
from oracles.mixer import next_state
from support.architectures import SMALL
from support.networks import gradient_of, held_gradients, held_parameters
from support.ranks import Pool
from support.selection import exhaustive
from weathermixer.config import Config
from weathermixer.errors import UserError
from weathermixer.jigsaw.dropout import set_dropout_key
from weathermixer.jigsaw.layout import Dimension, Layout, LayoutError
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.tensors import load_whole
from weathermixer.model.architecture import Architecture, architecture_of
from weathermixer.model.cuts import build
from weathermixer.model.mixer import Increment, WeatherMixer, count_parameters
from weathermixer.planning.step_cost import step_cost
from weathermixer.planning.step_kind import StepKind

Prediction = Literal["increment", "state"]
SCALE = torch.linspace(0.1, 0.5, SMALL.prognostic, dtype=torch.float64)


def randomised(architecture: Architecture, seed: int = 0) -> WeatherMixer:
    """A float64 network in which every parameter matters, biases and gains too."""
    model = build(
        architecture, Mesh.describe(), seed=seed, increment_scale=SCALE, dtype=torch.float64
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.3 * noise)
    return model


def plain(architecture: Architecture) -> WeatherMixer:
    """The same network as the user of plain PyTorch has it."""
    model = WeatherMixer(architecture).double()
    model.load_state_dict(randomised(architecture).state_dict())
    if isinstance(model.head, Increment):
        model.head.scale.copy_(SCALE[:, None, None])
    return model


def sample(architecture: Architecture, batch: int = 2) -> tuple[Tensor, Tensor]:
    """A state, and what is given beside it, alike for all samples."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    state = draw(batch, architecture.prognostic, *architecture.grid)
    return state, draw(architecture.static + architecture.forcings, *architecture.grid)


def earlier_than(state: Tensor, architecture: Architecture) -> list[Tensor]:
    """The states before, the newest first, that the network is given too."""
    return [(number * state).sin() for number in range(2, 1 + architecture.input_times)]


@pytest.mark.parametrize("prediction", ["increment", "state"])
@pytest.mark.parametrize("applications", [1, 3])
@pytest.mark.parametrize("patch", [(3, 2), (1, 8), (6, 1)])
@pytest.mark.parametrize("is_cut", [True, False], ids=["cut", "plain"])
def test_the_network_equals_its_description(
    prediction: Prediction, applications: int, patch: tuple[int, int], is_cut: bool
) -> None:
    further = 2 if applications == 1 else 0
    architecture = replace(
        SMALL,
        prediction=prediction,
        patch=patch,
        forcings=further,
        diagnostic=further,
        input_times=1 + further,
        noise=further,
        local_noise=3 if further else 0,
        overlap=min(patch) if further else 0,
        smoothing=min(patch) if further else 0,
    )
    model = randomised(architecture) if is_cut else plain(architecture)
    state, static = sample(replace(architecture, forcings=0))
    forcings = torch.linspace(-1.0, 1.0, 2 * further * 48, dtype=torch.float64)
    forcings = forcings.view(2, further, *architecture.grid).sin()
    # What an earlier result has beside the state is left alone.
    fed_back = torch.cat([state, torch.full_like(state[:, :further], torch.nan)], dim=1)
    earlier = earlier_than(fed_back, architecture)
    noise, of_tokens, of_points, drawn = None, None, None, None
    if further:
        noise = torch.tensor([[0.4, -1.3], [2.1, 0.6]], dtype=torch.float64)
        columns, rows = architecture.grid[1] // patch[1], architecture.grid[0] // patch[0]
        of_tokens = torch.linspace(-9.0, 9.0, 6 * columns * rows, dtype=torch.float64).sin()
        of_tokens = of_tokens.view(2, columns, rows, 3)
        of_points = torch.linspace(3.0, 8.0, 2 * 48, dtype=torch.float64).sin().view(2, 6, 8)
        drawn = torch.cat([noise, of_tokens.flatten(1), of_points.flatten(1)], dim=1)
        assert drawn.shape[1] == architecture.drawn
    result = model(fed_back, *earlier, static, forcings, applications=applications, noise=drawn)
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    for number, (one, of_sample, expected) in enumerate(zip(state, forcings, result, strict=True)):
        before = [each[number, : SMALL.prognostic].numpy() for each in earlier]
        oracle = next_state(
            one.numpy(),
            np.concatenate([*before, static.numpy(), of_sample.numpy()]),
            weights,
            patch=patch,
            blocks=architecture.blocks,
            increment_scale=SCALE.numpy() if prediction == "increment" else None,
            applications=applications,
            diagnostic=further,
            noise=None if noise is None else noise[number].numpy(),
            local_noise=None if of_tokens is None else of_tokens[number].numpy(),
            point_noise=None if of_points is None else of_points[number].numpy(),
            overlap=architecture.overlap,
            smoothing=architecture.smoothing,
        )
        error = np.abs(expected.detach().numpy() - oracle).max()
        assert error <= 1e-12 * np.abs(oracle).max()


@pytest.mark.parametrize("prediction", ["increment", "state"])
def test_gradients_equal_finite_differences(prediction: Prediction) -> None:
    model = randomised(replace(SMALL, prediction=prediction, smoothing=2))
    state, static = sample(SMALL, batch=1)
    target = torch.zeros_like(state)

    def loss() -> Tensor:
        return (model(state, static) - target).square().mean()

    loss().backward()
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        assert parameter.grad is not None, name
        slope = (parameter.grad * direction).sum()
        step = 1e-5
        with torch.no_grad():
            parameter.add_(step * direction)
            above = loss()
            parameter.sub_(2 * step * direction)
            below = loss()
            parameter.add_(step * direction)
        torch.testing.assert_close((above - below) / (2 * step), slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("channels", "token_hidden", "millions"), [(4320, 0.5, 1062.4), (10352, 1.0, 2565)]
)
def test_published_sizes_have_the_published_numbers_of_parameters(
    channels: int, token_hidden: float, millions: float
) -> None:
    config = Config.model_validate(
        {
            "preset": "published",
            "data": {"store": "none"},
            "model": {"channels": channels, "token_hidden": token_hidden},
        }
    )
    count = count_parameters(architecture_of(config.data, config.model, (720, 1440)))
    assert count / 1e6 == pytest.approx(millions, rel=2e-4)


def test_initial_weights_depend_on_seed_and_name_alone() -> None:
    one, same, other = (
        build(SMALL, Mesh.describe(), seed=seed, increment_scale=SCALE) for seed in (3, 3, 4)
    )
    wider = build(replace(SMALL, blocks=3), Mesh.describe(), seed=3, increment_scale=SCALE)
    theirs = dict(same.named_parameters())
    wider_parameters = dict(wider.named_parameters())
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, theirs[name])
        assert torch.equal(parameter, wider_parameters[name])
    assert not torch.equal(one.encoder.weight, other.encoder.weight)


def test_patches_and_what_is_around_them_begin_as_one_map_of_both_would() -> None:
    architecture = replace(SMALL, channels=4000, overlap=2)
    model = build(architecture, Mesh.describe(), seed=3, increment_scale=SCALE)
    assert model.ring is not None
    # 7 fields of 6 points; 5 fields of 7 × 6 − 6 points around these.
    bound = 1.0 / math.sqrt(7 * 6 + 5 * 36)
    for layer in (model.encoder, model.ring):
        weight = layer.weight.detach()
        assert float(weight.abs().max()) == pytest.approx(bound, rel=1e-3)
        assert float(weight.square().mean()) == pytest.approx(bound**2 / 3.0, rel=0.02)


def test_an_untrained_increment_network_is_persistence() -> None:
    architecture = replace(SMALL, smoothing=2)
    model = build(architecture, Mesh.describe(), seed=0, increment_scale=SCALE)
    state, static = sample(SMALL)
    assert torch.equal(model(state.float(), static.float()), state.float())


@pytest.mark.parametrize("width", [1, 2])
def test_diffusion_adds_energy_at_no_wavenumber(width: int) -> None:
    architecture = replace(SMALL, smoothing=width)
    model = build(architecture, Mesh.describe(), seed=0, increment_scale=SCALE, dtype=torch.float64)
    assert model.smoothing is not None
    with torch.no_grad():
        model.smoothing.diffusion.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(1))
    state, static = sample(SMALL)
    before, after = (np.abs(np.fft.rfft(x.detach())) for x in (state, model(state, static)))
    assert (after <= before + 1e-12).all()
    assert (after < 0.99 * before).any()
    np.testing.assert_allclose(after[..., 0], before[..., 0])  # the mean along longitude stays


def test_bfloat16_changes_a_step_by_no_more_than_its_rounding() -> None:
    exact = build(SMALL, Mesh.describe(), seed=0, increment_scale=SCALE)
    rounded = build(
        SMALL, Mesh.describe(), seed=0, increment_scale=SCALE, arithmetic=torch.bfloat16
    )
    for model in (exact, rounded):
        with torch.no_grad():
            model.decoder.linear.weight.copy_(
                torch.linspace(-0.3, 0.3, model.decoder.linear.weight.numel()).view_as(
                    model.decoder.linear.weight
                )
            )
    state, static = (field.float() for field in sample(SMALL))
    increment = exact(state, static) - state
    types = []
    for layer in (rounded.encoder, rounded.decoder.linear):
        layer.register_forward_hook(lambda _, __, made: types.append(made.dtype))
    error = rounded(state, static) - state - increment
    assert types == [torch.bfloat16] * 2
    assert rounded(state, static).dtype is torch.float32
    assert error.norm() <= 8 * 2.0**-8 * increment.norm()
    assert error.norm() > 0


def test_dropout_repeats_for_the_same_step_and_rests_in_evaluation() -> None:
    model = randomised(replace(SMALL, dropout=0.3))
    state, static = sample(SMALL)

    def at(step: int) -> Tensor:
        set_dropout_key(model, 0, step)
        return model(state, static)

    assert torch.equal(at(5), at(5))
    assert not torch.equal(at(5), at(6))
    model.eval()
    assert torch.equal(at(5), at(6))


@pytest.mark.parametrize("prediction", ["increment", "state"])
def test_multiply_adds_of_a_step_are_those_that_torch_counts(prediction: Prediction) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    architecture = replace(SMALL, prediction=prediction, overlap=1, smoothing=1)
    model = randomised(architecture)
    state, static = sample(architecture, batch=3)
    with FlopCounterMode(display=False) as counter:
        model(state, static).sum().backward()
    assert counter.get_total_flops() == 2 * step_cost(model, StepKind(samples=3)).multiply_adds


def test_a_patch_that_does_not_divide_the_grid_is_refused_with_the_arithmetic() -> None:
    config = Config.model_validate({"data": {"store": "none"}, "model": {"patch": [5, 4]}})
    with pytest.raises(UserError, match=r"5×4 does not divide .* 32×64 .* 32 points of latitude"):
        architecture_of(config.data, config.model, (32, 64))


# On many ranks. Columns of patches, variables and channels are uneven on each of these meshes.

MESHES = [
    Layout(domain=domain, tensor=tensor) for domain, tensor in ((2, 1), (1, 2), (3, 2), (2, 4))
]


class Passed(NamedTuple):
    output: Held
    gradients: dict[str, Held]


def pass_through(
    mesh: Mesh, architecture: Architecture, parameters: dict[str, Tensor], applications: int
) -> Passed:
    """The output of the mean square of the next state, and the gradients of it."""
    own, _ = Dimension((architecture.prognostic, 0)).ranges(mesh.tensor.size, mesh.tensor.index)
    model = build(
        architecture, mesh, seed=0, increment_scale=SCALE[own.start : own.stop], dtype=torch.float64
    )
    load_whole(model, parameters)
    state, static = sample(architecture)
    layout, batch, a = mesh.layout, len(state), architecture
    _, domain, tensor = layout.coordinates
    longitudes = part([a.grid[1] // a.patch[1]], a.patch[1], layout.domain, domain)
    grid = ((range(a.grid[0]),), longitudes)
    ranges = ((range(batch),), part([a.prognostic], 1, layout.tensor, tensor), *grid)
    own_given = cut(static, (part([len(static)], 1, layout.tensor, tensor), *grid))
    own_earlier = [cut(each, ranges) for each in earlier_than(state, architecture)]
    result = model(cut(state, ranges), *own_earlier, own_given, applications=applications)
    channels = [a.prognostic, a.diagnostic] if a.diagnostic else [a.prognostic]
    predicted = ((range(batch),), part(channels, 1, layout.tensor, tensor), *grid)
    shape = (batch, sum(channels), *a.grid)
    (result.square().sum() / math.prod(shape)).backward()
    return Passed(
        Held(shape, predicted, result.detach()),
        held_gradients(model),
    )


@pytest.mark.parametrize("layout", [*MESHES[:3], *exhaustive(MESHES[3])], ids=str)
@pytest.mark.parametrize(
    ("prediction", "applications"),
    [("increment", 2), ("state", 1), *exhaustive(("increment", 1), ("state", 2))],
)
def test_any_mesh_computes_the_network_and_its_gradients(
    pool: Pool, layout: Layout, prediction: Prediction, applications: int
) -> None:
    further = 2 if applications == 1 else 0
    architecture = replace(
        SMALL,
        prediction=prediction,
        grid=(6, 14),
        forcings=further,
        diagnostic=further,
        input_times=1 + further,
        overlap=applications,  # two are as many as a patch has longitudes
        smoothing=applications,
    )
    alone = randomised(architecture)
    parameters = {name: value.detach() for name, value in alone.named_parameters()}
    found = pool.run(pass_through, layout, architecture, parameters, applications)
    state, static = sample(architecture)
    earlier = earlier_than(state, architecture)
    oracle = np.stack(
        [
            next_state(
                one.numpy(),
                np.concatenate([*(each[number].numpy() for each in earlier), static.numpy()]),
                {name: value.numpy() for name, value in parameters.items()},
                patch=architecture.patch,
                blocks=architecture.blocks,
                increment_scale=SCALE.numpy() if prediction == "increment" else None,
                applications=applications,
                diagnostic=further,
                overlap=applications,
                smoothing=applications,
            )
            for number, one in enumerate(state)
        ]
    )
    output, holders = join([rank.output for rank in found])
    assert torch.all(holders == 1)
    assert np.abs(output.numpy() - oracle).max() <= 1e-12 * np.abs(oracle).max()
    # Those of one rank equal finite differences, above.
    alone(state, *earlier, static, applications=applications).square().mean().backward()
    largest = max(float(gradient_of(value).abs().max()) for value in alone.parameters())
    for name, parameter in alone.named_parameters():
        whole, _ = join([rank.gradients[name] for rank in found])
        gradient = gradient_of(parameter)
        scale = float(gradient.abs().max())
        # Some are zero but for rounding: a norm takes away what the parameter adds.
        scale = scale if scale > 1e-9 * largest else largest
        assert float((whole - gradient).abs().max()) <= 1e-12 * scale, name


@pytest.mark.parametrize("prediction", ["increment", "state"])
def test_initial_weights_do_not_depend_on_the_mesh(prediction: Prediction) -> None:
    architecture = replace(SMALL, prediction=prediction, overlap=1, smoothing=1)
    alone = build(architecture, Mesh.describe(), seed=3, increment_scale=SCALE)
    layout = Layout(domain=2, tensor=4)
    held: dict[str, list[Held]] = {}
    for rank in range(layout.world_size):
        mesh = Mesh.describe(layout.at(rank))
        (own,) = part([architecture.prognostic], 1, 4, mesh.tensor.index)
        scale = SCALE[own.start : own.stop]
        model = build(architecture, mesh, seed=3, increment_scale=scale)
        for name, part_of_rank in held_parameters(model).items():
            held.setdefault(name, []).append(part_of_rank)
    expected = dict(alone.named_parameters())
    assert held.keys() == expected.keys()
    for name, parts in held.items():
        assert torch.equal(join(parts)[0], expected[name]), name


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(domain=5), r"domain \(5\) is more than the 4 columns of patches"),
        (Layout(tensor=6), r"tensor \(6\) is more than the 5 variables"),
    ],
    ids=str,
)
def test_a_mesh_with_nothing_to_do_for_some_rank_is_refused(layout: Layout, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        build(SMALL, Mesh.describe(layout), seed=0, increment_scale=SCALE)

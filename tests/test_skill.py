"""The comparison of skill: its networks are what they say, and it goes on where it was stopped."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import sph_harm_y
from torch import nn

from support.architectures import SMALL
from support.scripts import ROOT
from weathermixer.data.making.synthetic import write_synthetic

SIZES = replace(SMALL, grid=(8, 16))

NEEDS_HARMONICS = pytest.mark.skipif(
    importlib.util.find_spec("torch_harmonics") is None,
    reason="torch-harmonics is not installed: it asks for another PyTorch than the pinned one",
)
SPHERICAL = pytest.param("sfno", marks=NEEDS_HARMONICS)


@pytest.fixture(scope="module", autouse=True)
def skill() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        import skill

        yield skill


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("skill") / "store.zarr"
    write_synthetic(path, processes=1, grid=(8, 16), times=460)
    return path


@pytest.mark.parametrize("name", [SPHERICAL, "vit", "unet"])
def test_a_network_begins_with_zeros_and_learns_with_all_of_its_weights(name: str) -> None:
    from peers.networks import NETWORKS

    torch.manual_seed(0)
    network = NETWORKS[name](SIZES)
    fields = torch.randn(2, SIZES.inputs, *SIZES.grid)
    made = network(fields)
    assert made.shape == (2, SIZES.predicted, *SIZES.grid)
    assert not made.any()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    network(fields).square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.any() for parameter in network.parameters()
    )


@NEEDS_HARMONICS
def test_the_spectral_convolution_multiplies_harmonics() -> None:
    from peers.networks.sfno import SpectralConvolution
    from torch_harmonics import InverseRealSHT, RealSHT

    degree, order, width = 5, 3, 2
    transforms = [kind(16, 32, grid="legendre-gauss") for kind in (RealSHT, InverseRealSHT)]
    convolution = SpectralConvolution(transforms[0], transforms[1], width).double()
    latitude = np.arccos(np.polynomial.legendre.leggauss(16)[0][::-1])[:, None]
    harmonic = sph_harm_y(degree, order, latitude, 2 * np.pi * np.arange(32) / 32)
    amplitudes = np.array([1.5, -0.5])
    x = torch.from_numpy(amplitudes[:, None, None] * harmonic.real)
    weight = torch.view_as_complex(convolution.weight)[degree].detach().numpy()
    expected = ((amplitudes @ weight)[:, None, None] * harmonic).real
    made = convolution(x[None])[0].detach().numpy()
    np.testing.assert_allclose(made, expected, atol=1e-6 * np.abs(expected).max())


def test_attention_is_that_of_torch() -> None:
    from peers.networks.vit import Attention

    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    x = torch.randn(2, 7, 12)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])


def test_the_unet_knows_no_first_longitude() -> None:
    from peers.networks.unet import UNet

    torch.manual_seed(1)
    network = UNet(SIZES, widths=(8, 16)).double()
    nn.init.normal_(network.decoder.weight)
    fields = torch.randn(1, SIZES.inputs, *SIZES.grid, dtype=torch.float64)
    # By as many columns as there are in one of the lower level.
    turned = network(fields.roll(2, dims=3))
    torch.testing.assert_close(turned, network(fields).roll(2, dims=3))


def test_a_recipe_is_stretched_as_a_whole(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peers.networks import learning

    config = store.parent / "recipe.yaml"
    config.write_text(
        "data: {store: none}\n"
        "training: {steps: 1000, warmup_steps: 50, rollout: {0: 1, 800: 1-3},\n"
        "  learning_rate: 2.0e-3, edge_learning_rate: 1.0e-3, schedule: cooldown,\n"
        "  cooldown_steps: 300}\n"
    )
    monkeypatch.setattr(learning, "CONFIG", config)
    for network, edge in ((learning.WEATHERMIXER, 0.5e-3), ("vit", None)):
        recipe = learning.Recipe(store, network, "bfloat16")
        training = recipe.stretched(500, factor=0.5, seed=7).training
        assert (training.steps, training.warmup_steps, training.cooldown_steps) == (500, 25, 150)
        assert training.rollout == {0: 1, 400: "1-3"}
        assert (training.learning_rate, training.edge_learning_rate) == (1e-3, edge)
        assert (training.seed, training.dtype) == (7, "bfloat16")
        assert training.validation_leads == (72.0,)


class Trainings:
    """Stands for processes that train: in a short training a quarter of the rates is best.

    In a long one half of them is.
    """

    def __init__(self, skill: ModuleType) -> None:
        self.skill, self.made = skill, 0

    def __call__(self, work: Callable[..., Any], recipe: Any, *arguments: Any) -> Any:
        self.made += 1
        if work is self.skill.seconds_per_step:
            return 0.5
        steps, factor, seed, num_forecasts = arguments
        if not num_forecasts:
            return self.skill.Learned(steps, 1.0, 10, 20, validation=abs(np.log2(factor) + 1.9))
        assert factor in (0.25, 0.5, 1.0)
        errors = {"6": 0.4 + 0.1 * seed, "24": 0.5, "72": 0.6, "120": 0.7, "240": None}
        relative = {"persistence": errors}
        return self.skill.Learned(
            steps, 9.0, 2_500_000, 5e8, abs(np.log2(factor) + 1.1), relative, 1.5
        )


class RealTrainings(Trainings):
    """Trains for the whole time, with the rates that stand for the best."""

    def __call__(self, work: Callable[..., Any], recipe: Any, *arguments: Any) -> Any:
        if work is self.skill.learn and not arguments[-1]:
            return super().__call__(work, recipe, *arguments)
        return work(recipe, *arguments)


def run(
    skill: ModuleType, monkeypatch: pytest.MonkeyPatch, trainings: Trainings, *words: object
) -> None:
    monkeypatch.setattr(skill, "apart", trainings)
    monkeypatch.setattr(sys, "argv", ["skill.py", *map(str, words)])
    skill.main()


def test_it_tunes_trains_and_goes_on_where_it_was_stopped(
    skill: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = (tmp_path / "store.zarr", "--json", tmp_path / "skill.json", "--seconds=10")
    trainings = Trainings(skill)
    run(skill, monkeypatch, trainings, *words, "--networks=vit", "--seeds=0,1")
    # Two timings; rates × 1, 2, 0.5, 0.25, 0.125; from × 0.25 on × 0.5 and 1 for the whole time,
    # and the best of these with another seed.
    assert trainings.made == 11
    row = capsys.readouterr().out.splitlines()[-1]
    assert row == (
        "| vit | 0.450 / – | 0.500 / – | 0.600 / – | 0.700 / – | – / – | 2.50 M | × 0.5 | 20 | "
        "9 | 1.50 | 500 |"
    )
    run(skill, monkeypatch, trainings, *words, "--networks=vit,unet", "--seeds=0,1")
    assert trainings.made == 22
    assert row in capsys.readouterr().out
    with pytest.raises(SystemExit, match="with another recipe or store"):
        run(skill, monkeypatch, trainings, *words, "--forecasts=5")
    with pytest.raises(SystemExit, match="2"):
        run(skill, monkeypatch, trainings, *words, "--networks=vit,mixer")


@pytest.mark.exhaustive
@pytest.mark.parametrize("network", ["weathermixer", SPHERICAL, "vit", "unet"])
def test_a_network_is_timed_trained_and_scored(
    skill: ModuleType,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    network: str,
) -> None:
    threads = torch.get_num_threads()
    words = (store, "--json", tmp_path / "skill.json", "--seconds=1", "--forecasts=2", "--seeds=3")
    run(skill, monkeypatch, RealTrainings(skill), *words, f"--networks={network}")
    torch.set_num_threads(threads)
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].split("|")]
    assert cells[1] == network
    for pair in cells[2:7]:
        persistence, climatology = map(float, pair.split("/"))
        assert 0.0 < persistence < 3.0
        assert 0.0 < climatology < 3.0


@pytest.mark.exhaustive
def test_validations_tell_rates_apart(skill: ModuleType, store: Path) -> None:
    threads = torch.get_num_threads()
    recipe = skill.Recipe(store, "weathermixer", "float32")
    learned = [skill.apart(skill.learn, recipe, 40, factor, 0, 0) for factor in (0.001, 1.0)]
    torch.set_num_threads(threads)
    assert all(row.steps == 40 and row.processor_seconds > 0.0 for row in learned)
    assert learned[0].validation != learned[1].validation

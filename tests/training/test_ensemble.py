"""Ensembles that learn: the loss of members, wherever they are made, and what is drawn for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from oracles.ensembles import almost_fair_crps
from support.ranks import Pool
from support.waves import CHANNELS, wave_config, write_waves
from weathermixer.config import Config
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.pieces import local_parameters
from weathermixer.jigsaw.tensors import cut
from weathermixer.runs.run import Run
from weathermixer.training.ensemble import Ensemble, sampling_layout
from weathermixer.training.loop import TrainingLoop

MEMBERS, ROLLOUT = 4, 2


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_waves(tmp_path_factory.mktemp("waves") / "waves.zarr", times=30)


def config_of(waves: Path, layout: Layout, **training: Any) -> Config:
    """A batch of four samples a step, of four members, however they are divided."""
    settings = {
        "dtype": "float64",
        "error": "crps",
        "members": MEMBERS,
        "rollout": ROLLOUT,
        "instance_batch": 4 // layout.data,
        "steps": 4,
        **training,
    }
    mesh = {axis: getattr(layout, axis) for axis in ("data", "domain", "tensor")}
    return wave_config(
        waves, training=settings, parallel=mesh, model={"noise": 2, "local_noise": 1, "blocks": 1}
    )


def losses_and_weights(
    mesh: Mesh, waves: Path, out: Path, training: dict[str, Any]
) -> tuple[list[float], float, dict[str, tuple[Any, Tensor]]]:
    """Losses of some steps, that of a validation, and a rank's parts of the weights after them."""
    config = config_of(waves, mesh.layout, **training)
    with TrainingLoop.begin(config, out) as loop:
        reports = [loop.step() for _ in range(3)]
        validation = loop.validate()
        assert loop.state.samples == 12
        parts = {
            name: (piece.block, parameter.detach().clone())
            for name, parameter, piece in local_parameters(loop.state.model)
        }
        return [each.loss for each in reports], validation.loss, parts


def test_loss_and_gradient_are_those_of_the_almost_fair_crps() -> None:
    generator = torch.Generator().manual_seed(1)
    prediction = torch.randn(3 * MEMBERS, 2, 4, 5, generator=generator, dtype=torch.float64)
    target = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    weights = torch.rand(2, 4, 1, generator=generator, dtype=torch.float64)
    prediction[1] = prediction[0]  # members that are equal, and one that is the truth
    prediction[6] = target[1]
    prediction.requires_grad_()
    loss = Ensemble(MEMBERS, MEMBERS).crps(prediction, target, weights)
    members = prediction.detach().numpy().reshape(3, MEMBERS, 2, 4, 5)
    by_definition = np.mean([
        weights.numpy() * almost_fair_crps(x, y, alpha=0.95)
        for x, y in zip(members, target.numpy(), strict=True)
    ])  # fmt: skip
    assert loss.item() == pytest.approx(by_definition, rel=1e-13)

    plain = prediction.detach().clone().requires_grad_()
    x = plain.view(3, MEMBERS, 2, 4, 5)
    skill = (x - target[:, None]).abs().mean(1)
    pairs = (x[:, :, None] - x[:, None]).abs().sum((1, 2)) / (2 * MEMBERS * (MEMBERS - 1))
    (weights * (skill - (1 - 0.05 / MEMBERS) * pairs)).mean().backward()
    loss.backward()
    torch.testing.assert_close(prediction.grad, plain.grad, rtol=1e-12, atol=1e-15)


CASES = [
    (Layout(), {"instance_members": None, "micro_batch": 2, "recompute": "stages"}),
    (Layout(data=2), {"instance_members": 2}),
    (Layout(data=4), {"instance_members": 2}),
    (Layout(data=2, domain=2), {"instance_members": 2}),
    (Layout(data=4), {"instance_members": 1}),
    (Layout(domain=3, tensor=2), {}),
]


@pytest.fixture(scope="module")
def alone(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return losses_and_weights(Mesh.describe(), waves, tmp_path_factory.mktemp("run"), {})


@pytest.mark.parametrize(
    ("layout", "training"),
    [
        case if number in (0, 3) else pytest.param(*case, marks=pytest.mark.exhaustive)
        for number, case in enumerate(CASES)
    ],
    ids=str,
)
def test_members_are_the_same_wherever_they_are_made(
    pool: Pool,
    layout: Layout,
    training: dict[str, Any],
    waves: Path,
    alone: Any,
    tmp_path: Path,
) -> None:
    losses, validation, weights = alone
    # A pool shares its samples: as many in all as without one, on as many instances.
    batch = 4 * MEMBERS // ((training.get("instance_members") or MEMBERS) * layout.data)
    settings = {**training, "instance_batch": batch}
    if layout.world_size == 1:
        ranks = [losses_and_weights(Mesh.describe(), waves, tmp_path / "run", settings)]
    else:
        ranks = pool.run(losses_and_weights, layout, waves, tmp_path / "run", settings)
    for own_losses, own_validation, parts in ranks:
        np.testing.assert_allclose(own_losses, losses, rtol=1e-11)
        assert own_validation == pytest.approx(validation, rel=1e-10)
        for name, (block, part) in parts.items():
            expected = cut(weights[name][1], block)
            torch.testing.assert_close(part, expected, rtol=1e-8, atol=1e-10)


def test_a_pool_shares_samples_and_its_members_draw_what_is_theirs() -> None:
    layouts = [Layout(data=4, domain=2).at(rank) for rank in range(8)]
    places = [sampling_layout(each, 2).coordinates.data for each in layouts]
    assert places == [each.coordinates.data // 2 for each in layouts]
    assert {sampling_layout(each, 2).data for each in layouts} == {2}
    whole = Ensemble(4, 4, noise=3, seed=1).draw(range(5, 7), rollout=2, step=8)
    for first in (0, 2):
        own = Ensemble(4, 2, first, noise=3, seed=1).draw(range(5, 7), rollout=2, step=8)
        expected = whole.view(2, 4, 2, 3)[:, first : first + 2].reshape(4, 2, 3)
        torch.testing.assert_close(own, expected, rtol=0.0, atol=0.0)
    flat = whole.flatten()
    assert len(flat.unique()) == len(flat)
    assert not torch.equal(Ensemble(4, 4, noise=3, seed=2).draw([5, 6], rollout=2, step=8), whole)


def test_a_deterministic_run_learns_to_be_an_ensemble(
    waves: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single = wave_config(waves, model={"blocks": 1}, training={"steps": 3})
    with TrainingLoop.begin(single, tmp_path / "single") as loop:
        for _ in loop:
            pass
        loop.save()
    before = Run.open(tmp_path / "single").read()
    source = Store.open(waves)
    initial = before.normalisation.normalise(source.read(3, source.channel_indices(CHANNELS)))
    given = torch.from_numpy(initial)[None], torch.from_numpy(before.normalisation.static)
    expected = before.load_model()(*given)

    config = config_of(waves, Layout(), dtype="float32", rollout=1)
    with TrainingLoop.begin(config, tmp_path / "run", source=tmp_path / "single") as loop:
        # Two of a sample, one of each of 4 × 2 tokens, and one of each of 8 × 16 points.
        noise = torch.arange(2.0 + 8 + 128)[None].sin()
        of_tokens = torch.cat([noise[:, :10], torch.zeros(1, 128)], dim=1)
        torch.testing.assert_close(loop.state.model(*given, noise=of_tokens), expected)
        by_points = loop.state.model(*given, noise=noise) - expected
        assert (by_points != 0.0).all() and by_points.abs().max() < 0.14
        losses = [loop.step().loss for _ in range(3)]
        assert losses[0] == pytest.approx(loop.validate().loss, rel=0.5)
        made = [loop.state.model(*given, noise=each * noise) for each in (0, 1, -1)]
        assert min((one - made[0]).abs().max() for one in made[1:]) > 1e-6
    assert "all equal" not in capsys.readouterr().err

    no_noise = wave_config(waves, model={"blocks": 1}, training={"error": "crps", "members": 2})
    with TrainingLoop.begin(no_noise, tmp_path / "equal"):
        pass
    assert "the training has members that are all equal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (
            {"error": "crps"},
            r"(?s)training\.members.*is 1, and training\.error=crps scores the spread",
        ),
        ({"members": 2}, r"(?s)training\.members.*\(2\) is for training\.error=crps"),
        ({"error": "crps", "members": 4, "instance_members": 3}, r"does not divide"),
    ],
)
def test_members_that_cannot_be_scored_are_refused(
    waves: Path, training: dict[str, Any], message: str
) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        wave_config(waves, training=training)


def test_pools_have_to_fill_the_replicas() -> None:
    training = wave_config("s", training={"error": "crps", "members": 4, "instance_members": 2})
    with pytest.raises(LayoutError, match=r"parallel\.data \(3\) is no multiple of the 2 replicas"):
        Ensemble.of(training.training, 0, Mesh.describe(Layout(data=3)))

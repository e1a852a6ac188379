"""A network of one's own in the library's loop: trained, saved, continued, forecast as by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from rich.console import Console
from torch import Tensor, nn

from oracles.scores import cell_weights
from support.ranks import Pool
from support.tiny_network import TinyNetwork, train_tiny
from support.waves import LATITUDE, START, state, wave_config
from weathermixer.config import Config
from weathermixer.data.forcings import Forcings, forcing_fields
from weathermixer.errors import UserError
from weathermixer.forecast.forecast import forecast
from weathermixer.forecast.inputs import forcings_at
from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.model.architecture import Architecture, architecture_of
from weathermixer.model.other_network import NetworkBuilder
from weathermixer.report.training_section import TrainingSection
from weathermixer.runs.run import Run
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.result import TrainResult
from weathermixer.training.trainer import train

QUIET = Console(quiet=True)
FORCINGS = ("hour_of_day", "toa_solar_radiation")
DATA = {"input_times": 2, "forcings": list(FORCINGS)}


def config_of(waves: Path, **sections: Any) -> Config:
    sections["data"] = {**DATA, **sections.get("data", {})}
    return wave_config(waves, **sections)


def trained(config: Config, out: Path, **options: Any) -> TrainResult:
    return train(config, out, console=QUIET, network=TinyNetwork, **options)


def inputs_of(recent: list[Tensor], static: Tensor, forcings: Tensor) -> Tensor:
    fields = static.expand(len(forcings), -1, -1, -1)
    return torch.cat([*recent, fields, forcings], dim=1)


@pytest.mark.parametrize("prediction", ["increment", "state"])
def test_its_training_is_that_of_a_plain_loop(waves: Path, tmp_path: Path, prediction: str) -> None:
    config = config_of(
        waves,
        model={"prediction": prediction},
        training={
            "dtype": "float64",
            "rollout": 2,
            "schedule": "constant",
            "warmup_steps": 0,
            "learning_rate": 0.02,
            "clip_norm": 0.7,
        },
    )
    with TrainingLoop.begin(config, tmp_path / "run", network=TinyNetwork) as loop:
        batches = [loop.next_batch()]
        losses = [loop.step(batches[0])]
        for _ in range(4):
            batches.append(loop.next_batch())
            losses.append(loop.step(batches[-1]))
        ours = dict(loop.state.model.named_parameters())
        normalisation = loop.run.normalisation
        static = torch.from_numpy(loop.normalisation.static)

    torch.manual_seed(config.training.seed)
    plain = TinyNetwork(loop.job.architecture).double()
    weights = [parameter for parameter in plain.parameters() if parameter.ndim >= 2]
    biases = [parameter for parameter in plain.parameters() if parameter.ndim < 2]
    optimizer = torch.optim.AdamW(weights, lr=0.02, betas=(0.9, 0.95), weight_decay=0.05)
    optimizer.add_param_group({"params": biases, "weight_decay": 0.0})
    unit = torch.from_numpy(normalisation.step_std / normalisation.std).view(-1, 1, 1)
    area = torch.tensor(cell_weights(LATITUDE), dtype=torch.float64).view(-1, 1)
    for batch, step in zip(batches, losses, strict=True):
        fields = np.stack([[state(index) for index in row] for row in batch.indices])
        states = torch.from_numpy(normalisation.normalise(fields.astype(np.float64)))
        recent, costs = [states[:, 1], states[:, 0]], []
        for lead in range(2):
            made = plain(inputs_of(recent, static, batch.forcings[:, lead]))
            made = recent[0] + unit * made if prediction == "increment" else made
            costs.append((((made - states[:, 2 + lead]) / unit).square() * area).mean())
            recent = [made, recent[0]]
        loss = torch.stack(costs).mean()
        assert step.loss == pytest.approx(loss.item(), rel=1e-12)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(plain.parameters(), 0.7)
        assert step.grad_norm == pytest.approx(norm.item(), rel=1e-10)
        optimizer.step()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(ours[f"network.{name}"], parameter, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def run(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    """A run with dropout, averages and validations that forecast."""
    out = tmp_path_factory.mktemp("other") / "run"
    return out, trained(config_with_much(waves), out)


def config_with_much(waves: Path, **training: Any) -> Config:
    return config_of(
        waves,
        model={"dropout": 0.1},
        training={"average_decay": 0.9, "validation_leads": [6, 18], **training},
    )


def test_a_training_that_goes_on_ends_with_the_same_bits(
    waves: Path, tmp_path: Path, run: tuple[Path, TrainResult]
) -> None:
    _, whole = run
    config = config_with_much(waves)
    with TrainingLoop.begin(config, tmp_path / "run", network=TinyNetwork) as loop:
        for _ in range(7):
            loop.step()
        loop.save()
    rest = trained(config, tmp_path / "run", resume=True)
    assert rest.loss == whole.loss[7:]
    for file in whole.checkpoint.iterdir():
        assert (rest.checkpoint / file.name).read_bytes() == file.read_bytes()


def test_its_forecast_is_the_network_applied_by_hand(
    waves: Path, tmp_path: Path, run: tuple[Path, TrainResult]
) -> None:
    out, result = run
    opened = Run.open(out)
    weights = dict(opened.load_model(weights="average", network=TinyNetwork).named_parameters())
    assert result.parameters == sum(parameter.numel() for parameter in weights.values())
    first = START + np.timedelta64(6 * 50, "h")
    forecast(out, waves, str(first), 3, tmp_path / "forecast.zarr", network=TinyNetwork)
    with xarray.open_zarr(tmp_path / "forecast.zarr") as fields:
        axes = ("prediction_timedelta", "latitude", "longitude")
        forecasts = fields["2m_temperature"].isel(time=0).transpose(*axes).values

    normalisation = opened.normalisation
    architecture = architecture_of(opened.config.data, opened.config.model, normalisation.grid)
    plain = TinyNetwork(architecture).eval()
    plain.load_state_dict({name.removeprefix("network."): value for name, value in weights.items()})
    unit = torch.from_numpy(normalisation.increment_scale).float().view(-1, 1, 1)
    normal = [normalisation.normalise(state(50 - back)[None]) for back in range(2)]
    recent = [torch.from_numpy(each).float() for each in normal]
    static = torch.from_numpy(normalisation.static).float()
    given = Forcings(forcing_fields(FORCINGS), normalisation.latitude, normalisation.longitude, 6.0)
    for lead in range(3):
        time = np.array([first + np.timedelta64(6 * lead, "h")])
        forcings = torch.from_numpy(forcings_at(given, time, np.float32)).float()
        with torch.no_grad():
            made = plain(inputs_of(recent, static, forcings))
        recent = [recent[0] + unit * made, recent[0]]
        expected = normalisation.restore(recent[0].numpy())[0, -1]
        np.testing.assert_allclose(forecasts[lead], expected, rtol=1e-6)


def test_its_scores_are_those_of_its_validation(
    waves: Path, tmp_path: Path, run: tuple[Path, TrainResult]
) -> None:
    out, result = run
    with TrainingLoop.begin(config_with_much(waves), out, resume=True, network=TinyNetwork) as loop:
        times = loop.job.states.times[loop.validation_samples[:, 1]]
    init = ",".join(map(str, times))
    made = forecast(
        out, waves, init, 3, truth=waves, scores=tmp_path / "scores", network=TinyNetwork
    )
    assert made.verification is not None
    verified = made.verification.regions["global"].to_json()["rmse_relative_to"]["persistence"]
    validated = result.validation[12].rmse_relative_to["persistence"]
    assert {lead: verified[lead] for lead in validated} == pytest.approx(validated, rel=1e-6)


def test_its_report_counts_its_parameters(run: tuple[Path, TrainResult]) -> None:
    out, result = run
    assert TrainingSection.read(Run.open(out)).parameters == result.parameters


def test_bfloat16_is_close_and_computes_in_it(waves: Path, tmp_path: Path) -> None:
    seen: set[torch.dtype] = set()

    class Watched(TinyNetwork):
        def forward(self, fields: Tensor) -> Tensor:
            made = super().forward(fields)
            seen.add(made.dtype)
            return made

    losses = {}
    for dtype in ("float32", "bfloat16"):
        config = config_of(waves, training={"dtype": dtype})
        losses[dtype] = train(config, tmp_path / dtype, console=QUIET, network=Watched).loss
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.05)
    assert losses["bfloat16"] != losses["float32"]
    assert seen == {torch.float32, torch.bfloat16}


def test_stages_are_computed_again_to_the_same_gradients(waves: Path, tmp_path: Path) -> None:
    results = [
        trained(
            config_of(waves, training={"dtype": "float64", "rollout": 3, "recompute": recompute}),
            tmp_path / recompute,
        )
        for recompute in ("none", "stages")
    ]
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-12)


def test_replicas_learn_what_one_rank_does(waves: Path, tmp_path: Path, pool: Pool) -> None:
    def config(replicas: int) -> Config:
        return config_of(
            waves,
            training={"dtype": "float64", "instance_batch": 4 // replicas},
            parallel={"data": replicas},
        )

    alone = trained(config(1), tmp_path / "one")
    for result in pool.run(train_tiny, Layout(data=2), config(2), tmp_path / "two"):
        assert result.layout.data == 2
        assert result.loss == pytest.approx(alone.loss, rel=1e-12)
        assert result.grad_norm == pytest.approx(alone.grad_norm, rel=1e-10)


@pytest.mark.parametrize(
    ("sections", "setting"),
    [
        ({"model": {"noise": 4}}, "model.noise"),
        ({"training": {"latent_rollout": 2}}, "training.latent_rollout"),
        ({"training": {"compile": True}}, "training.compile"),
        ({"training": {"recompute": "blocks"}}, "training.recompute"),
        ({"training": {"learning_rates": {"head": 1e-3}}}, "training.learning_rates"),
        ({"training": {"edge_learning_rate": 1e-3}}, "training.edge_learning_rate"),
        ({"parallel": {"domain": 2}}, "parallel.domain"),
        ({"parallel": {"tensor": 2}}, "parallel.tensor"),
    ],
)
def test_a_setting_that_only_weathermixer_can_follow_is_refused(
    waves: Path, tmp_path: Path, sections: dict[str, Any], setting: str
) -> None:
    with pytest.raises(UserError, match=rf"{setting} is a setting of WeatherMixer"):
        trained(wave_config(waves, **sections), tmp_path / "run")


def test_more_replicas_than_ranks_are_refused(waves: Path, tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="2"):
        trained(wave_config(waves, parallel={"data": 2}), tmp_path / "run")


def test_a_run_of_weathermixer_and_one_of_another_are_told_apart(
    waves: Path, tmp_path: Path, run: tuple[Path, TrainResult]
) -> None:
    out, _ = run
    with pytest.raises(UserError, match=r"has no model\.encoder\.weight.* its network"):
        Run.open(out).load_model()
    with pytest.raises(UserError, match="cannot begin with the weights of"):
        trained(config_of(waves), tmp_path / "run", source=out)


class Complex(nn.Module):
    def __init__(self, _: Architecture) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, dtype=torch.complex64))


def normed(architecture: Architecture) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(architecture.inputs), nn.Conv2d(architecture.inputs, 2, 1))


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (Complex, "parameter weight is of torch.complex64: let it hold real numbers"),
        (normed, "buffer 0.running_mean would be missing from checkpoints"),
        (lambda _: nn.Identity(), "has no parameters"),
        (lambda a: nn.Conv2d(a.inputs, 1, 1), r"makes \(2, 1, 8, 16\) of \(2, 8, 8, 16\)"),
    ],
)
def test_a_network_that_cannot_be_trained_is_refused(
    waves: Path, tmp_path: Path, network: NetworkBuilder, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        train(config_of(waves), tmp_path / "run", console=QUIET, network=network)

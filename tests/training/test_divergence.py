"""A training that goes back where it diverges, and meets the samples that led there no more."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from rich.console import Console

from support.meshed import TrainingOrder
from support.ranks import Pool
from support.waves import wave_config
from weathermixer.config import Config, Training
from weathermixer.data.feeding.read_ahead import Batch
from weathermixer.data.feeding.samples import consumed_by
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.training.divergence import Divergence
from weathermixer.training.history import StepReport
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.result import TrainResult
from weathermixer.training.trainer import train

# Of twelve steps of two samples, with checkpoints after 4 and 8: what is wrong with the seventh.
BAD_STEP = 7
LEFT_OUT = range(8, 14)  # steps 5, 6 and 7


def config_of(waves: Path, **training: Any) -> Config:
    batch = {"instance_batch": 2, "dtype": "float64", "validate_every": 100}
    parallel = training.pop("parallel", {})
    return wave_config(
        waves,
        training={**batch, "on_divergence": "skip", **training},
        parallel=parallel,
        checkpoint={"keep": 5},
    )


@contextmanager
def spoiled(firsts: Sequence[int], factor: float) -> Iterator[list[int]]:
    """While entered, states of batches with samples from the time indices ``firsts`` are too large.

    Yields the steps before which such a batch was met.
    """
    met: list[int] = []
    plain = TrainingLoop.next_batch

    def next_batch(loop: TrainingLoop) -> Batch:
        batch = plain(loop)
        if not set(batch.indices[:, 0].tolist()) & set(firsts):
            return batch
        met.append(loop.state.step)
        return replace(batch, states=batch.states * factor)

    with patch.object(TrainingLoop, "next_batch", next_batch):
        yield met


def hear(config: Config, out: Path, **options: Any) -> tuple[TrainResult, list[str]]:
    said = io.StringIO()
    result = train(config, out, console=Console(file=said, width=1000), **options)
    return result, said.getvalue().splitlines()


@pytest.fixture(scope="module")
def expected(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], int]:
    """Losses of steps by hand that leave the batches out, and the first sample of the seventh."""
    out = tmp_path_factory.mktemp("by hand") / "run"
    with TrainingLoop.begin(config_of(waves), out) as loop:
        losses = [loop.step().loss for _ in range(4)]
        left_out = [loop.next_batch() for _ in range(3)]
        # The plan ends with the steps; these three make up for those.
        losses += [loop.step().loss for _ in range(5)]
    return losses, int(left_out[-1].indices[0, 0])


@pytest.mark.parametrize("spike_factor", [None, 50.0])
def test_a_training_goes_back_once_and_never_meets_those_samples_again(
    spike_factor: float | None,
    waves: Path,
    expected: tuple[list[float], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses, bad = expected
    config = config_of(waves, spike_factor=spike_factor, spike_window=3)
    factor = np.nan if spike_factor is None else 1e3
    with spoiled([bad], factor) as met:
        result, said = hear(config, tmp_path / "run")
    assert met == [BAD_STEP - 1]
    assert result.loss[:9] == losses
    assert len(result.loss) == 12
    assert result.samples_seen == 12 * 2 + len(LEFT_OUT)
    (sentence,) = (line for line in said if "went back" in line)
    assert sentence.startswith(f"the loss of step {BAD_STEP}")
    assert sentence.endswith(
        "went back to step 4 and left out samples 9 to 14 (1 of at most 3 times)"
    )
    records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, 13))
    assert [record["loss"] for record in records] == result.loss
    assert records[3]["skipped"] == {"at_step": BAD_STEP, "start": 8, "stop": 14}
    # A training that is killed before the next checkpoint, and goes on.
    step = TrainingLoop.step

    def killed(loop: TrainingLoop) -> StepReport:
        report = step(loop)
        if loop.divergence.skips and report.number == 6:
            raise KeyboardInterrupt
        return report

    with spoiled([bad], factor) as met:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(TrainingLoop, "step", killed)
            hear(config, tmp_path / "killed")
        rest, _ = hear(config, tmp_path / "killed", resume=True)
    assert met == [BAD_STEP - 1]
    assert (rest.start_step, rest.loss) == (4, result.loss[4:])


def test_a_training_stops_at_the_next_divergence_and_at_a_spike_where_it_is_to_stop(
    waves: Path, expected: tuple[list[float], int], tmp_path: Path
) -> None:
    _, bad = expected
    every_time = range(60)
    with spoiled(every_time, np.nan) as met, pytest.raises(UserError, match="NaN or infinite"):
        hear(config_of(waves, most_skips=2), tmp_path / "run")
    assert met == [0, 0, 0]
    stops = config_of(waves, on_divergence="stop", spike_factor=50.0, spike_window=3)
    with spoiled([bad], 1e3), pytest.raises(UserError) as error:
        hear(stops, tmp_path / "stopped")
    sentence = str(error.value)
    assert sentence.startswith("the loss of step 7, ")
    assert "times the median of the 3 before and training stopped: " in sentence
    assert "step-00000004 was saved last" in sentence


def skipping(mesh: Mesh, order: TrainingOrder, bad: int) -> TrainResult:
    """Work for a pool: a training that meets bad samples."""
    with spoiled([bad], np.nan):
        return train(order.config, order.out, console=Console(quiet=True))


@pytest.mark.parametrize(
    "layout",
    [Layout(data=2), pytest.param(Layout(domain=2), marks=pytest.mark.exhaustive)],
    ids=str,
)
def test_ranks_go_back_together(
    layout: Layout, waves: Path, expected: tuple[list[float], int], tmp_path: Path, pool: Pool
) -> None:
    losses, bad = expected
    parallel = {"data": layout.data, "domain": layout.domain, "shard_optimizer": True}
    config = config_of(waves, parallel=parallel, instance_batch=2 // layout.data)
    results = pool.run(skipping, layout, TrainingOrder(config, tmp_path / "run"), bad)
    for result in results:
        assert result.loss[:9] == pytest.approx(losses, rel=1e-12)
        assert result.samples_seen == 12 * 2 + len(LEFT_OUT)


def divergence(**settings: Any) -> Divergence:
    return Divergence(
        Training(**{"spike_factor": 2.0, "spike_window": 4, **settings}), Path("none")
    )


def test_a_spike_is_above_a_multiple_of_the_running_median() -> None:
    rng = np.random.default_rng(0)
    losses = rng.lognormal(0.0, 0.7, 200)
    judged = divergence()
    kept: list[float] = []
    for number, loss in enumerate(losses, start=1):
        is_spike = len(kept) >= 4 and loss > 2.0 * np.median(kept[-4:])
        assert (judged.spike(number, float(loss)) is not None) == is_spike
        if not is_spike:
            kept.append(loss)
    assert 20 < len(kept) < 190
    assert divergence(spike_factor=None).spike(1, 1e9) is None


def test_a_longer_rollout_begins_the_window_anew() -> None:
    judged = divergence(rollout={0: 1, 6: 2}, steps=20, warmup_steps=1)
    for step in range(1, 7):
        assert judged.spike(step, 1.0) is None
    for step in range(7, 11):  # the seventh step is the first that forecasts two
        assert judged.spike(step, 5.0) is None
    assert judged.spike(11, 11.0) is not None


def test_recent_losses_go_with_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "divergence.json"
    judged = Divergence(Training(spike_factor=2.0, spike_window=4), path)
    for step in range(1, 7):
        judged.spike(step, float(step))
        if step in (4, 6):
            assert judged.remember(step)
    judged.write()
    again = Divergence(judged.training, path).read()
    again.return_to(4)
    assert again.spike(5, 5.1) is not None  # the median of 1 to 4 is 2.5
    again.return_to(6)
    assert again.spike(7, 5.1) is None  # of what is known of another time, nothing is used
    path.write_text('{"skips": 3}', encoding="utf-8")
    with pytest.raises(UserError, match="which says what samples are left out, cannot be read"):
        judged.read()


def test_what_is_skipped_is_passed_over_wherever_a_batch_ends() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        starts = rng.integers(0, 30, 3)
        skipped = [range(int(start), int(start + rng.integers(0, 9))) for start in starts]
        left = [number for number in range(100) if not any(number in each for each in skipped)]
        first = int(rng.integers(0, 30))
        expected = [number for number in left if number >= first][:12]
        assert consumed_by(first, 12, skipped).tolist() == expected

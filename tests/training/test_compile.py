"""A training whose elementwise work is compiled is the same training but for rounding."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from support.ranks import Pool
from support.selection import exhaustive
from support.waves import wave_config
from weathermixer.config import Config
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model import compiling
from weathermixer.training.loop import TrainingLoop

# Without a compiler, torch runs the same graph of forward and backward pass.
GRAPH_ALONE = "aot_eager"
STEPS = 3
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 2e-2}


def config_of(waves: Path, layout: Layout, settings: dict[str, Any]) -> Config:
    return wave_config(
        waves,
        model={
            "dropout": 0.1,
            "overlap": 1,
            "smoothing": 1,
            "prediction": settings.get("prediction", "increment"),
        },
        training={"steps": STEPS, "warmup_steps": 1, **settings["training"]},
        parallel={"domain": layout.domain, "tensor": layout.tensor},
    )


def losses_and_norms(
    mesh: Mesh, waves: Path, out: Path, settings: dict[str, Any], backend: str
) -> tuple[list[list[float]], dict[str, Any]]:
    """What each step came to, and what the compiler counted."""
    config = config_of(waves, mesh.layout, settings)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    with (
        mock.patch.object(compiling, "BACKEND", backend),
        TrainingLoop.begin(config, out) as loop,
    ):
        reports = [[step.loss, step.grad_norm] for step in loop]
        reports.append([loop.validate().loss])
    counted = {name: dict(counters[name]) for name in ("stats", "graph_break", "recompile_limit")}
    return reports, counted


def check(runs: list[Any], compiled_runs: list[Any], dtype: str) -> None:
    for (plain, nothing), (compiled, counted) in zip(runs, compiled_runs, strict=True):
        assert not nothing["stats"]
        for step, (expected, found) in enumerate(zip(plain, compiled, strict=True)):
            assert found == pytest.approx(expected, rel=TOLERANCE[dtype]), step
        assert not counted["graph_break"] and not counted["recompile_limit"]
        # The probe, the encoder's side and the decoder's, the loss, two shapes of hidden values;
        # again for the shapes of a validation's batches, and where they need no gradient, as
        # hidden values do not before the backward pass computes them again.
        assert counted["stats"]["unique_graphs"] <= 6 + 4 + 2


SETTINGS: dict[str, dict[str, Any]] = {
    "one step ahead": {"training": {"dtype": "float64"}},
    "rollout": {"training": {"dtype": "float64", "rollout": 2}},
    "recompute": {"training": {"dtype": "float32", "rollout": 2, "recompute": True}},
    "published": {
        "prediction": "state",
        "training": {
            "dtype": "float64",
            "optimizer": "adam",
            "loss": "published",
            "error": "huber",
        },
    },
    # Not with the published output, whose norm over two channels is a sign: it makes a gradient of
    # the rounding of what is compiled.
    "bfloat16": {"training": {"dtype": "bfloat16"}},
}


def compare(
    run: Callable[[Path, dict[str, Any], str], list[Any]], out: Path, name: str, backend: str
) -> None:
    """Train without and with compiling, by ``run``, and hold the steps of all ranks together."""
    if backend == "inductor" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("torch.compile needs a C++ compiler, and none of c++, g++, clang++ is there")
    settings = SETTINGS[name]
    training = settings["training"]
    compiling = {**settings, "training": {**training, "compile": True}}
    plain = run(out / "plain", settings, backend)
    check(plain, run(out / "compiled", compiling, backend), training["dtype"])


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("recompute", GRAPH_ALONE),
        *exhaustive(("published", "inductor"), ("recompute", "inductor"), ("bfloat16", "inductor")),
    ],
)
def test_a_compiled_training_differs_by_rounding(
    waves: Path, tmp_path: Path, name: str, backend: str
) -> None:
    def run(out: Path, settings: dict[str, Any], backend: str) -> list[Any]:
        return [losses_and_norms(Mesh.describe(), waves, out, settings, backend)]

    compare(run, tmp_path, name, backend)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "backend", "layout"),
    [
        ("one step ahead", GRAPH_ALONE, Layout(domain=2)),
        *exhaustive(
            ("rollout", GRAPH_ALONE, Layout(domain=2)),
            ("published", GRAPH_ALONE, Layout(tensor=2)),
            ("rollout", "inductor", Layout(tensor=2)),
            ("recompute", "inductor", Layout(domain=2)),
        ),
    ],
    ids=str,
)
def test_on_ranks_that_share_a_sample_too(
    waves: Path, tmp_path: Path, pool: Pool, name: str, backend: str, layout: Layout
) -> None:
    def run(out: Path, settings: dict[str, Any], backend: str) -> list[Any]:
        work = losses_and_norms, layout, waves, out, settings, backend
        return pool.run(*work, deadline_seconds=600.0)

    compare(run, tmp_path, name, backend)


def test_without_a_compiler_one_sentence_says_so(waves: Path, tmp_path: Path) -> None:
    def nothing(*_: Any) -> Any:
        raise RuntimeError("No working C++ compiler found")

    torch._dynamo.reset()
    config = config_of(waves, Layout(), {"training": {"compile": True}})
    with (
        mock.patch.object(compiling, "BACKEND", nothing),
        pytest.raises(UserError, match=r"cannot compile for this device \(cpu: .*install a C\+\+"),
    ):
        TrainingLoop.begin(config, tmp_path / "run")

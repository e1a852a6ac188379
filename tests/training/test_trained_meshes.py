"""Any mesh trains as one rank does: real trainings, compared step by step and weight by weight."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet

from support.meshed import (
    EVEN_LEVELS,
    EVEN_LONGITUDES,
    LEVELS,
    LONGITUDES,
    MESHES,
    TrainedRun,
    TrainingOrder,
    by_order,
    distances,
    even_config,
    has_no_effect,
    stored,
    train_all,
    uneven_config,
)
from support.networks import mesh_name
from support.ranks import Pool
from support.selection import exhaustive
from support.waves import write_waves
from weathermixer.config import FORCING_NAMES, Config, Parallel
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import architecture_of
from weathermixer.planning.step_cost import step_cost
from weathermixer.planning.step_kind import StepKind
from weathermixer.runs.building import build_model
from weathermixer.runs.run import Run

ONE = Layout()
RAIN = "total_precipitation_6hr"
# Where arithmetic is narrower than float64, one mesh of each kind is enough.
NARROW = [layout for layout in MESHES if mesh_name(layout) in ("1x2x1", "1x2x2", "2x1x2")]
EVEN = [layout for layout in MESHES if layout.world_size in (2, 4)]
REPLICATED = [layout for layout in MESHES if layout.data > 1]

AVERAGED = {"average_decay": 0.6}
# A validation forecasts too.
FORECASTS = {"validation_leads": [6, 18], "validation_scores": ["rmse", "bias"]}
RECIPES: dict[str, dict[str, Any]] = {
    "increment": {"training": AVERAGED | FORECASTS},
    "state": {
        "model": {"prediction": "state", "overlap": 2, "smoothing": 2},
        "data": {"forcings": list(FORCING_NAMES), "diagnostic": [RAIN], "input_times": 2},
        "training": {
            "loss": "published",
            "error": "huber",
            "huber_threshold": 0.1,
            "small_scales": 0.3,
            "channel_weights": {"2m_temperature": 0.5, "temperature": 2.0, "temperature_850": 3.0},
            "optimizer": "adam",
            **AVERAGED,
            **FORECASTS,
        },
    },
    "float32": {"training": {"dtype": "float32"}},
    "bfloat16": {"training": {"dtype": "bfloat16"}},
    "exchanged": {"training": AVERAGED, "parallel": {"exchange_dtype": "bfloat16"}},
    "sharded": {"parallel": {"shard_optimizer": True}, "training": AVERAGED},
}
DOUBLE = ["increment", "state"]


class Trainings:
    """Trainings, each of which is run when a test first asks for one on its mesh."""

    def __init__(self, pool: Pool, folder: Path) -> None:
        self._pool, self._folder = pool, folder
        self._uneven = write_waves(
            folder / "uneven.zarr",
            levels=LEVELS,
            longitudes=LONGITUDES,
            pulse=8.0,
            diagnostic=(RAIN,),
        )
        self._even = write_waves(
            folder / "even.zarr", levels=EVEN_LEVELS, longitudes=EVEN_LONGITUDES, pulse=8.0
        )
        self._done: dict[tuple[Layout, str], TrainedRun] = {}

    def __call__(self, layout: Layout, recipe: str) -> TrainedRun:
        if (layout, recipe) not in self._done:
            out = self._folder / mesh_name(layout) / recipe
            order = TrainingOrder(self.config(layout, recipe), out)
            self._done[layout, recipe] = self._run(layout, order)
        return self._done[layout, recipe]

    def config(self, layout: Layout, recipe: str) -> Config:
        if recipe.startswith("even"):
            return even_config(self._even, layout, sharded=recipe.endswith("sharded"))
        sections = {name: dict(section) for name, section in RECIPES[recipe].items()}
        return uneven_config(self._uneven, layout, **sections)

    def resumed(self, begun: Layout, begun_as: str, layout: Layout, recipe: str) -> TrainedRun:
        """The last two steps of five, on a mesh, from another's checkpoint after three."""
        source = self(begun, begun_as).out
        out = self._folder / f"{mesh_name(begun)}-{begun_as}-to-{mesh_name(layout)}-{recipe}"
        shutil.copytree(source, out)
        shutil.rmtree(out / "checkpoints" / "step-00000005")
        return self._run(layout, TrainingOrder(self.config(layout, recipe), out, resume=True))

    def _run(self, layout: Layout, order: TrainingOrder) -> TrainedRun:
        ranks = (
            [train_all(Mesh.describe(), [order])]
            if layout == ONE
            else self._pool.run(train_all, layout, [order])
        )
        (trained,) = by_order([order], ranks)
        return trained


@pytest.fixture(scope="session")
def trainings(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    return Trainings(pool, tmp_path_factory.mktemp("meshes"))


# Two meshes show both axes, uneven shards and replicas.
SHOWN = ("1x2x2", "2x1x2")


def shown(layouts: list[Layout], meshes: Collection[str] = SHOWN) -> list[ParameterSet]:
    """Cases of meshes, of which most are left to the exhaustive tests."""
    cases = [pytest.param(layout) for layout in layouts if mesh_name(layout) in meshes]
    return cases + exhaustive(*(each for each in layouts if mesh_name(each) not in meshes))


@pytest.fixture(scope="module", params=shown(MESHES), ids=mesh_name)
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


on_narrow = pytest.mark.parametrize(
    "layout", shown(NARROW, ["1x2x2"]), ids=mesh_name, indirect=True
)
on_even = pytest.mark.parametrize("layout", shown(EVEN, ["2x1x2"]), ids=mesh_name, indirect=True)
on_replicated = pytest.mark.parametrize("layout", shown(REPLICATED), ids=mesh_name, indirect=True)


# --- the same function, the same training


@pytest.mark.parametrize("recipe", DOUBLE)
def test_losses_gradient_norms_and_scores_are_those_of_one_rank(
    trainings: Trainings, layout: Layout, recipe: str
) -> None:
    one, many = trainings(ONE, recipe).result, trainings(layout, recipe).result
    assert many.layout.at(0) == layout
    assert many.parameters == one.parameters
    assert many.loss[0] == pytest.approx(one.loss[0], rel=1e-12)
    assert many.loss == pytest.approx(one.loss, rel=1e-10)
    assert many.grad_norm == pytest.approx(one.grad_norm, rel=1e-10)
    ours, theirs = many.validation[5], one.validation[5]
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-10)
    assert ours.relative_rmse == pytest.approx(theirs.relative_rmse, rel=1e-10)
    assert theirs.scores.keys() == {"rmse", "bias"}
    for metric, by_channel in theirs.scores.items():
        for channel, by_lead in by_channel.items():  # of states in float32
            assert by_lead.keys() == {"6", "18"}
            assert ours.scores[metric][channel] == pytest.approx(by_lead, rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("recipe", DOUBLE)
def test_every_rank_reports_the_same_training(
    trainings: Trainings, layout: Layout, recipe: str
) -> None:
    ranks = [rank.result for rank in trainings(layout, recipe).ranks]
    for other in ranks[1:]:
        assert (other.loss, other.grad_norm) == (ranks[0].loss, ranks[0].grad_norm)
        assert other.validation == ranks[0].validation
        assert other.bytes_sent_per_step == ranks[0].bytes_sent_per_step


@pytest.mark.parametrize("recipe", DOUBLE)
def test_initial_weights_are_the_bits_of_one_rank(
    trainings: Trainings, layout: Layout, recipe: str
) -> None:
    one, many = trainings(ONE, recipe).initial(), trainings(layout, recipe).initial()
    assert one.keys() == many.keys()
    assert [name for name in one if not torch.equal(one[name], many[name])] == []


@pytest.mark.parametrize("recipe", DOUBLE)
def test_weights_are_those_of_one_rank_and_where_ranks_share_them_the_same_bits(
    trainings: Trainings, layout: Layout, recipe: str
) -> None:
    one, many = trainings(ONE, recipe), trainings(layout, recipe)
    found = distances(many.final(), one.final())
    assert max(found.values()) < 1e-10, found
    # Every parameter that the loss depends on has moved, so that this says something.
    moved = distances(many.final(), many.initial())
    assert min(moved.values()) > 1e-4, moved


@on_narrow
def test_in_float32_weights_and_losses_are_those_of_one_rank_to_rounding(
    trainings: Trainings, layout: Layout
) -> None:
    one, many = trainings(ONE, "float32"), trainings(layout, "float32")
    assert many.result.loss == pytest.approx(one.result.loss, rel=1e-5)
    assert many.result.grad_norm == pytest.approx(one.result.grad_norm, rel=1e-5)
    found = distances(many.final(), one.final())
    assert max(found.values()) < 1e-5, found


@on_narrow
def test_in_bfloat16_errors_are_as_large_as_those_of_one_rank(
    trainings: Trainings, layout: Layout
) -> None:
    """Compared are losses and Adam's averages of gradients: steps would make much of little."""

    def errors(trained: TrainedRun) -> tuple[float, float]:
        exact = trainings(ONE, "increment").result
        losses = np.array(trained.result.loss) / exact.loss - 1.0
        truth, found = stored(exact.checkpoint), stored(trained.result.checkpoint)
        square, whole = (
            sum(
                float(difference(name).square().sum())
                for name in truth
                if name.startswith("optimizer.exp_avg.") and not has_no_effect(name)
            )
            for difference in (lambda name: found[name] - truth[name], lambda name: truth[name])
        )
        return float(np.abs(losses).max()), float(np.sqrt(square / whole))

    one, many = errors(trainings(ONE, "bfloat16")), errors(trainings(layout, "bfloat16"))
    assert min(one) > 1e-5, "arithmetic in bfloat16 leaves a trace"
    assert many[0] < 3.0 * one[0]
    # Partial products are rounded before they are added, and once more after it.
    assert many[1] < 3.0 * one[1]


@on_narrow
def test_what_is_exchanged_in_bfloat16_costs_little_and_as_many_bytes_as_planned(
    trainings: Trainings, layout: Layout
) -> None:
    one, alone = (trainings(ONE, name).result for name in ("increment", "exchanged"))
    assert alone.loss == one.loss and alone.grad_norm == one.grad_norm, "nothing travels"
    wide, narrow = (trainings(layout, name).result for name in ("increment", "exchanged"))
    assert narrow.loss != pytest.approx(wide.loss, rel=1e-9)
    assert narrow.loss == pytest.approx(wide.loss, rel=0.01)
    pairs = zip(narrow.bytes_sent_per_step, wide.bytes_sent_per_step, strict=True)
    assert all(sent < whole for sent, whole in pairs)
    check_cost(trainings, layout, "exchanged", torch.bfloat16)


@on_replicated
def test_dividing_the_optimizer_changes_nothing_but_rounding(
    trainings: Trainings, layout: Layout
) -> None:
    """The gradient's norm is summed in other parts, by which it is clipped."""
    whole, divided = trainings(layout, "increment"), trainings(layout, "sharded")
    assert divided.result.loss == pytest.approx(whole.result.loss, rel=1e-13)
    assert max(distances(divided.final(), whole.final()).values()) < 1e-13


# --- checkpoints


def names_of(trained: TrainedRun) -> dict[str, tuple[int, ...]]:
    scalars = ("progress.step", "progress.samples", "averaging.steps")
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(scalars, ())
    for name, parameter in trained.initial().items():
        for prefix in ("model", "optimizer.exp_avg", "optimizer.exp_avg_sq", "average"):
            shapes[f"{prefix}.{name}"] = tuple(parameter.shape)
    return shapes


@pytest.mark.parametrize("recipe", ["increment", "sharded"])
def test_a_checkpoint_is_that_of_one_rank(
    trainings: Trainings, layout: Layout, recipe: str
) -> None:
    if recipe == "sharded" and layout not in REPLICATED:
        recipe = "state"
    one = trainings(ONE, "increment" if recipe == "sharded" else recipe)
    many = trainings(layout, recipe)
    expected, found = stored(one.result.checkpoint), stored(many.result.checkpoint)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == names_of(one)
    assert int(found["progress.step"]) == 5
    assert int(found["progress.samples"]) == 20
    assert int(found["averaging.steps"]) == 5
    final = many.final()
    assert [name for name in final if not torch.equal(found[f"model.{name}"], final[name])] == []
    assert max(distances(found, expected).values()) < 1e-10


def test_the_same_mesh_goes_on_to_the_same_bits(trainings: Trainings, layout: Layout) -> None:
    recipe = "sharded" if layout in REPLICATED else "increment"
    whole = trainings(layout, recipe)
    resumed = trainings.resumed(layout, recipe, layout, recipe)
    assert (resumed.result.start_step, resumed.result.loss) == (3, whole.result.loss[3:])
    assert _files(resumed.result.checkpoint) == _files(whole.result.checkpoint)


def _files(checkpoint: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in checkpoint.iterdir()}


# Each continues on the second mesh, in the order in which these are asked for anyway.
CHANGES = [
    ("1x3x1", "state", "1x1x2", "state"),
    ("1x1x3", "increment", "2x1x1", "sharded"),
    ("1x1x1", "increment", "1x2x2", "increment"),
    ("2x1x1", "sharded", "1x4x1", "increment"),
    ("2x1x2", "sharded", "2x2x1", "sharded"),
    ("1x2x2", "state", "1x3x2", "state"),
    ("1x2x2", "increment", "1x1x1", "increment"),
    ("2x1x2", "sharded", "1x1x1", "increment"),
    ("1x3x2", "state", "1x1x1", "state"),
]


@pytest.mark.parametrize(
    ("layout", "change"),
    [
        (next(mesh for mesh in (ONE, *MESHES) if mesh_name(mesh) == change[2]), change)
        for change in CHANGES
    ],
    ids=["-".join(change) for change in CHANGES],
    indirect=["layout"],
)
def test_another_mesh_goes_on_as_one_never_interrupted(
    trainings: Trainings, layout: Layout, change: tuple[str, str, str, str]
) -> None:
    begun = next(mesh for mesh in (ONE, *MESHES) if mesh_name(mesh) == change[0])
    resumed = trainings.resumed(begun, change[1], layout, change[3])
    whole = trainings(ONE, "increment" if change[3] == "sharded" else change[3])
    assert resumed.result.start_step == 3
    assert resumed.result.loss == pytest.approx(whole.result.loss[3:], rel=1e-10)
    assert max(distances(resumed.final(), whole.final()).values()) < 1e-10
    found, expected = stored(resumed.result.checkpoint), stored(whole.result.checkpoint)
    assert max(distances(found, expected).values()) < 1e-10


# --- what each rank holds, reads, computes and sends


@on_even
def test_each_rank_holds_and_reads_its_share(trainings: Trainings, layout: Layout) -> None:
    one, many = trainings(ONE, "even").result, trainings(layout, "even").result
    whole = 4 * one.parameters
    assert one.parameter_bytes == [whole]
    for held in many.parameter_bytes:
        assert held == pytest.approx(whole / layout.ways, rel=0.01)
    assert many.optimizer_bytes == [2 * held for held in many.parameter_bytes]
    read = one.bytes_read_per_step[0] // layout.world_size
    assert many.bytes_read_per_step == [read] * layout.world_size


@on_even
def test_the_optimizer_is_divided_among_replicas_when_asked(
    trainings: Trainings, layout: Layout
) -> None:
    whole = trainings(layout, "even").result.optimizer_bytes
    divided = trainings(layout, "even-sharded").result.optimizer_bytes
    assert divided == pytest.approx([held / layout.data for held in whole], rel=0.01)


@on_even
def test_every_rank_computes_as_much(trainings: Trainings, layout: Layout) -> None:
    one, many = trainings(ONE, "even").result, trainings(layout, "even").result
    assert max(many.flops_per_step) <= 1.01 * min(many.flops_per_step)
    assert sum(many.flops_per_step) == pytest.approx(one.flops_per_step[0], rel=1e-3)


@pytest.mark.parametrize("recipe", DOUBLE)
def test_what_is_sent_and_computed_is_what_the_cost_model_says(
    trainings: Trainings, layout: Layout, recipe: str
) -> None:
    check_cost(trainings, layout, recipe)


def check_cost(
    trainings: Trainings, layout: Layout, recipe: str, exchange_dtype: torch.dtype | None = None
) -> None:
    trained = trainings(layout, recipe)
    config = trainings.config(layout, recipe)
    normalisation = Run.open(trained.out).normalisation
    training = config.training
    architecture = architecture_of(config.data, config.model, normalisation.grid)
    for rank in range(layout.world_size):
        mesh = Mesh.describe(layout.at(rank)).exchanging(exchange_dtype)
        model = build_model(architecture, training, normalisation, mesh=mesh)
        costs = [
            step_cost(model, StepKind.of(training, Parallel(), lengths=training.lengths_at(step)))
            for step in range(5)
        ]
        sent = sum(cost.bytes_sent + _sent_besides(layout.at(rank), model) for cost in costs)
        assert trained.result.bytes_sent_per_step[rank] == sent // 5
        multiply_adds = sum(cost.multiply_adds for cost in costs)
        assert trained.result.flops_per_step[rank] == 2 * multiply_adds // 5


def _sent_besides(layout: Layout, model: torch.nn.Module) -> int:
    """Four numbers summed over every axis, and gradients of weights summed over replicas."""
    replicas = layout.data
    numbers = 2 * (replicas - 1) * 4 // replicas + 4 * (layout.domain - 1 + layout.tensor - 1)
    for weight in model.parameters():
        if weight.ndim == 2:  # those of other dimensions are in the cost model, as shared ones
            rows, columns = weight.shape
            # To each other replica its rows, then the sum of those here to all; equally many each.
            numbers += 2 * (replicas - 1) * math.ceil(rows / replicas) * columns
    return 8 * numbers

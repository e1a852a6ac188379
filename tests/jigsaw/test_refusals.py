"""What would give a wrong result, or wait for ever, is refused in a sentence that says why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from support.networks import UNEVEN, network_on, whole_parameters
from support.ranks import Pool
from weathermixer.jigsaw.cutting import Cut, CutLinear, CutNorm, CutTensors, parallelize
from weathermixer.jigsaw.gradients import JigsawError
from weathermixer.jigsaw.layers import LayerNorm, Linear, RMSNorm, initialise
from weathermixer.jigsaw.layout import Dimension, Layout, LayoutError
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.replicas import Replicas

MESH = Mesh.describe(Layout(domain=2, tensor=2))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, Cut], str]] = {
    "a module that the table lacks": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Conv1d(4, 4, 1)),
        {"0": CutLinear(5)},
        r"^1\.weight, 1\.bias would differ between ranks",
    ),
    "a name that nothing has": (
        lambda: nn.Sequential(nn.Linear(4, 4)),
        {"0": CutLinear(5), "blocks.*": CutLinear(5)},
        r"no module 'blocks\.\*', which the table names: it has 0",
    ),
    "one parameter of two modules": (
        tied,
        {"0": CutLinear(5), "1": CutLinear(5)},
        r"1\.weight and 0\.weight are one parameter of two modules",
    ),
    "another kind of module": (
        lambda: nn.Sequential(nn.LayerNorm(4)),
        {"0": CutLinear(5)},
        r"0 is a LayerNorm, but the table cuts it as a torch\.nn\.Linear",
    ),
    "another kind of model": (
        lambda: nn.Linear(4, 4),
        {"": CutNorm(5)},
        r"the model is a Linear, but the table cuts it as a torch\.nn\.LayerNorm",
    ),
    "a norm over several dimensions": (
        lambda: nn.Sequential(nn.LayerNorm((3, 4))),
        {"0": CutNorm(5)},
        r"0 normalises over several dimensions",
    ),
    "a norm without gains": (
        lambda: nn.Sequential(nn.LayerNorm(4, elementwise_affine=False)),
        {"0": CutNorm(5)},
        r"0 has no gains or no shifts",
    ),
    "a parameter that is not among a module's tensors": (
        lambda: nn.Sequential(nn.Bilinear(2, 2, 2)),
        {"0": CutTensors({"bias": [None]})},
        r"^0\.weight would differ between ranks",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_does_not_fit_its_model_is_refused_by_name(case: str) -> None:
    model, table, message = REFUSED[case]
    with pytest.raises(JigsawError, match=message):
        parallelize(model(), MESH, table)


def test_a_dimension_of_another_size_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(LayoutError, match="0 has 4 out_features, but the table cuts 5"):
        parallelize(model, MESH, {"0": CutLinear(5, out_features=Dimension((5,)))})


def test_only_what_can_be_turned_is() -> None:
    with pytest.raises(LayoutError, match="scheme turn turns a hidden dimension of single"):
        Linear(4, Dimension((2, 2)), MESH, rows=5, scheme="turn")


@pytest.mark.parametrize("shape", [(3,), (2, 2), (3, 1, 4), (4, 2)], ids=str)
def test_an_input_of_another_shape_is_refused_with_the_one_that_is_right(
    shape: tuple[int, ...],
) -> None:
    linear = Linear(4, 4, MESH, rows=5)
    with pytest.raises(LayoutError, match=r"takes 3 rows of 2 features on this rank, as \(rows"):
        linear(torch.ones(shape))


@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_a_mesh_that_only_describes_its_ranks_runs_nothing(
    kind: type[LayerNorm] | type[RMSNorm],
) -> None:
    for module in (Linear(4, 4, MESH, rows=5), kind(4, MESH, rows=5)):
        initialise(module, seed=0)
        with pytest.raises(LayoutError, match=r"only describes its 2 ranks along (domain|tensor)"):
            module(torch.ones(3, 2))


def wrap_as_replicas(mesh: Mesh) -> tuple[str, bool]:
    """What is said, and whether the weights are as before."""
    network = network_on(mesh, UNEVEN, whole=whole_parameters(UNEVEN))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(float(mesh.layout.rank))
    with pytest.raises(JigsawError) as refused:
        DistributedDataParallel(network)
    unchanged = all(
        bool((parameter == mesh.layout.rank).all()) for parameter in network.parameters()
    )
    return str(refused.value), unchanged


def test_pytorchs_replicas_are_refused_before_they_overwrite_anything(pool: Pool) -> None:
    for message, unchanged in pool.run(wrap_as_replicas, Layout(domain=2)):
        assert message.startswith("DistributedDataParallel would overwrite every rank's part")
        assert unchanged


def test_replicas_of_a_plain_model_are_refused() -> None:
    with pytest.raises(JigsawError, match=r"0\.weight, 0\.bias would differ between ranks"):
        Replicas(nn.Sequential(nn.Linear(2, 2)), MESH)


def test_only_you_can_initialise_parameters_of_a_module_of_your_own() -> None:
    model = nn.Sequential(nn.Bilinear(2, 2, 2))
    cut = parallelize(
        model, MESH, {"0": CutTensors({"weight": [None, None, None], "bias": [None]})}
    )
    with pytest.raises(JigsawError, match="0 has parameters of its own"):
        initialise(cut, seed=0)

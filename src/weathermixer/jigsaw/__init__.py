"""Jigsaw: networks cut over a mesh of ranks. Knows tensors and ranks, and nothing of weather.

A plain PyTorch model becomes a rank's part of it with :func:`parallelize`; docs/jigsaw.md derives
how its pieces compute together, and docs/jigsaw-library.md shows how to use it::

    from weathermixer import jigsaw

    with jigsaw.torchrun_mesh(domain=2, tensor=2) as mesh:
        model = jigsaw.parallelize(model, mesh, {"up": jigsaw.CutLinear(rows=500), ...})

Names are imported when they are first used: what plans a mesh (``Layout``) does without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weathermixer.jigsaw.cost import Cost as Cost
    from weathermixer.jigsaw.cost import cheapest_pair as cheapest_pair
    from weathermixer.jigsaw.cost import cheapest_scheme as cheapest_scheme
    from weathermixer.jigsaw.cost import layers_cost as layers_cost
    from weathermixer.jigsaw.cost import shared_cost as shared_cost
    from weathermixer.jigsaw.cutting import Cut as Cut
    from weathermixer.jigsaw.cutting import CutLinear as CutLinear
    from weathermixer.jigsaw.cutting import CutNorm as CutNorm
    from weathermixer.jigsaw.cutting import CutTensors as CutTensors
    from weathermixer.jigsaw.cutting import parallelize as parallelize
    from weathermixer.jigsaw.dropout import Dropout as Dropout
    from weathermixer.jigsaw.dropout import set_dropout_key as set_dropout_key
    from weathermixer.jigsaw.exchange import total_over as total_over
    from weathermixer.jigsaw.fake import fake_mesh as fake_mesh
    from weathermixer.jigsaw.gradients import JigsawError as JigsawError
    from weathermixer.jigsaw.layers import GatherRows as GatherRows
    from weathermixer.jigsaw.layers import LayerNorm as LayerNorm
    from weathermixer.jigsaw.layers import Linear as Linear
    from weathermixer.jigsaw.layers import MeanRows as MeanRows
    from weathermixer.jigsaw.layers import RMSNorm as RMSNorm
    from weathermixer.jigsaw.layers import feed_forward as feed_forward
    from weathermixer.jigsaw.layers import initialise as initialise
    from weathermixer.jigsaw.layout import Block as Block
    from weathermixer.jigsaw.layout import Dimension as Dimension
    from weathermixer.jigsaw.layout import Layout as Layout
    from weathermixer.jigsaw.layout import LayoutError as LayoutError
    from weathermixer.jigsaw.layout import layouts as layouts
    from weathermixer.jigsaw.losses import cross_entropy as cross_entropy
    from weathermixer.jigsaw.losses import mean_squared_error as mean_squared_error
    from weathermixer.jigsaw.mesh import Axis as Axis
    from weathermixer.jigsaw.mesh import Mesh as Mesh
    from weathermixer.jigsaw.mesh import RankLost as RankLost
    from weathermixer.jigsaw.mesh import connect as connect
    from weathermixer.jigsaw.mesh import torchrun_mesh as torchrun_mesh
    from weathermixer.jigsaw.operations import all_gather as all_gather
    from weathermixer.jigsaw.operations import all_reduce as all_reduce
    from weathermixer.jigsaw.operations import reduce_scatter as reduce_scatter
    from weathermixer.jigsaw.pieces import Piece as Piece
    from weathermixer.jigsaw.pieces import local_parameters as local_parameters
    from weathermixer.jigsaw.replicas import Replicas as Replicas
    from weathermixer.jigsaw.tensors import block_of as block_of
    from weathermixer.jigsaw.tensors import cut as cut
    from weathermixer.jigsaw.tensors import gather as gather
    from weathermixer.jigsaw.tensors import join as join
    from weathermixer.jigsaw.tensors import largest_difference as largest_difference
    from weathermixer.jigsaw.tensors import load_whole as load_whole
    from weathermixer.jigsaw.tensors import own_part as own_part
    from weathermixer.jigsaw.tensors import whole_gradients as whole_gradients
    from weathermixer.jigsaw.tensors import whole_state as whole_state
    from weathermixer.jigsaw.weights import kept_weights as kept_weights

_NAMES_BY_MODULE = {
    "cost": ("Cost", "cheapest_pair", "cheapest_scheme", "layers_cost", "shared_cost"),
    "dropout": ("Dropout", "set_dropout_key"),
    "exchange": ("total_over",),
    "fake": ("fake_mesh",),
    "gradients": ("JigsawError",),
    "layers": (
        "GatherRows",
        "LayerNorm",
        "Linear",
        "feed_forward",
        "MeanRows",
        "RMSNorm",
        "initialise",
    ),
    "layout": ("Block", "Dimension", "Layout", "LayoutError", "layouts"),
    "losses": ("cross_entropy", "mean_squared_error"),
    "mesh": ("Axis", "Mesh", "RankLost", "connect", "torchrun_mesh"),
    "operations": ("all_gather", "all_reduce", "reduce_scatter"),
    "cutting": ("Cut", "CutLinear", "CutNorm", "CutTensors", "parallelize"),
    "pieces": ("Piece", "local_parameters"),
    "replicas": ("Replicas",),
    "tensors": (
        "block_of",
        "cut",
        "gather",
        "join",
        "largest_difference",
        "load_whole",
        "own_part",
        "whole_gradients",
        "whole_state",
    ),
    "weights": ("kept_weights",),
}
_MODULES = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

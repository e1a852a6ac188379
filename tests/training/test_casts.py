"""How often a step casts a weight to the arithmetic of the products: once, or once for each pass.

Blocks that are computed again cast again: to keep what was cast would take an eighth of the memory
of weights and optimizer, which recomputing is there to save.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from support.ranks import Pool
from support.selection import exhaustive
from support.waves import wave_config
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.training.loop import TrainingLoop

ROLLOUT = 3


class _Casts(TorchDispatchMode):
    """Counts how often the memory of each of some tensors is cast to bfloat16."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.names = {tensor.data_ptr(): name for name, tensor in tensors.items()}
        self.count = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_cast = func.overloadpacket is torch.ops.aten._to_copy
        if is_cast and (kwargs or {}).get("dtype") == torch.bfloat16:
            self.count[self.names.get(args[0].data_ptr(), "others")] += 1
        return func(*args, **(kwargs or {}))


def casts_of_a_step(mesh: Mesh, waves: Path, out: Path, training: dict[str, Any]) -> Counter[str]:
    layout = mesh.layout
    config = wave_config(
        waves,
        training={"rollout": ROLLOUT, "dtype": "bfloat16", **training},
        parallel={"domain": layout.domain, "tensor": layout.tensor},
    )
    with TrainingLoop.begin(config, out) as loop:
        loop.step()
        weights = {
            name: parameter.detach()
            for name, parameter in loop.state.model.named_parameters()
            if parameter.ndim > 1
        }
        with _Casts(weights) as casts:
            loop.step()
    return Counter({name: casts.count[name] for name in weights})


@pytest.mark.parametrize(
    "training",
    [
        {"recompute": "blocks"},
        *exhaustive(
            {"recompute": "none"},
            {"recompute": "stages", "latent_rollout": 2, "instance_batch": 3, "micro_batch": 1},
        ),
    ],
    ids=str,
)
def test_a_weight_is_cast_once_a_step_and_in_blocks_computed_again_once_a_pass(
    waves: Path, tmp_path: Path, pool: Pool, training: dict[str, Any]
) -> None:
    for rank, counted in enumerate(
        pool.run(casts_of_a_step, Layout(domain=2), waves, tmp_path / "run", training)
    ):
        assert len(counted) == 2 * 4 + 2, rank
        for name, count in counted.items():
            of_block = 2 * ROLLOUT if training["recompute"] == "blocks" else 1
            expected = {"encoder": 1, "decoder": 1, "blocks": of_block}[name.partition(".")[0]]
            assert count == expected, name

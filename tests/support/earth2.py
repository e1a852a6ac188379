"""Earth2Studio's workflows on ranks, as a program on each of them runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weathermixer.earth2studio import CutEarth2Model
from weathermixer.errors import UserError
from weathermixer.jigsaw.mesh import Mesh


def lead_workflow(
    mesh: Mesh,
    path: Path,
    source: Path,
    times: Sequence[str],
    steps: int,
    members: int | None = None,
) -> dict[str, NDArray[Any]] | str | None:
    """What a rank does: the workflow on the first, which has its fields, or what refuses it."""
    sizes = [f"parallel.{axis}={getattr(mesh.layout, axis)}" for axis in ("domain", "tensor")]
    model = CutEarth2Model(path, overrides=sizes)
    try:
        return model.lead(lambda: _fields(model, source, times, steps, members))
    except UserError as error:
        return str(error)


def _fields(
    model: CutEarth2Model, source: Path, times: Sequence[str], steps: int, members: int | None
) -> dict[str, NDArray[Any]]:
    # On the first rank alone: it takes half a minute to import.
    from earth2studio.data import DataArrayFile
    from earth2studio.io import KVBackend
    from earth2studio.perturbation import Zero
    from earth2studio.run import deterministic, ensemble

    data, writer = DataArrayFile(str(source)), KVBackend()
    when = [np.datetime64(time, "ns") for time in times]
    if members is None:
        deterministic(when, steps, model, data, writer, verbose=False)
    else:
        ensemble(when, steps, members, model, data, writer, Zero(), batch_size=2, verbose=False)
    return {name: np.asarray(writer.root[name]) for name in model.input_coords()["variable"]}


def alternate(
    mesh: Mesh, path: Path, states: NDArray[np.float32], times: Sequence[str], steps: int
) -> list[NDArray[np.float32]] | None:
    """What a rank does: forecasts from two times, by turns; the last states of both."""
    import torch

    sizes = [f"parallel.{axis}={getattr(mesh.layout, axis)}" for axis in ("domain", "tensor")]
    model = CutEarth2Model(path, overrides=sizes)

    def by_turns() -> list[NDArray[np.float32]]:
        begun = []
        for state, time in zip(states, times, strict=True):
            coords = model.input_coords()
            del coords["batch"]
            coords["time"] = np.array([time], dtype="datetime64[ns]")
            begun.append(model.create_iterator(torch.from_numpy(state)[None], coords))
        for _ in range(steps):
            for iterator in begun:
                next(iterator)
        first = next(begun[0])[0].numpy()
        begun[0].close()  # type: ignore[attr-defined]
        return [first, next(begun[1])[0].numpy()]

    return model.lead(by_turns)

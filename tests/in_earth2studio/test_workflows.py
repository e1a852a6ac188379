"""Earth2Studio's own workflows, sources and writers run exports, and forecast the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from markdown_it import MarkdownIt

from support.earth2 import (
    ROOT,
    STEPS,
    VARIABLES,
    e2s_times,
    field,
    initial,
    our_forecast,
    require_members,
)
from weathermixer.earth2studio import Earth2Model
from weathermixer.export import export_run

# They take half a minute to import.
pytestmark = pytest.mark.exhaustive


def test_the_deterministic_workflow_of_an_export_is_our_forecast(
    run: Path, waves: Path, source: Path, tmp_path: Path
) -> None:
    from earth2studio.data import DataArrayFile
    from earth2studio.io import ZarrBackend
    from earth2studio.models.px import PrognosticModel
    from earth2studio.run import deterministic

    export_run(run, tmp_path / "model.safetensors")
    model = Earth2Model(tmp_path / "model.safetensors")
    assert isinstance(model, PrognosticModel)
    assert str(model) == "weathermixer"
    writer = ZarrBackend(str(tmp_path / "theirs.zarr"))
    deterministic(e2s_times(), STEPS, model, DataArrayFile(str(source)), writer, verbose=False)
    ours = our_forecast(run, waves, tmp_path)
    theirs = xr.open_zarr(tmp_path / "theirs.zarr", consolidated=False, decode_timedelta=True)
    hours = theirs["lead_time"].values / np.timedelta64(1, "h")
    assert hours.tolist() == [0, 6, 12, 18]
    for name in VARIABLES:
        np.testing.assert_array_equal(theirs[name][:, :1], initial(source, name))
        np.testing.assert_array_equal(theirs[name][:, 1:], field(ours, name))


def test_the_ensemble_workflow_has_the_members_of_our_ensemble(
    noisy_run: Path, waves: Path, source: Path, tmp_path: Path
) -> None:
    from earth2studio.data import DataArrayFile
    from earth2studio.io import KVBackend
    from earth2studio.perturbation import Zero
    from earth2studio.run import deterministic, ensemble

    model, writer = Earth2Model(noisy_run), KVBackend()
    data = DataArrayFile(str(source))
    ensemble(e2s_times(), STEPS, 3, model, data, writer, Zero(), batch_size=2, verbose=False)
    require_members(writer.root, our_forecast(noisy_run, waves, tmp_path, members=3))
    singles = [KVBackend(), KVBackend()]
    deterministic(e2s_times(), STEPS, model, data, singles[0], verbose=False)
    deterministic(e2s_times(), STEPS, Earth2Model(noisy_run), data, singles[1], verbose=False)
    for name in VARIABLES:
        # What drew for members draws nothing afterwards.
        np.testing.assert_array_equal(singles[0].root[name], singles[1].root[name])


@pytest.mark.parametrize("level", [2, 1])
def test_a_workflow_goes_on_from_earth2studios_checkpoint(
    noisy_run: Path, source: Path, tmp_path: Path, level: int
) -> None:
    from earth2studio.data import DataArrayFile
    from earth2studio.io import KVBackend
    from earth2studio.perturbation import Zero
    from earth2studio.run import ensemble
    from earth2studio.utils.checkpoint import Checkpoint

    data = DataArrayFile(str(source))

    def go(writer: Any, **more: Any) -> None:
        # Five members in batches of two: it is stopped in the second, and two are to come.
        model = Earth2Model(noisy_run)
        ensemble(e2s_times(), STEPS, 5, model, data, writer, Zero(), 2, verbose=False, **more)

    class Stops(KVBackend):
        writes = 0

        def write(self, *arguments: Any) -> None:
            Stops.writes += 1
            if Stops.writes == STEPS + 4:
                raise InterruptedError
            super().write(*arguments)

    whole, stopped = KVBackend(), Stops()
    go(whole)
    place: dict[str, Any] = {"path": tmp_path / "kept", "level": level}
    with pytest.raises(InterruptedError):
        go(stopped, checkpoint=Checkpoint("test", **place))
    go(stopped, checkpoint=Checkpoint("test", **place).select(-1))
    for name in VARIABLES:
        expected = np.asarray(whole.root[name])
        tolerance = 2e-5 * expected.std()
        np.testing.assert_allclose(stopped.root[name], expected, rtol=0, atol=tolerance)


def test_the_programs_of_the_document_run_as_shown(
    run: Path, waves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = MarkdownIt().parse((ROOT / "docs/earth2studio.md").read_text(encoding="utf-8"))
    shown = [token.content for token in tokens if token.type == "fence" and token.info == "python"]
    forecasts, source, on_ranks = shown
    monkeypatch.chdir(tmp_path)
    export_run(run, tmp_path / "model.safetensors")
    (tmp_path / "planet.zarr").symlink_to(waves)
    for program in (source, forecasts, on_ranks):
        exec(compile(program, "shown", "exec"), {"__name__": "shown"})
    one, cut = (xr.open_zarr(f"{name}.zarr", consolidated=False) for name in ("forecast", "cut"))
    assert one.sizes == {"time": 1, "lead_time": 5, "lat": 8, "lon": 16}
    xr.testing.assert_equal(one, cut)
    assert xr.open_zarr("ensemble.zarr", consolidated=False).sizes["ensemble"] == 3

"""Ranks hold a model of Earth2Studio together, of which its workflows know nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from support.earth2 import (
    STEPS,
    TIMES,
    VARIABLES,
    alternate,
    field,
    given,
    initial,
    lead_workflow,
    narrow_mesh,
    our_forecast,
    require_members,
    step_without_lead,
)
from support.networks import mesh_name
from support.ranks import Pool
from support.selection import exhaustive
from support.waves import wave_config
from weathermixer.earth2studio import Earth2Model
from weathermixer.jigsaw.layout import Layout
from weathermixer.model.architecture import architecture_of


# The first of the ranks takes half a minute to import the workflows.
@pytest.mark.exhaustive
def test_ranks_are_refused_together(pool: Pool, run: Path, source: Path, tmp_path: Path) -> None:
    broken = xr.open_dataarray(source).load()
    broken[20:22, :, :, 15] = np.nan
    broken.to_netcdf(tmp_path / "broken.nc")
    times = [str(time)[:13] for time in broken["time"].values[[21]]]
    said, other = pool.run(
        lead_workflow, Layout(domain=2), run, tmp_path / "broken.nc", times, STEPS
    )
    assert said.endswith("give states in SI units without gaps")
    assert other is None


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "layout",
    [
        Layout(domain=2, tensor=1),
        Layout(domain=1, tensor=2),
        Layout(domain=3, tensor=1),
        Layout(domain=2, tensor=2),
    ],
    ids=mesh_name,
)
def test_ranks_make_our_forecast_of_a_network_that_is_cut(
    pool: Pool, noisy_run: Path, waves: Path, source: Path, tmp_path: Path, layout: Layout
) -> None:
    made, *others = pool.run(lead_workflow, layout, noisy_run, source, TIMES, STEPS)
    assert others == [None] * len(others)
    ours = our_forecast(noisy_run, waves, tmp_path)
    for name in VARIABLES:
        np.testing.assert_array_equal(made[name][:, :1], initial(source, name))
        expected = field(ours, name)
        tolerance = 2e-5 * expected.std()
        np.testing.assert_allclose(made[name][:, 1:], expected, rtol=0, atol=tolerance)
    made, *_ = pool.run(lead_workflow, layout, noisy_run, source, TIMES, STEPS, 3)
    require_members(made, our_forecast(noisy_run, waves, tmp_path, members=3))


@pytest.mark.parametrize(
    "layout", [Layout(domain=2), *exhaustive(Layout(tensor=3), Layout(domain=3))], ids=mesh_name
)
def test_ranks_step_a_network_that_is_cut_also_by_turns(
    pool: Pool, run: Path, waves: Path, source: Path, tmp_path: Path, layout: Layout
) -> None:
    x, _ = given(Earth2Model(run), source)
    made, *others = pool.run(alternate, layout, run, x.numpy(), TIMES, STEPS)
    assert others == [None] * len(others)
    ours = our_forecast(run, waves, tmp_path)
    for place, name in enumerate(VARIABLES):
        expected = field(ours, name)[:, -1]
        got = np.stack([state[0, 0, place] for state in made])
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * expected.std())


def test_a_step_that_the_other_ranks_would_not_hear_of_is_refused(
    pool: Pool, run: Path, source: Path
) -> None:
    x, _ = given(Earth2Model(run), source)
    for said in pool.run(step_without_lead, Layout(domain=2), run, x[0].numpy()):
        assert said.startswith("the model is cut over ranks, which step it together: give the")


def test_ranks_exchange_what_the_training_did(pool: Pool, waves: Path) -> None:
    for dtype, expected in ((None, None), ("bfloat16", torch.bfloat16)):
        config = wave_config(waves, parallel={"domain": 2, "exchange_dtype": dtype})
        architecture = architecture_of(config.data, config.model, (8, 16))
        found = pool.run(narrow_mesh, Layout(domain=2), config, architecture)
        assert found == [expected] * 2

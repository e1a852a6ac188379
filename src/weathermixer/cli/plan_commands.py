"""The command ``plan``: what a training takes, known before it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weathermixer.cli.arguments import (
    OVERRIDES,
    PATH,
    GridShape,
    MeshShape,
    WithSettings,
    as_json,
    config_argument,
    machine_option,
    overrides_argument,
    print_result,
)
from weathermixer.console import say, waiting_for


@click.command(cls=WithSettings, context_settings=OVERRIDES)
@config_argument
@overrides_argument
@click.option("--gpus", type=click.IntRange(1), required=True, help="Ranks, in all.")
@machine_option
@click.option("--grid", type=GridShape(), help="Grid to plan for.  [default: that of the store]")
@click.option("--layout", type=MeshShape(), help="Plan this mesh alone.")
@click.option("--scheme", default="jigsaw", show_default=True, help="Parallel scheme.")
@click.option("--no-loading", is_flag=True, help="Plan without the reading of samples.")
@click.option("--dry-run", is_flag=True, help="Run a step of the best mesh on one fake rank too.")
@click.option("--chart", type=PATH, metavar="FILE", help="Draw strong and weak scaling.")
@as_json
def plan(
    config: Path,
    overrides: tuple[str, ...],
    gpus: int,
    machine: str | None,
    grid: tuple[int, int] | None,
    layout: tuple[int, int, int] | None,
    scheme: str,
    no_loading: bool,
    dry_run: bool,
    chart: Path | None,
    json: bool,
) -> None:
    """Tell what CONFIG takes on every mesh of so many GPUs, before anything runs."""
    with waiting_for("the plan"):
        from weathermixer.config import read_config
        from weathermixer.planning.choosing import layout_of, make_planner
        from weathermixer.planning.plan_text import render_plan

        planner = make_planner(
            read_config(config, overrides),
            machine=machine,
            grid=grid,
            scheme=scheme,
            loads=not no_loading,
        )
        planned = planner.plan(gpus, only=layout_of(layout))
        result: dict[str, Any] = planned.to_json()
        text = render_plan(planned)
        if dry_run:
            from weathermixer.training.plan_rehearsal import rehearse_plan

            rehearsed = rehearse_plan(planner, planned)
            result["dry_run"] = rehearsed.to_json()
            text += f"\n{rehearsed.render()}"
        if chart is not None:
            from weathermixer.planning.scaling_chart import draw_scaling

            draw_scaling(planner, gpus, chart)
    print_result(result if json else text)
    if chart is not None:
        say(f"wrote {chart}")
    planned.require_fit()

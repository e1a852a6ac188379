"""A plan for people: a table of the meshes, the best one, and why the others are not."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from weathermixer.console import size_text
from weathermixer.planning.plan import Candidate, Plan, layout_text
from weathermixer.planning.reading_share import REMEDY, WORTH_SAYING
from weathermixer.planning.step_memory import SAFE_SHARE

_WIDTH = 132
_PARTS = {
    "compute": "computing",
    "exchange_exposed": "waits for exchanges",
    "read_exposed": "waits for samples",
    "overhead": "beginning kernels",
}


def render_plan(plan: Plan) -> str:
    """The plan as text: the table, then a line on the best mesh and on each of the others."""
    held = plan.machine.memory_of(ranks=plan.gpus)
    table = Table(
        title=f"{plan.gpus} ranks of {plan.machine.name}, {size_text(held)} each, {plan.scheme}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for name in ("mesh", "memory", "operations", "sent", "calls", "read"):
        table.add_column(name, justify="right")
    for name in (
        "s/step",
        "compute",
        "exchange",
        "read",
        "launch",
        "s/sample",
        "peak",
        "efficiency",
    ):
        table.add_column(name, justify="right")
    if plan.machine.power is not None:
        table.add_column("kJ/step", justify="right")
    for candidate in plan.candidates:
        table.add_row(*_cells(candidate))
    text = io.StringIO()
    Console(file=text, width=_WIDTH).print(table)
    lines = [
        text.getvalue().rstrip(),
        "",
        "mesh: data x domain x tensor; figures per rank and step",
    ]
    if plan.best is not None:
        what = plan.best.recompute
        recomputed = "" if what == "none" else f", with {what} recomputed"
        lines.append(f"best: {layout_text(plan.best.layout)}{recomputed}")
        lines += _reading_remark(plan.best, plan)
    lines += [
        f"  {layout_text(candidate.layout)}: {reason_against(candidate, plan)}"
        for candidate in plan.candidates
        if candidate is not plan.best
    ]
    lines += [
        f"  {layout_text(layout)}: cannot be: {reason}" for layout, reason in plan.refused.items()
    ]
    return "\n".join(line.rstrip() for line in lines)


def reason_against(candidate: Candidate, plan: Plan) -> str:
    """Why a mesh is not the best: it does not fit, or what of a sample's time takes longer."""
    best = plan.best
    if best is None or not candidate.fits:
        held = plan.machine.memory_of(ranks=plan.gpus)
        return (
            f"does not fit: {size_text(candidate.step.memory_bytes)} are more than "
            f"{100 * SAFE_SHARE:.0f}% of {size_text(held)}"
        )
    slower = 100 * (candidate.sample_seconds / best.sample_seconds - 1)
    more = {
        part: getattr(candidate.time, part) / candidate.samples
        - getattr(best.time, part) / best.samples
        for part in _PARTS
    }
    part = max(more, key=lambda each: more[each])
    return (
        f"{slower:.1f}% slower for each sample, most of it {_PARTS[part]} "
        f"(+{1e3 * more[part]:.3g} ms)"
    )


def _reading_remark(candidate: Candidate, plan: Plan) -> list[str]:
    """A line where chunks make ranks fetch much more than they use; none where they do not."""
    if candidate.amplification <= WORTH_SAYING:
        return []
    time, fetched = candidate.time, candidate.bytes_fetched
    rate = fetched / (time.total - time.read_exposed)
    return [
        f"  the chunks of {plan.states_path} make a rank fetch {candidate.amplification:.3g} times "
        f"its share, {size_text(fetched)} a step for {size_text(candidate.step.bytes_read)}: not "
        f"to wait, it needs {rate / 1e6:.3g} MB/s; {REMEDY}"
    ]


def _cells(candidate: Candidate) -> list[str]:
    step, time = candidate.step, candidate.time
    efficiency = "–" if candidate.efficiency is None else f"{100 * candidate.efficiency:.0f}%"
    cells = [
        layout_text(candidate.layout),
        size_text(step.memory_bytes) + ("" if candidate.fits else " !"),
        f"{step.operations / 1e12:.3g} T",
        size_text(step.bytes_sent),
        f"{step.calls:.0f}",
        size_text(candidate.bytes_fetched),
        *(
            f"{seconds:.3g}"
            for seconds in (
                time.total,
                time.compute,
                time.exchange_exposed,
                time.read_exposed,
                time.overhead,
                candidate.sample_seconds,
            )
        ),
        f"{100 * candidate.peak_fraction:.0f}%",
        efficiency,
    ]
    if candidate.joules is not None:
        cells.append(f"{candidate.joules / 1e3:.3g}")
    return cells

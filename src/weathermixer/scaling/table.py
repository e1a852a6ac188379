"""A scaling experiment as a table for people: each case measured, beside what was predicted."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from weathermixer.console import size_text
from weathermixer.planning.plan import layout_text
from weathermixer.scaling.record import Ceiling, Record
from weathermixer.scaling.rows import Row

_WIDTH = 200  # at most: lines end where their last column does

_Column = tuple[str, Callable[[Row], str]]


def render(record: Record) -> str:
    """The table, with a line below it on how to read it and on what is left out."""
    kind = record.settings["kind"]
    columns = [*_FIRST]
    if kind == "weak":
        columns.append(("grows", lambda row: row.case.growth or "–"))
    if kind in ("weak", "roofline"):
        columns.append(("channels", lambda row: str(row.case.config.model.channels)))
    if kind == "roofline":
        columns.append(("arithmetic", lambda row: row.case.config.training.dtype))
    columns += _TIMES
    columns += _roofline(record.ceilings) if kind == "roofline" else _COMPARED
    table = Table(
        title=f"{_TITLES[kind]}, planned for {record.machine}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for name, _ in columns:
        table.add_column(name, justify="left" if name == "contender" else "right")
    for row in record.rows:
        table.add_row(*(cell(row) for _, cell in columns))
    text = io.StringIO()
    Console(file=text, width=_WIDTH).print(table)
    lines = [*text.getvalue().splitlines(), "", _MEANING[kind]]
    lines += [
        f"{ceiling.dtype}, {ceiling.ranks} at once: at most {ceiling.peak / 1e9:.3g} G op/s and "
        f"{size_text(ceiling.memory_bytes_per_second)}/s of memory, which meet at "
        f"{ceiling.peak / ceiling.memory_bytes_per_second:.3g} op/byte"
        for ceiling in record.ceilings
    ]
    lines += [f"left out: {reason}" for reason in record.left_out]
    return "\n".join(line.rstrip() for line in lines)


def _roofline(ceilings: Sequence[Ceiling]) -> list[_Column]:
    by_place = {(ceiling.dtype, ceiling.ranks): ceiling for ceiling in ceilings}

    def of_roof(row: Row) -> str:
        ceiling = by_place.get((row.case.config.training.dtype, row.case.ranks))
        if ceiling is None or row.intensity is None:
            return "–"
        return f"{100 * row.operations_per_second / ceiling.at(row.intensity):.0f}%"

    return [
        ("op/byte", lambda row: _number(row.intensity, "{:.3g}")),
        ("G op/s", lambda row: f"{row.operations_per_second / 1e9:.3g}"),
        ("predicted", lambda row: f"{row.predicted_operations_per_second / 1e9:.3g}"),
        ("of the roof", of_roof),
    ]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


_FIRST: list[_Column] = [
    ("contender", lambda row: row.case.contender),
    ("ranks", lambda row: str(row.case.ranks)),
    ("mesh", lambda row: layout_text(row.case.layout)),
    ("samples", lambda row: str(row.case.samples)),
]
_TIMES: list[_Column] = [
    ("s/step", lambda row: f"{row.seconds:.3g}"),
    ("least", lambda row: f"{row.seconds_min:.3g}"),
    ("most", lambda row: f"{row.seconds_max:.3g}"),
    ("predicted", lambda row: f"{row.case.planned_seconds:.3g}"),
    ("off by", lambda row: f"{100 * (row.case.planned_seconds / row.seconds - 1):+.0f}%"),
]
_COMPARED: list[_Column] = [
    ("samples/s", lambda row: f"{row.samples_per_second:.3g}"),
    ("speed-up", lambda row: _number(row.speed_up, "{:.2f}")),
    ("predicted", lambda row: _number(row.predicted_speed_up, "{:.2f}")),
    ("efficiency", lambda row: _number(row.efficiency, "{:.0%}")),
    ("G operations", lambda row: f"{row.case.planned_operations / 1e9:.3g}"),
    ("sent", lambda row: size_text(row.bytes_sent)),
]
_TITLES = {"strong": "strong scaling", "weak": "weak scaling", "roofline": "roofline"}
_COMPARISON = (
    "speed-up compares the network's operations a second with those of the fastest contender on "
    "the fewest ranks; operations and bytes sent are of the rank with the most"
)
_MEANING = {
    "strong": f"mesh: data x domain x tensor; the same samples in each step; {_COMPARISON}",
    "weak": "mesh: data x domain x tensor; replicas: as many samples for each rank; width: one "
    f"network that grows; {_COMPARISON}",
    "roofline": "mesh: data x domain x tensor; operations a second are those of each rank; bytes "
    "are those that are planned to go through memory",
}

"""Pictures of a scaling experiment: speed-up and efficiency over ranks, or a roofline.

What was measured is drawn with full marks and a bar from the least to the most, what was predicted
with hollow marks. Colours are those of Okabe and Ito, told apart with any colour vision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from weathermixer.errors import UserError
from weathermixer.planning.machine import ProductType
from weathermixer.scaling.cases import Contender, Growth
from weathermixer.scaling.record import Ceiling, Record
from weathermixer.scaling.rows import Row

_CONTENDERS: dict[Contender, tuple[str, str, str]] = {
    "jigsaw": ("Jigsaw", "#0072B2", "o"),
    "as configured": ("Jigsaw, mesh as configured", "#56B4E9", "v"),
    "plain": ("plain PyTorch", "#555555", "X"),
    "ddp": ("DDP", "#D55E00", "s"),
    "fsdp": ("FSDP2", "#009E73", "D"),
}
# Colour, marker, and to which side of a mark its number goes: marks of two types lie close.
_ARITHMETICS: dict[ProductType, tuple[str, str, Literal["left", "center", "right"]]] = {
    "float64": ("#CC79A7", "o", "center"),
    "float32": ("#0072B2", "s", "right"),
    "tf32": ("#009E73", "D", "center"),
    "bfloat16": ("#D55E00", "^", "left"),
}
_GROWTHS: dict[Growth | None, str] = {
    None: "the same samples on more ranks",
    "replicas": "replicas: samples grow with the ranks",
    "width": "one instance: the network grows with the ranks",
}
_GREY = "#999999"
_CAP = 3.0  # of the bar from the least to the most, in points

_Value = Callable[[Row], float | None]


def draw(record: Record) -> list[Path]:
    """Draw what there is of an experiment into its folder; the files.

    Raises UserError where they cannot be written.
    """
    kind, rows = record.settings["kind"], record.rows
    if kind == "roofline":
        figures = {"roofline.svg": _roofline(rows, record.ceilings)}
    else:
        growths: tuple[Growth | None, ...] = ("replicas", "width") if kind == "weak" else (None,)
        figures = {
            "speed-up.svg": _scaling(rows, growths, "speed-up"),
            "efficiency.svg": _scaling(rows, growths, "efficiency"),
        }
    paths = [record.folder / name for name in figures]
    try:
        for path, figure in zip(paths, figures.values(), strict=True):
            figure.savefig(path)
    except OSError as error:
        raise UserError(
            f"pictures cannot be written into {record.folder} ({error.strerror or error}): free "
            "some space, or make it writable, and start the same command again"
        ) from error
    return paths


def _scaling(rows: Sequence[Row], growths: Sequence[Growth | None], what: str) -> Figure:
    """A panel for each thing that grows, with a line for each contender."""
    figure = Figure(figsize=(0.8 + 4.8 * len(growths), 4.4), layout="constrained")
    panels = figure.subplots(1, len(growths), sharey=True, squeeze=False)[0]
    counts = sorted({row.case.ranks for row in rows})
    for panel, growth in zip(panels, growths, strict=True):
        own = [row for row in rows if row.case.growth in (None, growth)]
        _ideal(panel, counts, what)
        for contender in _CONTENDERS:
            _line(panel, own, contender, what)
        _axes(panel, counts, _GROWTHS[growth])
    panels[0].set_ylabel(what)
    if what == "efficiency":
        panels[0].set_ylim(bottom=0.0)
        panels[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        panels[0].set_yscale("log", base=2)
        panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _legend(figure, [row.case.contender for row in rows])
    return figure


def _line(panel: Axes, rows: Iterable[Row], contender: Contender, what: str) -> None:
    """What was measured of a contender and, hollow, what was predicted.

    The network in plain PyTorch on one rank is where the lines of its replicas begin.
    """
    begins = ("plain",) if contender in ("ddp", "fsdp") else ()
    points = sorted(
        (row for row in rows if row.case.contender in (contender, *begins)),
        key=lambda row: row.case.ranks,
    )
    own = [row for row in points if row.case.contender == contender]
    measured, predicted = what.replace("-", "_"), f"predicted_{what.replace('-', '_')}"
    if not own or getattr(own[0], measured) is None:
        return  # of what they are compared with, nothing was measured yet
    _, colour, marker = _CONTENDERS[contender]
    for name, style, size, filling, width in (
        (predicted, (0, (3, 2)), 7, "none", 1.1),
        (measured, "-", 6, colour, 1.8),
    ):
        panel.plot(
            [_place(row) for row in points],
            [getattr(row, name) for row in points],
            color=colour,
            marker=marker,
            markevery=[row in own for row in points],
            markersize=size,
            markerfacecolor=filling,
            linewidth=width,
            linestyle=style,
            zorder=3,
        )
    values = [getattr(row, measured) for row in own]
    panel.errorbar(
        [_place(row) for row in own],
        values,
        yerr=[
            [_below(value, row) for value, row in zip(values, own, strict=True)],
            [_above(value, row) for value, row in zip(values, own, strict=True)],
        ],
        fmt="none",
        ecolor=colour,
        elinewidth=1.0,
        capsize=_CAP,
        zorder=2,
    )


def _place(row: Row) -> float:
    """Where a row stands among ranks: contenders a little apart, so that none hides another."""
    apart: float = 2.0 ** (0.05 * (list(_CONTENDERS).index(row.case.contender) - 2))
    return row.case.ranks * apart


def _below(value: float, row: Row) -> float:
    """How far the slowest step lies below a value that is in proportion to the median's speed."""
    return value * (1.0 - row.seconds / row.seconds_max)


def _above(value: float, row: Row) -> float:
    """How far the fastest step lies above it."""
    return value * (row.seconds / row.seconds_min - 1.0)


def _ideal(panel: Axes, counts: Sequence[int], what: str) -> None:
    ideal = [1.0 if what == "efficiency" else ranks / counts[0] for ranks in counts]
    panel.plot(counts, ideal, color=_GREY, linewidth=0.9, zorder=1)


def _axes(panel: Axes, counts: Sequence[int], title: str) -> None:
    panel.set_title(title, fontsize=10)
    panel.set_xlabel("ranks")
    panel.set_xscale("log", base=2)
    panel.set_xticks(counts, [str(ranks) for ranks in counts])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.margins(x=0.1)
    panel.grid(color="#E5E5E5", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, contenders: Sequence[Contender]) -> None:
    handles = [
        Line2D([], [], color=colour, marker=marker, linewidth=1.8, label=label)
        for name, (label, colour, marker) in _CONTENDERS.items()
        if name in contenders
    ]
    handles += [
        Line2D([], [], color="black", linestyle=(0, (3, 2)), linewidth=1.1, marker="o",
               markerfacecolor="none", label="predicted"),
        Line2D([], [], color=_GREY, linewidth=0.9, label="ideal"),
    ]  # fmt: skip
    columns = -(-len(handles) // 2) if len(handles) > 4 else len(handles)
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False)


def _roofline(rows: Sequence[Row], ceilings: Sequence[Ceiling]) -> Figure:
    """Operations a second of each rank against operations for each byte, below the roofs."""
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    panel = figure.subplots()
    panel.set_xscale("log")
    panel.set_yscale("log")
    points = [(row.intensity, row) for row in rows if row.intensity is not None]
    places = [
        *(intensity for intensity, _ in points),
        *(ceiling.peak / ceiling.memory_bytes_per_second for ceiling in ceilings),
    ]
    for ceiling in ceilings:
        _roof(panel, ceiling, 0.6 * min(places), 1.8 * max(places))
    for intensity, row in points:
        colour, marker, side = _ARITHMETICS[row.case.config.training.dtype]
        measured = row.operations_per_second
        below, above = _below(measured, row), _above(measured, row)
        panel.errorbar(
            intensity,
            measured,
            yerr=[[below], [above]],
            color=colour,
            marker=marker,
            markersize=6,
            zorder=3,
            elinewidth=1.0,
            capsize=_CAP,
        )
        panel.plot(
            intensity,
            row.predicted_operations_per_second,
            color=colour,
            marker=marker,
            markersize=8,
            markerfacecolor="none",
            zorder=2,
        )
        panel.annotate(
            str(row.case.config.model.channels),
            (intensity, min(measured - below, row.predicted_operations_per_second)),
            xytext=(0, -7),
            textcoords="offset points",
            ha=side,
            va="top",
            fontsize=7,
            color=colour,
        )
    panel.set_xlabel("operations for each byte that goes through memory, as planned")
    panel.set_ylabel("operations a second of a rank")
    panel.grid(color="#E5E5E5", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    dtypes = {row.case.config.training.dtype for row in rows}
    handles = [
        Line2D([], [], color=colour, marker=marker, label=dtype)
        for dtype, (colour, marker, _) in _ARITHMETICS.items()
        if dtype in dtypes
    ]
    handles.append(
        Line2D([], [], color="black", marker="o", linestyle="none", markerfacecolor="none",
               label="predicted")
    )  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    panel.set_title("lines: what the machine can do at most; numbers: latent channels", fontsize=9)
    return figure


def _roof(panel: Axes, ceiling: Ceiling, low: float, high: float) -> None:
    """The memory's line up to the ridge, and the peak from there on."""
    ridge = ceiling.peak / ceiling.memory_bytes_per_second
    panel.plot(
        [low, ridge, high],
        [ceiling.at(low), ceiling.peak, ceiling.peak],
        color=_ARITHMETICS[ceiling.dtype][0],
        linewidth=1.4,
        alpha=0.7,
        zorder=1,
    )

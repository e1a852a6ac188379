"""A chart of strong and weak scaling: the parts of a sample's time over the number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.planning.plan import Candidate, Planner, all_layouts, layout_text

_PARTS = {
    "compute": ("computing", "#3b6fb6"),
    "exchange_exposed": ("exchanges", "#d98324"),
    "read_exposed": ("reading", "#5a9e6f"),
    "overhead": ("launches", "#8a8a8a"),
}


def scaling(planner: Planner, gpus: int) -> dict[str, list[Candidate]]:
    """The fastest meshes of 1, 2, 4, … and ``gpus`` ranks, as far as the model fits on them.

    Strong scaling has the samples of one instance, whose ranks share each; weak scaling has as many
    samples for each rank, with as many replicas as there can be.
    """
    counts = [1 << power for power in range(gpus.bit_length()) if 1 << power < gpus]
    found: dict[str, list[Candidate]] = {"strong": [], "weak": []}
    for count in [*counts, gpus]:
        candidates = _candidates(planner, all_layouts(count))
        single = [each for each in candidates if each.layout.data == 1]
        if single:
            found["strong"].append(min(single, key=lambda each: each.time.total))
        if candidates:
            most = max(each.layout.data for each in candidates)
            replicas = [each for each in candidates if each.layout.data == most]
            found["weak"].append(min(replicas, key=lambda each: each.sample_seconds))
    return found


def draw_scaling(planner: Planner, gpus: int, path: Path) -> None:
    """Draw both into a picture, of the kind that the file's name ends with.

    Raises UserError where the model fits on no mesh, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    found = scaling(planner, gpus)
    if not found["weak"]:
        raise UserError(f"there is nothing to draw: the model fits on no mesh of {gpus} ranks")
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, (kind, candidates) in zip(figure.subplots(1, 2), found.items(), strict=True):
        _draw(axes, candidates, kind)
    figure.suptitle(f"Predicted on {planner.machine.name}, scheme {planner.scheme}")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"the chart {path} cannot be written ({error}): name a .png or .svg"
        ) from error


def _draw(axes, candidates: Sequence[Candidate], kind: str) -> None:  # type: ignore[no-untyped-def]
    places = range(len(candidates))
    bottom = [0.0] * len(candidates)
    for part, (label, color) in _PARTS.items():
        heights = [getattr(each.time, part) for each in candidates]
        axes.bar(places, heights, bottom=bottom, label=label, color=color)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for place, each in zip(places, candidates, strict=True):
        axes.annotate(
            f"{100 * each.peak_fraction:.0f}%", (place, each.time.total), ha="center", va="bottom"
        )
    names = [f"{each.layout.world_size}\n{layout_text(each.layout)}" for each in candidates]
    axes.set_xticks(places, names, fontsize=8)
    axes.set_xlabel("ranks, and their mesh data x domain x tensor")
    axes.set_ylabel("seconds of a step")
    what = "one instance" if kind == "strong" else "a step with samples in proportion"
    axes.set_title(f"{kind} scaling: {what}; fraction of peak above")
    axes.legend()


def _candidates(planner: Planner, layouts: Sequence[Layout]) -> list[Candidate]:
    found = []
    for layout in layouts:
        try:
            candidate = planner.candidate(layout)
        except LayoutError:
            continue
        if candidate.fits:
            found.append(candidate)
    return found

"""The machine to plan for, and the mesh to run on: by predicted time, the same on every rank.

Where nobody names a machine file, a machine of the package stands for this one: that of its
accelerator, or one with processors alone. Nothing is measured then, so that all ranks choose alike,
and a run that is resumed chooses as it did before.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from weathermixer.config import Config, Recompute
from weathermixer.console import size_text
from weathermixer.data.opening import open_states
from weathermixer.data.states import States
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.model.architecture import Architecture, architecture_of
from weathermixer.planning.machine import Machine
from weathermixer.planning.machine_files import find_machine
from weathermixer.planning.plan import SCHEMES, Plan, Planner, layout_text
from weathermixer.planning.step_cost import possible_layouts
from weathermixer.planning.step_memory import SAFE_SHARE

MACHINE_VARIABLE = "WEATHERMIXER_MACHINE"
"""Names a machine file, or a machine of the package, for all commands."""

_PROCESSORS = "processors"
# In this order: a GH200 has "GH200" in its name, and an H200 does not.
_BY_DEVICE = {
    "GH200": "gh200",
    "H200": "h200",
    "H100": "h100",
    "A100": "a100-40gb",
    "MI250X": "mi250x",
}
_OTHER_DEVICE = "h100"


def this_machine(environment: Mapping[str, str] = os.environ) -> Machine:
    """The machine that the environment names, or else what comes nearest to this one.

    Raises UserError where the file that is named cannot be used.
    """
    name = environment.get(MACHINE_VARIABLE)
    if name is not None:
        return find_machine(name)
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
        name = next((known for part, known in _BY_DEVICE.items() if part in device), _OTHER_DEVICE)
        machine = find_machine(name)
        held = float(torch.cuda.get_device_properties(0).total_memory)
    else:
        machine = find_machine(_PROCESSORS)
        held = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / machine.ranks_per_node
    return machine.model_copy(update={"memory_bytes": held})


def make_planner(
    config: Config,
    *,
    machine: str | None = None,
    grid: tuple[int, int] | None = None,
    scheme: str = "jigsaw",
    loads: bool = True,
) -> Planner:
    """A planner for a configuration on a machine, by default this one.

    Without a ``grid`` it is that of the store, whose chunks are planned for too. Raises UserError
    for a machine or a scheme that cannot be, and where no grid is known.
    """
    if scheme not in SCHEMES:
        raise UserError(f"there is no scheme {scheme}: choose among {', '.join(SCHEMES)}")
    found = this_machine() if machine is None else find_machine(machine)
    states = None
    if grid is None:
        states = configured_states(config)
        grid = states.grid
    architecture = architecture_of(config.data, config.model, grid)
    return Planner(config, architecture, found, scheme=scheme, loads=loads, states=states)


def configured_states(config: Config) -> States:
    """The store of a configuration, where a command that also takes ``--grid`` was given none.

    Raises UserError, with that option as a remedy, where it cannot be opened.
    """
    try:
        return open_states(config.data.store, config.data)
    except (UserError, OSError) as error:
        raise UserError(
            f"the configuration names no store that says the grid ({error}): give --grid, such "
            "as 720x1440, or correct data.store"
        ) from error


@dataclass(frozen=True)
class MeshChoice:
    """How a training or a forecast is run, its predicted seconds of a step, and why, in a line.

    ``threads`` are those of each rank, None where they stay what they are; ``recompute`` is what is
    computed again in the backward pass. ``peak`` is the most operations per second that a rank of
    the machine can do in the arithmetic, where that is known; the seconds are NaN where none were
    predicted.
    """

    layout: Layout
    seconds: float
    reason: str
    threads: int | None = None
    recompute: Recompute = "none"
    warning: str | None = None
    peak: float | None = None


def choose_replicas(config: Config, *, world_size: int, trains: bool) -> MeshChoice:
    """The mesh of a network that is not WeatherMixer, of whose steps nothing is known: replicas.

    Raises LayoutError where a training is to have another number of them than there are ranks.
    """
    layout = Layout(data=config.parallel.data if trains else world_size)
    layout.require_ranks(world_size)
    reason = f"mesh {layout_text(layout)} (data x domain x tensor), of a network of your own"
    return MeshChoice(layout, math.nan, reason, recompute=config.training.recompute or "none")


def choose_mesh(
    config: Config,
    architecture: Architecture,
    *,
    world_size: int,
    trains: bool = True,
    threads: int | None = None,
    states: States | None = None,
) -> MeshChoice:
    """Choose what a configuration leaves open so that a step takes the least time, as predicted.

    That is the mesh, among those that fit; the threads of each rank, at most ``threads``, by
    default those that this process was given; and recomputation, where a training would not fit
    without it. Of the ``states`` that are read, where they are known, chunks are fetched whole, as
    in a plan. Where it does not train, ``trains`` off, steps are forward passes of one sample,
    and nothing is said of memory.

    Raises LayoutError as ``possible_layouts`` does, and UserError, with what would make it fit,
    where the training needs more memory than there is on every mesh.
    """
    machine = this_machine()
    numbers = _numbers_of_threads(machine, world_size, threads or given_threads())
    training = config.training if trains else None
    possible = possible_layouts(
        config.parallel, architecture, world_size=world_size, training=training
    )
    planners = [
        Planner(config, architecture, machine, threads=number, states=states) for number in numbers
    ]
    if not trains:
        return min(
            (_forward_choice(planner, possible) for planner in planners),
            key=lambda choice: choice.seconds,
        )
    held = machine.memory_of(ranks=world_size)
    return min(
        (_training_choice(planner, possible, held) for planner in planners),
        key=lambda choice: choice.seconds,
    )


def _forward_choice(planner: Planner, possible: Sequence[Layout]) -> MeshChoice:
    times = {layout: planner.forward_seconds(layout) for layout in possible}
    best = min(times, key=lambda layout: times[layout])
    return MeshChoice(best, times[best], _reason(best, times, planner), planner.threads)


def _training_choice(planner: Planner, possible: Sequence[Layout], held: float) -> MeshChoice:
    found = {layout: planner.candidate(layout) for layout in possible}
    enough = [each for each in found.values() if each.step.memory_bytes <= held]
    if not enough:
        ranks = possible[0].world_size
        Plan(tuple(found.values()), {}, planner.machine, "jigsaw", ranks).require_fit()
    fitting = [each for each in enough if each.fits] or enough
    times = {each.layout: each.time.total for each in fitting}
    best = min(times, key=lambda layout: times[layout])
    candidate = found[best]
    warning = None
    if not candidate.fits:
        remedy = "more ranks or a smaller training.micro_batch"
        if candidate.recompute == "none":
            remedy = f"training.recompute, {remedy}"
        warning = (
            f"a rank is predicted to hold {size_text(candidate.step.memory_bytes)} of "
            f"{size_text(held)}, more than the {100 * SAFE_SHARE:.0f}% that are known to be safe: "
            f"should memory run out, use {remedy}"
        )
    is_chosen = planner.config.training.recompute is None
    reason = _reason(best, times, planner, candidate.recompute if is_chosen else "none")
    computing = planner.machine.computing_of(ranks=best.world_size, threads=planner.threads)
    return MeshChoice(
        best,
        times[best],
        reason,
        planner.threads,
        candidate.recompute,
        warning,
        computing.product_rates(planner.config.training.dtype).peak,
    )


def _reason(
    best: Layout,
    times: Mapping[Layout, float],
    planner: Planner,
    recompute: Recompute = "none",
) -> str:
    """In a line, the mesh, what else was chosen, and what the next best mesh would take."""
    text = f"mesh {layout_text(best)} (data x domain x tensor)"
    if planner.threads is not None:
        text += f", {planner.threads} {'thread' if planner.threads == 1 else 'threads'} a rank"
    if recompute != "none":
        text += f", {recompute} recomputed since they would not fit"
    text += f", predicted {times[best]:.3g} s a step"
    others = sorted((seconds, layout_text(layout)) for layout, seconds in times.items())
    if len(others) > 1:
        seconds, name = others[1]
        text += f"; the next of {len(others)} possible ones, {name}, {seconds:.3g} s"
    return text


def _numbers_of_threads(machine: Machine, ranks: int, most: int) -> list[int | None]:
    """Threads that ranks may have: ``most``, and fewer as far as the machine was measured so."""
    if not machine.shares_processors:
        return [None]
    local = min(ranks, machine.ranks_per_node)
    measured = {each.threads for each in machine.computing if each.ranks == local and each.threads}
    return [number for number in sorted(measured | {most}) if number <= most]


@cache
def given_threads() -> int:
    """Threads that this process had before any were chosen: no choice takes more."""
    return torch.get_num_threads()


def threads_on(machine: Machine) -> int | None:
    """Threads of this rank, where it computes on processors that ranks share."""
    return given_threads() if machine.shares_processors else None


def layout_of(shape: tuple[int, int, int] | None) -> Layout | None:
    """The mesh data × domain × tensor that a user asks about, where there is one."""
    return None if shape is None else Layout(*shape)

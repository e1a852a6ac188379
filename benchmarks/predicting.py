"""Steps of Jigsaw and of other schemes, predicted on machines of the package, with ranges.

A range comes from machines all of whose constants are at the bad, or the good, end of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from weathermixer.jigsaw.layout import Layout, LayoutError, layouts
from weathermixer.model.architecture import Architecture
from weathermixer.planning.jigsaw_step import describe_jigsaw
from weathermixer.planning.machine import Machine, ProductType
from weathermixer.planning.machine_files import find_machine
from weathermixer.planning.schemes import find_scheme
from weathermixer.planning.step_kind import StepKind
from weathermixer.planning.step_memory import SAFE_SHARE
from weathermixer.planning.step_time import StepTime, StepTimer

AUTHORS = "a100-40gb-fitted"
Case = Literal["bad", "likely", "good"]
CASES: tuple[Case, ...] = ("likely", "bad", "good")
# Factors on constants: products, memory, links within a node and between nodes, storage.
RANGES = {"bad": (0.9, 0.8, 0.7, 0.6, 0.25), "good": (1.1, 1.25, 1.6, 1.0, 2.0)}
# To what the datasheet's adapters reach where they are attached to GPUs.
GOOD_NETWORK = {AUTHORS: 2.8}


@dataclass(frozen=True)
class Prediction:
    """A step of a scheme on a mesh: its time, operations of all ranks, and whether it fits."""

    layout: Layout
    time: StepTime
    operations: float
    peak: float
    fits: bool

    @property
    def seconds(self) -> float:
        return self.time.total

    @property
    def fraction(self) -> float:
        """Operations per second over the peak of all GPUs, in the arithmetic of the products."""
        return self.operations / self.seconds / (self.peak * self.layout.world_size)


def network(
    channels: int,
    token_hidden: float,
    *,
    grid: tuple[int, int] = (720, 1440),
    patch: tuple[int, int] = (1, 60),
) -> Architecture:
    """The published network at a size."""
    tokens = grid[0] * grid[1] // (patch[0] * patch[1])
    return Architecture(
        prognostic=69,
        static=3,
        grid=grid,
        patch=patch,
        channels=channels,
        blocks=3,
        token_hidden=round(token_hidden * tokens),
        channel_hidden=channels,
        dropout=0.001,
        prediction="state",
    )


@cache
def machine_of(name: str, case: Case) -> Machine:
    """A machine, with its constants as they are likely or at an end of their ranges."""
    machine = find_machine(name)
    if case == "likely":
        return machine
    products, memory, within, between, storage = RANGES[case]
    if case == "good":
        between = GOOD_NETWORK.get(name, between)
    values: dict[str, Any] = machine.model_dump(mode="json", exclude_none=True)
    for computing in values["computing"]:
        computing["memory_bytes_per_second"] *= memory
        for rates in computing["products"].values():
            rates["rates"] = [min(rate * products, rates["peak"]) for rate in rates["rates"]]
    for link, factor in (("within_node", within), ("between_nodes", between)):
        messages = values[link]["messages"]
        messages["rates"] = [rate * factor for rate in messages["rates"]]
    for key in ("rank_bytes_per_second", "node_bytes_per_second"):
        values["storage"][key] *= storage
    return Machine.model_validate(values)


@cache
def jigsaw(
    architecture: Architecture,
    ways: int,
    gpus: int,
    *,
    machine: str = AUTHORS,
    case: Case = "likely",
    dtype: ProductType = "tf32",
    loads: bool = False,
    gradient_bytes: int | None = None,
) -> Prediction:
    """A step of Jigsaw on the fastest mesh of so many ways of those that fit."""
    kind = StepKind(samples=1, dtype=dtype, gradient_bytes=gradient_bytes)
    description = machine_of(machine, case)
    candidates = []
    for layout in layouts(ways, data=gpus // ways):
        try:
            candidates.append(_on_mesh(architecture, layout, kind, description, loads=loads))
        except LayoutError:
            continue
    fitting = [each for each in candidates if each.fits] or candidates
    return min(fitting, key=lambda each: each.seconds)


def _on_mesh(
    architecture: Architecture, layout: Layout, kind: StepKind, machine: Machine, *, loads: bool
) -> Prediction:
    timer = StepTimer(machine, layout.world_size)
    step = describe_jigsaw(architecture, layout, kind, machine)
    return Prediction(
        layout,
        step.seconds(timer, loads=loads),
        step.operations * layout.world_size,
        timer.computing.product_rates(kind.dtype).peak,
        step.memory_bytes <= SAFE_SHARE * machine.memory_bytes,
    )


@cache
def other(
    scheme: str,
    architecture: Architecture,
    layout: Layout,
    *,
    machine: str = AUTHORS,
    case: Case = "likely",
    dtype: ProductType = "tf32",
    loads: bool = False,
) -> Prediction:
    """A step of another scheme."""
    description = machine_of(machine, case)
    step = find_scheme(scheme).describe(
        architecture, layout, StepKind(samples=1, dtype=dtype), description
    )
    timer = StepTimer(description, layout.world_size)
    # Those of the network: some ranks of a scheme may do more than their share.
    single = jigsaw(architecture, 1, 1, dtype=dtype).operations
    return Prediction(
        layout,
        step.seconds(timer, loads=loads),
        single * layout.data,
        timer.computing.product_rates(dtype).peak,
        step.memory_bytes <= SAFE_SHARE * description.memory_bytes,
    )

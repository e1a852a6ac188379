"""What is wrong with a configuration and the store it names, found without running anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weathermixer.config import Config, Problem, parse_config
from weathermixer.data.channels import STATIC_VARIABLES, channels_of, names
from weathermixer.data.feeding.read_ahead import buffer_bytes, kept_states_bytes
from weathermixer.data.opening import open_states
from weathermixer.data.states import States
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.mixer import Architecture, architecture_of
from weathermixer.planning.reading_share import REMEDY, reads_too_much
from weathermixer.runs.run import state_dtype
from weathermixer.training.beginning import check_step, training_windows, validation_windows


@dataclass(frozen=True)
class Findings:
    """What was found: problems, and how much memory reading takes on each rank where there is none.

    ``buffer_bytes`` is the most that reading ahead holds on a rank; ``kept_bytes`` the most that
    the ranks of one machine keep, together, of states that were read.
    """

    problems: list[Problem]
    buffer_bytes: int | None = None
    kept_bytes: int | None = None

    @property
    def has_errors(self) -> bool:
        return any(problem.severity == "error" for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"problems": [vars(problem) for problem in self.problems]}
        if self.buffer_bytes is not None:
            found["reading"] = {"buffer_bytes": self.buffer_bytes, "kept_bytes": self.kept_bytes}
        return found


def check(path: Path, overrides: Sequence[str] = ()) -> Findings:
    """Every problem of a configuration file with its overrides; none where it can be trained.

    Raises UserError only where the file itself cannot be read.
    """
    config = parse_config(path, overrides)
    if not isinstance(config, Config):
        return Findings(config)
    problems = list(_in_settings(config))
    try:
        store = open_states(config.data.store, config.data)
    except UserError as error:
        problem = Problem("error", "data.store", str(error), "correct the path")
        return Findings([*problems, problem])
    findings = Findings([*problems, *_against_store(config, store)])
    if findings.has_errors:
        return findings
    architecture = architecture_of(config, store.grid)
    return Findings(
        [*findings.problems, *_in_reading(config, store, architecture)],
        buffer_bytes=_buffer_bytes(config, architecture),
        kept_bytes=kept_states_bytes(ranks=1),
    )


def _in_settings(config: Config) -> Iterable[Problem]:
    for name in config.data.static:
        if name not in STATIC_VARIABLES:
            yield Problem(
                "error",
                "data.static",
                f"{name!r} is not a static field",
                f"choose among {', '.join(STATIC_VARIABLES)}",
            )
    if isinstance(config.training.rollout, dict):
        for start in config.training.rollout:
            if start >= config.training.steps:
                yield Problem(
                    "warning",
                    "training.rollout",
                    f"its entry from step {start} is never reached in {config.training.steps} "
                    "steps",
                    "remove the entry, or train for longer",
                )


def _against_store(config: Config, store: States) -> Iterable[Problem]:
    data = config.data

    def channels() -> None:
        store.channel_indices(names(channels_of(data.variables, data.levels)))

    def mesh() -> None:
        try:
            architecture = architecture_of(config, store.grid)
        except UserError:
            return  # which is a problem of its own
        architecture.check(Mesh.describe(_layout(config)))

    other_store = "or use another store"
    tests: tuple[tuple[str, str, Callable[[], object]], ...] = (
        ("data.variables", f"change it or data.levels, {other_store}", channels),
        ("data.static", f"change it, {other_store}", lambda: store.read_static(data.static)),
        ("model.patch", "change it", lambda: architecture_of(config, store.grid)),
        ("parallel", "use fewer ranks along that axis, or a larger network", mesh),
        ("data.step_hours", f"change it, {other_store}", lambda: check_step(data, store)),
        (
            "data.train",
            "change it or data.step_hours",
            lambda: training_windows(data, config.training, store),
        ),
        (
            "data.validation",
            "change it or data.step_hours",
            lambda: validation_windows(data, config.training, store),
        ),
    )
    for where, remedy, test in tests:
        try:
            test()
        except (UserError, LayoutError) as error:
            yield Problem("error", where, str(error), remedy)


def _in_reading(config: Config, store: States, architecture: Architecture) -> Iterable[Problem]:
    warning = reads_too_much(
        store,
        names(channels_of(config.data.variables, config.data.levels)),
        architecture,
        _layout(config),
    )
    if warning is not None:
        yield Problem(
            "warning",
            "data.store",
            warning,
            REMEDY,
        )


def _buffer_bytes(config: Config, architecture: Architecture) -> int:
    """Of rank 0, whose shards are the largest."""
    part = architecture.part(Mesh.describe(_layout(config)))
    channels = range(architecture.prognostic)[part.channels]
    columns = range(architecture.grid[1])[part.longitudes]
    values = len(channels) * architecture.grid[0] * len(columns)
    state = values * state_dtype(config.training).itemsize
    training = config.training
    return buffer_bytes(training.instance_batch * (training.longest_rollout + 1) * state, state)


def _layout(config: Config) -> Layout:
    """The mesh, as far as the configuration says; what it leaves open depends on the ranks."""
    return Layout(domain=config.parallel.domain or 1, tensor=config.parallel.tensor or 1)

"""What is wrong with a configuration and the store it names, found without running anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from weathermixer.config import Config, Problem, parse_config
from weathermixer.data.channels import STATIC_VARIABLES, channels_of, names
from weathermixer.data.store import Store
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.mixer import architecture_of
from weathermixer.training.prepare import check_step, training_windows, validation_windows


def find_problems(path: Path, overrides: Sequence[str] = ()) -> list[Problem]:
    """Every problem of a configuration file with its overrides; none where it can be trained.

    Raises UserError only where the file itself cannot be read.
    """
    config = parse_config(path, overrides)
    if not isinstance(config, Config):
        return config
    problems = list(_in_settings(config))
    try:
        store = Store.open(config.data.store)
    except UserError as error:
        return [*problems, Problem("error", "data.store", str(error), "correct the path")]
    return problems + list(_against_store(config, store))


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


def _against_store(config: Config, store: Store) -> Iterable[Problem]:
    data = config.data

    def channels() -> None:
        store.channel_indices(names(channels_of(data.variables, data.levels)))

    def mesh() -> None:
        layout = Layout(domain=config.parallel.domain or 1, tensor=config.parallel.tensor or 1)
        try:
            architecture = architecture_of(config, store.grid)
        except UserError:
            return  # which is a problem of its own
        architecture.check(Mesh.describe(layout))

    other_store = "or use another store"
    tests: tuple[tuple[str, str, Callable[[], object]], ...] = (
        ("data.variables", f"change it or data.levels, {other_store}", channels),
        ("data.static", f"change it, {other_store}", lambda: store.read_static(data.static)),
        ("model.patch", "change it", lambda: architecture_of(config, store.grid)),
        ("parallel", "use fewer ranks along that axis, or a larger network", mesh),
        ("data.step_hours", f"change it, {other_store}", lambda: check_step(config, store)),
        ("data.train", "change it or data.step_hours", lambda: training_windows(config, store)),
        (
            "data.validation",
            "change it or data.step_hours",
            lambda: validation_windows(config, store),
        ),
        ("data.store", "use another store", lambda: store.statistics),
    )
    for where, remedy, test in tests:
        try:
            test()
        except (UserError, LayoutError) as error:
            yield Problem("error", where, str(error), remedy)

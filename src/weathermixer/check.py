"""What is wrong with a configuration and the store it names, found without running anything.

Each check is a small function that notes the problems that it sees. A new one takes its place in
``SETTINGS_CHECKS`` where the configuration alone tells, else in ``STORE_CHECKS``, or, where it
needs a network that fits, in ``NETWORK_CHECKS``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weathermixer.config import LEVELS_HPA, Config, Problem, parse_config
from weathermixer.config.kinds import listed
from weathermixer.config.presets import PUBLISHED
from weathermixer.data.channels import PRESSURE_VARIABLES, names, predicted_channels
from weathermixer.data.feeding.read_ahead import buffer_bytes, kept_states_bytes
from weathermixer.data.opening import open_states
from weathermixer.data.states import States
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture, architecture_of
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.model.cuts import check_cuts, describe
from weathermixer.planning.choosing import MACHINE_VARIABLE, choose_mesh
from weathermixer.planning.reading_share import REMEDY, reading_warning
from weathermixer.planning.sample_sizes import SampleSizes
from weathermixer.planning.small_scales_work import require_room
from weathermixer.training.beginning import check_step
from weathermixer.training.best_score import require_score
from weathermixer.training.ensemble import EQUAL_MEMBERS, members_can_differ
from weathermixer.training.feed import training_windows, validation_windows
from weathermixer.training.forecast_scores import require_climatology


@dataclass(frozen=True)
class Findings:
    """The problems of a configuration; where none is an error, what memory reading takes.

    ``buffer_bytes`` is the most that reading ahead holds on a rank; ``kept_bytes`` the most that
    the ranks of one machine keep, together, of states that were read.
    """

    problems: list[Problem]
    buffer_bytes: int | None = None
    kept_bytes: int | None = None

    @property
    def has_errors(self) -> bool:
        """Whether any of the problems keeps a training from beginning."""
        return has_errors(self.problems)

    def to_json(self) -> dict[str, Any]:
        """The findings as an object of JSON."""
        result: dict[str, Any] = {"problems": [vars(problem) for problem in self.problems]}
        if self.buffer_bytes is not None:
            result["reading"] = {"buffer_bytes": self.buffer_bytes, "kept_bytes": self.kept_bytes}
        return result


def has_errors(problems: Sequence[Problem]) -> bool:
    """Whether any of the problems keeps a training from beginning."""
    return any(problem.severity == "error" for problem in problems)


class Notes:
    """The problems that checks note, in their order."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def warn(self, where: str, what: str, remedy: str) -> None:
        """Note something that does not keep a training from beginning."""
        self.problems.append(Problem("warning", where, what, remedy))

    def error(self, where: str, what: str, remedy: str) -> None:
        """Note something with which a training cannot begin."""
        self.problems.append(Problem("error", where, what, remedy))

    @contextmanager
    def noting_errors(self, where: str, remedy: str) -> Iterator[None]:
        """While entered, note as a problem the error with which a training would end here."""
        try:
            yield
        except (UserError, LayoutError, OSError) as error:
            self.error(where, str(error), remedy)


def check(path: Path, overrides: Sequence[str] = (), *, text: str | None = None) -> Findings:
    """Find every problem of a configuration file with its overrides; none if it can be trained.

    With ``text``, that is what the file says, and it is not read. Raises UserError only where the
    file itself cannot be opened.
    """
    config = parse_config(path, overrides, text=text)
    if not isinstance(config, Config):
        return Findings(config)
    notes = Notes()
    for check_settings in SETTINGS_CHECKS:
        check_settings(config, notes)
    with notes.noting_errors("data.store", "give the path of a store or of an archive"):
        store = open_states(config.data.store, config.data)
    if has_errors(notes.problems):
        return Findings(notes.problems)
    for check_store in STORE_CHECKS:
        check_store(config, store, notes)
    if has_errors(notes.problems):
        return Findings(notes.problems)
    architecture = architecture_of(config.data, config.model, store.grid)
    for check_network in NETWORK_CHECKS:
        check_network(config, store, architecture, notes)
    return Findings(
        notes.problems,
        buffer_bytes=_buffer_bytes(config, architecture),
        kept_bytes=kept_states_bytes(ranks=1),
    )


def _rollout_is_reached(config: Config, notes: Notes) -> None:
    training = config.training
    for name in ("rollout", "latent_rollout"):
        schedule = getattr(training, name)
        for start in schedule if isinstance(schedule, dict) else ():
            if start >= training.steps:
                notes.warn(
                    f"training.{name}",
                    f"its entry from step {start} is never reached in {training.steps} steps",
                    "remove the entry, or train for longer",
                )


def _stages_are_recomputed(config: Config, notes: Notes) -> None:
    training = config.training
    if training.recompute == "stages" and training.longest_rollout == 1:
        notes.warn(
            "training.recompute",
            "stages are the applications of the network in a rollout, and training.rollout has one "
            "alone, so nothing is computed again",
            "set it to blocks, or to null for what fits",
        )


def _narrow_exchanges_are_made(config: Config, notes: Notes) -> None:
    parallel = config.parallel
    if parallel.exchange_dtype and parallel.domain == parallel.tensor == 1:
        notes.warn(
            "parallel.exchange_dtype",
            "each model instance is one rank, which exchanges nothing within it, so it changes "
            "nothing",
            "remove it, or set parallel.domain or parallel.tensor above 1",
        )
    elif parallel.exchange_dtype and not _exchanges_float32(config):
        notes.warn(
            "parallel.exchange_dtype",
            "with training.dtype bfloat16 all that a model instance exchanges of activations and "
            "weights is bfloat16, so it changes nothing",
            "remove it",
        )


def _exchanges_float32(config: Config) -> bool:
    """Whether anything that products or edges exchange is wider than bfloat16."""
    if config.training.dtype != "bfloat16":
        return True
    return config.model.smoothing > 0 or config.model.prediction == "state"


def _cycle_ends(config: Config, notes: Notes) -> None:
    training = config.training
    left = training.steps - training.warmup_steps
    for name, schedule in (("cycle_steps", "cosine"), ("cooldown_steps", "cooldown")):
        if getattr(training, name) is not None and training.schedule != schedule:
            notes.warn(
                f"training.{name}",
                f"training.schedule is {training.schedule}, so it changes nothing",
                f"remove it, or set training.schedule={schedule}",
            )
    if training.schedule == "cooldown" and (training.cooldown_steps or 0) > left:
        notes.warn(
            "training.cooldown_steps",
            f"{training.cooldown_steps} are more than the {left} steps after warm-up, over which "
            "the learning rate falls instead",
            f"set it to {left} or less",
        )
    if training.schedule == "cosine" and (training.cycle_steps or 0) > left:
        notes.warn(
            "training.cycle_steps",
            f"a cosine of {training.cycle_steps} steps is cut off by training.steps, which leaves "
            f"{left} after warm-up, so the learning rate stays above "
            "training.final_learning_rate",
            f"set it to {left} or less, or to null for one cosine to the end"
            + _of_preset(config, "training", "cycle_steps"),
        )


def _no_rate_is_above_the_highest(config: Config, notes: Notes) -> None:
    highest = config.training.learning_rate
    for name in ("warmup_learning_rate", "final_learning_rate"):
        rate = getattr(config.training, name)
        if rate > highest:
            notes.warn(
                f"training.{name}",
                f"{rate:g} is above training.learning_rate ({highest:g}), the highest",
                "lower it, or raise training.learning_rate",
            )


def _rates_are_of_parameters(config: Config, notes: Notes) -> None:
    model = config.model
    has_head = model.prediction == "state" or model.smoothing
    if "head" in config.training.learning_rates and not has_head:
        notes.warn(
            "training.learning_rates",
            "has a rate for the head, which has nothing to learn with model.prediction=increment "
            "and model.smoothing=0",
            "remove it",
        )


def _loss_is_as_set(config: Config, notes: Notes) -> None:
    training = config.training
    channels = predicted_channels(config.data)
    known = {name for channel in channels for name in (channel.variable, channel.name)}
    unknown = [name for name in training.channel_weights if name not in known]
    if unknown:
        notes.warn(
            "training.channel_weights",
            f"lists {listed(unknown)}, which the network does not predict, so it changes nothing",
            "remove it, or add to data.variables or data.levels",
        )
    if not any(training.channel_weight(channel.name) for channel in channels):
        notes.error(
            "training.channel_weights",
            "is 0 for every channel, so there is nothing to learn",
            "give at least one a weight above 0",
        )
    if training.error != "huber" and training.huber_threshold != 1.0:
        notes.warn(
            "training.huber_threshold",
            f"training.error is {training.error}, so it changes nothing",
            "remove it, or set training.error=huber",
        )
    if "validation_scores" in training.model_fields_set and not training.validation_leads:
        notes.warn(
            "training.validation_scores",
            "training.validation_leads lists no lead time, so no forecast is scored",
            "list some, such as [24, 72], or remove it",
        )


def _members_differ(config: Config, notes: Notes) -> None:
    remedy = "set model.local_noise, such as to 16, or model.dropout"
    if config.training.members > 1 and not members_can_differ(config):
        notes.warn("training.members", EQUAL_MEMBERS, remedy)
    for setting in ("noise", "local_noise"):
        if config.training.members > 1 or not getattr(config.model, setting):
            continue
        notes.warn(
            f"model.{setting}",
            "is there for members to differ, and training.members is 1, so the network learns to "
            "do without",
            "set training.error=crps and training.members, or remove it",
        )


def _levels_are_used(config: Config, notes: Notes) -> None:
    data = config.data
    if data.levels != LEVELS_HPA and not set(data.variables) & set(PRESSURE_VARIABLES):
        notes.warn(
            "data.levels",
            "no variable of data.variables lies on pressure levels, so it changes nothing",
            "remove it, or add such a variable",
        )


def _channels_are_there(config: Config, store: States, notes: Notes) -> None:
    with notes.noting_errors("data.variables", "change it or data.levels, or use another store"):
        store.channel_indices(names(predicted_channels(config.data)))


def _static_fields_are_there(config: Config, store: States, notes: Notes) -> None:
    with notes.noting_errors("data.static", "change it, or use another store"):
        store.read_static(config.data.static)


def _patches_fit(config: Config, store: States, notes: Notes) -> None:
    remedy = "change it" + _of_preset(config, "model", "patch")
    with notes.noting_errors("model.patch", remedy):
        architecture_of(config.data, config.model, store.grid)


def _mesh_fits(config: Config, store: States, notes: Notes) -> None:
    try:
        architecture = architecture_of(config.data, config.model, store.grid)
    except UserError:
        return  # which is a problem of its own
    remedy = "use fewer ranks along that axis, or a larger network"
    with notes.noting_errors("parallel", remedy):
        layout = _layout(config)
        check_cuts(architecture, Mesh.describe(layout))
        require_room(config.training, layout, architecture)


def _step_is_that_of_the_store(config: Config, store: States, notes: Notes) -> None:
    with notes.noting_errors("data.step_hours", "change it, or use another store"):
        check_step(config.data, store)


def _periods_hold_samples(config: Config, store: States, notes: Notes) -> None:
    within = f"choose a period within {store.times[0]}/{store.times[-1]}, or change data.step_hours"
    for name, windows in (("train", training_windows), ("validation", validation_windows)):
        remedy = within + _of_preset(config, "data", name)
        with notes.noting_errors(f"data.{name}", remedy):
            windows(config.data, config.training, store)


def _anomalies_have_a_climatology(config: Config, store: States, notes: Notes) -> None:
    with notes.noting_errors("training.validation_scores", "remove it, or use another store"):
        require_climatology(config.training, store)


def _what_is_left_out_is_said(config: Config, store: States, notes: Notes) -> None:
    for remark in store.remarks:
        notes.warn("data.store", remark, "mend the archive, or go on without them")


def _ends_of_periods_can_be_read(
    config: Config, store: States, architecture: Architecture, notes: Notes
) -> None:
    """Reads the states that a training needs first and last, which may be missing."""
    data, training = config.data, config.training
    channels = store.channel_indices(names(predicted_channels(data)))
    within = f"choose a period within {store.times[0]}/{store.times[-1]} that holds states"
    with notes.noting_errors("data.train", within):
        windows = training_windows(data, training, store)
        for index in sorted({*windows[0].tolist(), *windows[-1].tolist()}):
            store.read(index, channels)
    samples = validation_windows(data, training, store)
    try:
        for index in sorted({*samples[:1].ravel().tolist(), *samples[-1:].ravel().tolist()}):
            store.read(index, channels)
    except UserError as error:
        notes.warn("data.validation", f"{error}: validation leaves it out", within)


def _chunks_fit_the_mesh(
    config: Config, store: States, architecture: Architecture, notes: Notes
) -> None:
    channels = names(predicted_channels(config.data))
    warning = reading_warning(store, channels, architecture, _layout(config))
    if warning is not None:
        notes.warn("data.store", warning, REMEDY)


def _best_is_a_score(config: Config, notes: Notes) -> None:
    with notes.noting_errors("checkpoint.best", "see 'weathermixer train --help'"):
        channels = names(predicted_channels(config.data))
        require_score(config.checkpoint.best, channels, config.training)


SETTINGS_CHECKS: tuple[Callable[[Config, Notes], None], ...] = (
    _best_is_a_score,
    _rollout_is_reached,
    _stages_are_recomputed,
    _narrow_exchanges_are_made,
    _cycle_ends,
    _no_rate_is_above_the_highest,
    _rates_are_of_parameters,
    _loss_is_as_set,
    _members_differ,
    _levels_are_used,
)
STORE_CHECKS: tuple[Callable[[Config, States, Notes], None], ...] = (
    _what_is_left_out_is_said,
    _channels_are_there,
    _static_fields_are_there,
    _patches_fit,
    _mesh_fits,
    _step_is_that_of_the_store,
    _periods_hold_samples,
    _anomalies_have_a_climatology,
)


def _memory_is_enough(
    config: Config, store: States, architecture: Architecture, notes: Notes
) -> None:
    """What the ranks that the configuration names hold, on the machine that commands run on."""
    layout = replace(_layout(config), data=config.parallel.data)
    try:
        choose_mesh(config, architecture, world_size=layout.world_size)
    except LayoutError:
        return  # ranks that the configuration leaves open
    except UserError as error:
        remedy = f"change it, or name the machine that it is to run on in {MACHINE_VARIABLE}"
        # Without a name it may be meant for another machine than this one.
        note = notes.error if MACHINE_VARIABLE in os.environ else notes.warn
        note("model", str(error), remedy)


NETWORK_CHECKS: tuple[Callable[[Config, States, Architecture, Notes], None], ...] = (
    _chunks_fit_the_mesh,
    _ends_of_periods_can_be_read,
    _memory_is_enough,
)


def _of_preset(config: Config, section: str, key: str) -> str:
    """Says in a message that a value is the published one, which the user may not have set."""
    value = getattr(getattr(config, section), key)
    value = list(value) if isinstance(value, tuple) else value
    is_published = config.preset == "published" and value == PUBLISHED[section][key]
    return "; the value is the default of preset: published" if is_published else ""


def _buffer_bytes(config: Config, architecture: Architecture) -> int:
    """The most that reading ahead holds on rank 0, whose shards are the largest."""
    sizes = SampleSizes.of(describe(architecture, Mesh.describe(_layout(config))))
    training = config.training
    batch = sizes.batch(training.instance_batch, training.longest_rollout)
    value_bytes = Arithmetic.of(training.dtype).states.itemsize
    return buffer_bytes(batch * value_bytes, sizes.state * value_bytes)


def _layout(config: Config) -> Layout:
    """The mesh, as far as the configuration says; what it leaves open depends on the ranks."""
    return Layout(domain=config.parallel.domain or 1, tensor=config.parallel.tensor or 1)

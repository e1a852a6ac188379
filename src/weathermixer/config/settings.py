"""The whole configuration, and the list of its settings.

One definition serves the YAML file, the overrides on the command line, the errors and the help.
What a section holds is in ``sections.py`` and ``training_settings.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin

from pydantic import Field, model_validator

from weathermixer.config.kinds import refusal, text_of
from weathermixer.config.presets import with_published_defaults
from weathermixer.config.sections import (
    Checkpoint,
    Data,
    Logging,
    Model,
    Parallel,
    Section,
    is_section,
)
from weathermixer.config.training_settings import Training


class Config(Section):
    """The whole configuration of a run."""

    preset: Literal["increment", "published"] = Field(
        "increment",
        description="defaults for what is not set: a recipe that learns quickly from little data, "
        "or the model, loss and schedule of the publication",
    )
    model: Model = Field(default_factory=Model)
    data: Data
    parallel: Parallel = Field(default_factory=Parallel)
    training: Training = Field(default_factory=Training)
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    logging: Logging = Field(default_factory=Logging)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        # A section whose keys are all commented out is one in which nothing is set.
        filled = {key: {} if _is_empty(key, value) else value for key, value in values.items()}
        filled.setdefault("data", {})
        return with_published_defaults(filled) if filled.get("preset") == "published" else filled

    @model_validator(mode="after")
    def _advances_by_what_it_is_given(self) -> Self:
        if self.data.input_times > 1 and self.training.longest_latent > 1:
            raise refusal(
                f"training.latent_rollout forecasts {self.training.longest_latent} steps at once, "
                f"and data.input_times={self.data.input_times} gives states one step apart",
                "leave one of them out",
            )
        return self

    @model_validator(mode="after")
    def _scores_what_it_forecasts(self) -> Self:
        advance = self.training.shortest_advance
        seconds = round(3600 * self.data.step_hours) * advance
        others = [lead for lead in self.training.validation_leads if round(3600 * lead) % seconds]
        if others:
            raise refusal(
                f"training.validation_leads lists {', '.join(map(text_of, others))}, and forecasts "
                f"advance by {text_of(seconds / 3600)} h at a time (data.step_hours="
                f"{text_of(self.data.step_hours)}, training.latent_rollout={advance})",
                "list multiples of it",
            )
        return self


def settings() -> Iterable[tuple[str, str, str]]:
    """Every setting as (key, default, meaning), in order, for help and documentation."""
    for name, field in Config.model_fields.items():
        kind = field.annotation
        members = kind.model_fields if is_section(kind) else {None: field}
        for key, member in members.items():
            default = "required" if member.is_required() else text_of(member.default)
            yield f"{name}.{key}" if key else name, default, member.description or ""


def choices(key: str) -> tuple[str, ...]:
    """The values of a setting such as ``training.dtype``, as text, where it has but a few.

    >>> choices("data.reader"), choices("training.steps")
    (('zarr', 'tensorstore'), ())
    """
    section, _, name = key.partition(".")
    kind = Config.model_fields[section].annotation if section in Config.model_fields else None
    if is_section(kind):
        kind = kind.model_fields[name].annotation if name in kind.model_fields else None
    return tuple(_choices(kind))


def _choices(kind: Any) -> Iterator[str]:
    if kind is bool:
        yield from ("true", "false")
    elif get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    elif get_origin(kind) in (UnionType, Union):
        for each in get_args(kind):
            yield from _choices(each)


def _is_empty(key: str, value: Any) -> bool:
    field = Config.model_fields.get(key)
    return value is None and field is not None and is_section(field.annotation)

"""Every setting, typed, with its meaning, its unit and its check.

One definition serves the YAML file, the overrides on the command line, the errors and the help.
Nothing here looks at a store: what can only be known with data in hand is in ``check.py``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from weathermixer.errors import UserError

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Period = tuple[np.datetime64, np.datetime64]
Reader = Literal["zarr", "tensorstore"]
# Apart from a path, in which "//" would become "/".
Address = Annotated[str, Field(pattern="://")]


class Section(BaseModel):
    """A part of the configuration: frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Model(Section):
    """The network."""

    prediction: Literal["increment", "state"] = Field(
        "increment",
        description="what the network returns: the change over a step, in units of its standard "
        "deviation, or the next state through the published decoder and blend",
    )
    patch: tuple[PositiveInt, PositiveInt] = Field(
        (4, 4), description="grid points of a token, latitude × longitude"
    )
    channels: PositiveInt = Field(320, description="latent channels of a token")
    blocks: PositiveInt = Field(4, description="mixer blocks")
    token_hidden: PositiveFloat = Field(
        2.0, description="hidden width of token mixing, as a multiple of the number of tokens"
    )
    channel_hidden: PositiveFloat = Field(
        1.0, description="hidden width of channel mixing, as a multiple of model.channels"
    )
    dropout: Fraction = Field(0.0, description="probability of zeroing a hidden value in training")


class Data(Section):
    """Which states the network sees."""

    store: Address | Path = Field(
        union_mode="left_to_right",
        description="the prepared store; or the path or address of a Zarr archive in WeatherBench "
        "2's layout, which is then read as it is",
    )
    reader: Reader = Field(
        "zarr", description="library that reads a prepared store; tensorstore is to be installed"
    )
    variables: tuple[str, ...] = Field(
        (
            "geopotential",
            "specific_humidity",
            "temperature",
            "u_component_of_wind",
            "v_component_of_wind",
            "mean_sea_level_pressure",
            "10m_u_component_of_wind",
            "10m_v_component_of_wind",
            "2m_temperature",
        ),
        description="variables to predict; pressure variables on every level",
    )
    levels: tuple[PositiveInt, ...] = Field(
        (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000),
        description="pressure levels, hPa",
    )
    static: tuple[str, ...] = Field(
        ("land_sea_mask", "soil_type", "geopotential_at_surface"),
        description="fields that do not change, given to the network beside the state",
    )
    step_hours: PositiveFloat = Field(6.0, description="lead time of one step, hours")
    train: str | None = Field(
        None,
        description="training period, START/STOP in ISO 8601, inclusive; "
        "the first four fifths of the store's times where unset",
    )
    validation: str | None = Field(
        None,
        description="validation period, START/STOP; "
        "the tenth of the store's times after the first four fifths where unset",
    )

    @field_validator("train", "validation")
    @classmethod
    def _is_period(cls, value: str | None) -> str | None:
        if value is not None:
            parse_period(value)
        return value


class Parallel(Section):
    """The mesh of ranks."""

    data: PositiveInt = Field(1, description="replicas, each on its own samples")
    domain: PositiveInt | None = Field(
        None,
        description="ranks that share a sample's longitudes; where it or the next is unset, what "
        "sends the fewest bytes on the ranks that were started",
    )
    tensor: PositiveInt | None = Field(
        None, description="ranks that share a sample's variables and the latent channels"
    )
    shard_optimizer: bool = Field(
        False, description="divide the optimizer's state among the replicas"
    )


class Training(Section):
    """How the network learns."""

    steps: PositiveInt = Field(2000, description="optimizer steps")
    seed: NonNegativeInt = Field(0, description="of initial weights, data order and dropout")
    dtype: Literal["float64", "float32", "bfloat16"] = Field(
        "float32",
        description="arithmetic; with bfloat16, weights, encoder and state stay in float32",
    )
    recompute: bool = Field(
        False,
        description="compute a block's activations again in the backward pass instead of keeping "
        "them: less memory, a third more operations",
    )
    instance_batch: PositiveInt = Field(4, description="samples per model instance and step")
    rollout: PositiveInt | dict[NonNegativeInt, PositiveInt] = Field(
        1,
        description="steps forecast in each sample, each from the one before; "
        "or a table {from optimizer step: length}",
    )
    loss: Literal["increment", "published"] = Field(
        "increment",
        description="squared error in units of each channel's step standard deviation, weighted by "
        "area; or the published weighting of normalised fields",
    )
    optimizer: Literal["adamw", "adam"] = Field(
        "adamw", description="with decoupled weight decay, or with decay added to the gradient"
    )
    learning_rate: PositiveFloat = Field(4e-3, description="the highest, after warm-up")
    edge_learning_rate: PositiveFloat | None = Field(
        None, description="of the encoder and decoder; training.learning_rate where unset"
    )
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.95), description="of Adam's two averages")
    weight_decay: NonNegativeFloat = Field(0.05, description="of weights, not of biases and gains")
    clip_norm: PositiveFloat = Field(1.0, description="largest norm of the whole gradient")
    warmup_steps: NonNegativeInt = Field(100, description="steps of linear warm-up")
    warmup_learning_rate: NonNegativeFloat = Field(1e-6, description="where warm-up starts")
    final_learning_rate: NonNegativeFloat = Field(1e-6, description="where each cosine ends")
    cycle_steps: PositiveInt | None = Field(
        None,
        description="length of one cosine after warm-up; the next starts at half the height; "
        "where unset, one cosine lasts to the end",
    )
    validate_every: PositiveInt = Field(500, description="steps between validations")
    validation_samples: PositiveInt = Field(32, description="samples of a validation, at most")

    @field_validator("rollout")
    @classmethod
    def _starts_at_zero(cls, value: int | dict[int, int]) -> int | dict[int, int]:
        if isinstance(value, dict) and 0 not in value:
            raise ValueError("a table of rollout lengths must say the length from step 0")
        return value

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) must be below steps ({self.steps})"
            )
        return self

    def rollout_at(self, step: int) -> int:
        """Steps forecast in each sample at an optimizer step."""
        if isinstance(self.rollout, int):
            return self.rollout
        return self.rollout[max(start for start in self.rollout if start <= step)]

    @property
    def longest_rollout(self) -> int:
        return self.rollout if isinstance(self.rollout, int) else max(self.rollout.values())


class Checkpoint(Section):
    """What is kept of a run."""

    every: PositiveInt = Field(500, description="steps between checkpoints; one more at the end")
    keep: PositiveInt = Field(2, description="newest checkpoints kept")
    resume: bool = Field(False, description="continue a run that has checkpoints; as --resume does")


class Logging(Section):
    """What is said while training."""

    every: PositiveInt = Field(10, description="steps between lines of the log")
    tensorboard: bool = Field(True, description="write TensorBoard events into the run")


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
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("preset") != "published":
            return values
        return _merge(_PUBLISHED, values)


# Of arXiv 2507.05753. 1979 to 2016 has 55,520 six-hourly samples; with one in each step, that is an
# epoch of warm-up, and a hundred make a cosine.
_PUBLISHED: dict[str, Any] = {
    "model": {
        "prediction": "state",
        "patch": [1, 60],
        "channels": 4320,
        "blocks": 3,
        "token_hidden": 0.5,
        "channel_hidden": 1.0,
        "dropout": 0.001,
    },
    "data": {
        "train": "1979-01-01/2016-12-31T18",
        "validation": "2018-01-01/2018-12-31T18",
    },
    "training": {
        "steps": 5_607_520,
        "instance_batch": 1,
        "loss": "published",
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "edge_learning_rate": 2e-5,
        "betas": [0.9, 0.999],
        "weight_decay": 3e-6,
        "warmup_steps": 55_520,
        "warmup_learning_rate": 1e-6,
        "final_learning_rate": 1e-5,
        "cycle_steps": 5_552_000,
    },
}


@dataclass(frozen=True)
class Problem:
    """Something found wrong with a configuration, or with what it refers to."""

    severity: Literal["error", "warning"]
    where: str
    what: str
    remedy: str

    def sentence(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}"


def read_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in a YAML file, with ``section.key=value`` overrides.

    Raises UserError with every problem found, in one sentence.
    """
    found = parse_config(path, overrides)
    if isinstance(found, Config):
        return found
    raise UserError(". ".join(problem.sentence() for problem in found))


def parse_config(path: Path, overrides: Sequence[str] = ()) -> Config | list[Problem]:
    """The configuration in a YAML file, or everything that is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the configuration {path} cannot be read ({error.strerror}): correct the path"
        ) from error
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(
            f"{path} must hold sections such as 'model:' and 'data:', not a plain value"
        )
    for override in overrides:
        _override(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        found = [_problem(detail, path) for detail in error.errors()]
        # A value that fits none of several types is reported once for each of them.
        return list({problem.where: problem for problem in reversed(found)}.values())[::-1]


def write_config(config: Config, path: Path) -> None:
    """Save a configuration as YAML that ``read_config`` reads back equal."""
    path.write_text(
        yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8"
    )


def parse_period(text: str) -> Period:
    """``START/STOP`` in ISO 8601, both inclusive; a day as STOP means its last second."""
    start, slash, stop = text.partition("/")
    try:
        if not slash:
            raise ValueError
        first = np.datetime64(start, "s")
        last_unit = np.datetime64(stop)
        last = (last_unit + 1).astype("datetime64[s]") - np.timedelta64(1, "s")
    except ValueError:
        raise ValueError(f"{text!r} is not START/STOP, such as 1979-01-01/2016-12-31T18") from None
    if first > last:
        raise ValueError(f"{text!r} ends before it starts")
    return first, last


def period_of(text: str, key: str) -> Period:
    """A period that the user gave under a key; UserError where it is none."""
    try:
        return parse_period(text)
    except ValueError as error:
        raise UserError(f"{key} {error}") from error


def settings() -> Iterable[tuple[str, str, str]]:
    """Every setting as (key, default, meaning), in order, for help and documentation."""
    for name, section in Config.model_fields.items():
        kind = section.annotation
        if not (isinstance(kind, type) and issubclass(kind, Section)):
            yield name, str(section.default), section.description or ""
            continue
        for key, field in kind.model_fields.items():
            default = "required" if field.is_required() else str(field.default)
            yield f"{name}.{key}", default, field.description or ""


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.removeprefix("--").partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise UserError(
            f"{override!r} is not an override: write --section.key=value, "
            "such as --training.steps=100"
        )
    section = values
    for part in parts[:-1]:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise UserError(f"{key!r} cannot be set: {part!r} is not a section")
    try:
        section[parts[-1]] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--{key}={text!r}: the value is not valid YAML; quote it") from error


def _merge(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(defaults)
    for key, value in values.items():
        default = merged.get(key)
        both = isinstance(default, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(default, value) if both else value  # type: ignore[arg-type]
    return merged


def _problem(detail: Any, path: Path) -> Problem:
    """One of pydantic's findings, in this project's words."""
    # Further parts of the location name elements of a list and alternatives of a type.
    section_and_key = [part for part in detail["loc"] if isinstance(part, str)][:2]
    where = ".".join(section_and_key)
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where, [key for key, _, _ in settings()], n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "remove it, or see 'weathermixer train -h'"
        return Problem("error", where, "there is no such key", hint)
    if detail["type"] == "missing" and len(detail["loc"]) <= 2:
        return Problem("error", where, "is not set", f"set it in {path} or with --{where}=...")
    value = detail["input"]
    message = detail["msg"].removeprefix("Value error, ")
    return Problem("error", where, f"{value!r} is impossible", f"{message[0].lower()}{message[1:]}")

"""Every setting, typed, with its meaning, its unit and its check.

One definition serves the YAML file, the overrides on the command line, the errors and the help.
Nothing here reads a file or looks at a store: what can only be known with data in hand is in
``check.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeGuard, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    ValidationInfo,
    field_validator,
    model_validator,
)

from weathermixer.config.dates import parse_period
from weathermixer.config.kinds import (
    Address,
    AsList,
    Count,
    Fraction,
    Hours,
    Length,
    Multiple,
    Number,
    Ranks,
    Reader,
    Seed,
    listed,
    refusal,
    refuse_truth_values,
    require_known,
    text_of,
)
from weathermixer.config.presets import fitting_schedule, published
from weathermixer.config.variables import (
    LEVELS_HPA,
    PRESSURE_LEVEL_NAMES,
    STATIC_NAMES,
    VARIABLE_NAMES,
)


class Section(BaseModel):
    """A part of the configuration: frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _has_a_value(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses what would be converted in silence: nothing at all, and true for a number."""
        assert info.field_name is not None
        kind = cls.model_fields[info.field_name].annotation
        if (value is None and NoneType not in get_args(kind)) or value == "":
            raise refusal("has no value", "give it one, or remove it to have the default")
        if kind is not bool and not isinstance(value, BaseModel) and not _is_section(kind):
            refuse_truth_values(value)
        return value


class Model(Section):
    """The network."""

    prediction: Literal["increment", "state"] = Field(
        "increment",
        description="what the network returns: the change over a step, in units of its standard "
        "deviation, or the next state through the published decoder and blend",
    )
    patch: Annotated[tuple[Count, Count], AsList] = Field(
        (4, 4), description="grid points of a token, latitude × longitude"
    )
    channels: Count = Field(320, description="latent channels of a token")
    blocks: Count = Field(4, description="mixer blocks")
    token_hidden: Multiple = Field(
        2.0, description="hidden width of token mixing, as a multiple of the number of tokens"
    )
    channel_hidden: Multiple = Field(
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
    variables: Annotated[tuple[str, ...], AsList] = Field(
        VARIABLE_NAMES, description="variables to predict; pressure variables on every level"
    )
    levels: Annotated[tuple[Count, ...], AsList] = Field(
        LEVELS_HPA, description="pressure levels, hPa"
    )
    static: Annotated[tuple[str, ...], AsList] = Field(
        STATIC_NAMES,
        description="fields that do not change, given to the network beside the state",
    )
    step_hours: Hours = Field(6.0, description="lead time of one step, hours")
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

    @field_validator("store")
    @classmethod
    def _in_the_home_folder(cls, value: str | Path) -> str | Path:
        # No shell expands it in a file, nor behind an equals sign.
        is_home = isinstance(value, Path) and value.parts[:1] == ("~",)
        return Path(value).expanduser() if is_home else value

    @field_validator("variables", "levels", "static")
    @classmethod
    def _lists_nothing_twice(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        repeated = {entry: None for entry in value if value.count(entry) > 1}
        if repeated:
            raise refusal(f"lists {listed(repeated)} twice", "remove the repeated entry")
        return value

    @field_validator("variables")
    @classmethod
    def _are_variables(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise refusal("lists no variable", f"choose among {', '.join(VARIABLE_NAMES)}")
        return require_known(value, VARIABLE_NAMES, "variable")

    @field_validator("static")
    @classmethod
    def _are_static_fields(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return require_known(value, STATIC_NAMES, "static field")

    @field_validator("levels")
    @classmethod
    def _has_levels(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if not value and set(info.data.get("variables", ())) & set(PRESSURE_LEVEL_NAMES):
            raise refusal(
                "lists no level, and data.variables has some that lie on levels",
                "list levels, or leave those variables out",
            )
        return value

    @field_validator("train", "validation")
    @classmethod
    def _is_period(cls, value: str | None) -> str | None:
        if value is not None:
            parse_period(value)
        return value


class Parallel(Section):
    """The mesh of ranks."""

    data: Ranks = Field(1, description="replicas, each on its own samples")
    domain: Ranks | None = Field(
        None,
        description="ranks that share a sample's longitudes; where it or the next is unset, what "
        "sends the fewest bytes on the ranks that were started",
    )
    tensor: Ranks | None = Field(
        None, description="ranks that share a sample's variables and the latent channels"
    )
    shard_optimizer: bool = Field(
        False, description="divide the optimizer's state among the replicas"
    )


class Training(Section):
    """How the network learns."""

    steps: Count = Field(2000, description="optimizer steps")
    seed: Seed = Field(0, description="of initial weights, data order and dropout")
    dtype: Literal["float64", "float32", "bfloat16"] = Field(
        "float32",
        description="arithmetic; with bfloat16, weights, encoder and state stay in float32",
    )
    recompute: bool = Field(
        False,
        description="compute a block's activations again in the backward pass instead of keeping "
        "them: less memory, a third more operations",
    )
    instance_batch: Count = Field(4, description="samples per model instance and step")
    rollout: Length | dict[Number, Length] = Field(
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
    betas: Annotated[tuple[Fraction, Fraction], AsList] = Field(
        (0.9, 0.95), description="of Adam's two averages"
    )
    weight_decay: NonNegativeFloat = Field(0.05, description="of weights, not of biases and gains")
    clip_norm: PositiveFloat = Field(1.0, description="largest norm of the whole gradient")
    warmup_steps: Number = Field(
        100,
        description="steps of linear warm-up; where unset and training.steps are no more, a tenth "
        "of those",
    )
    warmup_learning_rate: NonNegativeFloat = Field(
        1e-6,
        description="where warm-up starts; where unset, never above training.learning_rate",
    )
    final_learning_rate: NonNegativeFloat = Field(
        1e-6,
        description="where each cosine ends; where unset, never above training.learning_rate",
    )
    cycle_steps: Count | None = Field(
        None,
        description="length of one cosine after warm-up; the next starts at half the height; "
        "where unset, one cosine lasts to the end",
    )
    validate_every: Count = Field(500, description="steps between validations; one more at the end")
    validation_samples: Count = Field(32, description="samples of a validation, at most")

    @model_validator(mode="before")
    @classmethod
    def _defaults_give_way(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        fitted = fitting_schedule(values, defaults)
        changed = {name: value for name, value in fitted.items() if value != defaults[name]}
        return {**changed, **values}

    @field_validator("rollout", mode="wrap")
    @classmethod
    def _is_a_table_of_steps(
        cls, value: Any, validate: Callable[[Any], int | dict[int, int]]
    ) -> int | dict[int, int]:
        if isinstance(value, Mapping):
            for key, length in value.items():
                if length is None and ":" in str(key):
                    raise refusal(
                        f"has no space after the colon of {str(key)!r}",
                        "write a table as {0: 1, 400: 2}",
                    )
        result = validate(value)
        if isinstance(result, dict):
            if len(result) < len(value):
                raise refusal("lists a step twice", "remove the repeated entry")
            if 0 not in result:
                raise ValueError("a table of rollout lengths must say the length from step 0")
        return result

    @field_validator("warmup_steps")
    @classmethod
    def _ends_within_the_steps(cls, value: int, info: ValidationInfo) -> int:
        steps = info.data.get("steps")
        if steps is not None and value >= steps:
            raise refusal(
                f"({value}) must be below training.steps ({steps})", "lower it, or train for longer"
            )
        return value

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

    every: Count = Field(500, description="steps between checkpoints; one more at the end")
    keep: Count = Field(2, description="newest checkpoints kept")
    resume: bool = Field(False, description="continue a run that has checkpoints; as --resume does")


class Logging(Section):
    """What is said while training."""

    every: Count = Field(10, description="steps between lines of the log")
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
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        # A section whose keys are all commented out is one in which nothing is set.
        filled = {key: {} if _is_empty(key, value) else value for key, value in values.items()}
        filled.setdefault("data", {})
        return published(filled) if filled.get("preset") == "published" else filled


def settings() -> Iterable[tuple[str, str, str]]:
    """Every setting as (key, default, meaning), in order, for help and documentation."""
    for name, field in Config.model_fields.items():
        kind = field.annotation
        members = kind.model_fields if _is_section(kind) else {None: field}
        for key, member in members.items():
            default = "required" if member.is_required() else text_of(member.default)
            yield f"{name}.{key}" if key else name, default, member.description or ""


def _is_section(kind: Any) -> TypeGuard[type[Section]]:
    return isinstance(kind, type) and issubclass(kind, Section)


def _is_empty(key: str, value: Any) -> bool:
    field = Config.model_fields.get(key)
    return value is None and field is not None and _is_section(field.annotation)

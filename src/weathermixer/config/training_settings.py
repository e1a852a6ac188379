"""The section of the configuration about training: every setting with its meaning and check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from weathermixer.config.kinds import (
    AsList,
    Count,
    Fraction,
    Hours,
    Number,
    Seed,
    listed,
    refusal,
    require_distinct,
    require_known,
)
from weathermixer.config.lengths import (
    Lengths,
    LengthSchedule,
    drawn_at,
    longest_at,
    shortest_at,
    starts_of,
    validated_schedule,
)
from weathermixer.config.presets import fitting_schedule
from weathermixer.config.sections import Data, Section
from weathermixer.config.variables import (
    DIAGNOSTIC_NAMES,
    PRESSURE_LEVEL_NAMES,
    VARIABLE_NAMES,
)

LearningGroup: TypeAlias = Literal["encoder", "blocks", "decoder", "head"]
ErrorKind: TypeAlias = Literal["squared", "absolute", "huber", "crps"]

Recompute = Literal["none", "blocks", "stages"]

FORECAST_SCORES = ("rmse", "acc", "bias", "activity")
"""What forecasts can be scored by in a validation, as ``verify`` does."""
ENSEMBLE_SCORES = ("crps", "spread", "spread_skill")
"""What ensembles can be scored by besides."""

_SWITCH = TypeAdapter[bool](bool)


class Training(Section):
    """How the network learns."""

    steps: Count = Field(2000, description="optimizer steps")
    seed: Seed = Field(0, description="of initial weights, data order, dropout and noise")
    dtype: Literal["float64", "float32", "tf32", "bfloat16"] = Field(
        "float32",
        description="arithmetic; with bfloat16, weights and states stay in float32, with tf32 "
        "everything but the factors of products, on GPUs",
    )
    recompute: Recompute | None = Field(
        None,
        description="what is computed again in the backward pass instead of being kept, to save "
        "memory: none; blocks, each mixer block (true), for a third more operations; or stages, "
        "each application of the network in a rollout, of which all but the last are; null: what "
        "takes the least time of what fits",
    )
    compile: bool = Field(
        False,
        description="let PyTorch compile what lies between products, which needs a C++ compiler, "
        "on GPUs Triton; same results but for rounding",
    )
    instance_batch: Count = Field(4, description="samples per model instance and step")
    micro_batch: Count | None = Field(
        None,
        description="samples of those that go through the network at a time, their gradients added "
        "up, to save memory; all at once where unset",
    )
    rollout: LengthSchedule = Field(
        1,
        description="times that the network is applied to each sample, each to what the one before "
        "made; a range such as 1-4, from which each optimizer step draws; "
        "or a table {from optimizer step: length or range}",
    )
    latent_rollout: LengthSchedule = Field(
        1,
        description="times that the blocks are applied between encoder and decoder, each advancing "
        "by a step, so that an application of the network advances by so many; length, range or "
        "table, as training.rollout",
    )
    loss: Literal["increment", "area", "published"] = Field(
        "increment",
        description="how errors of normalised fields are weighted: by area, in units of each "
        "channel's step standard deviation; by area alone; or as published, by cosine of latitude "
        "and channel, each to the power of the error",
    )
    error: ErrorKind = Field(
        "squared",
        description="what is averaged: the square of an error, its absolute value, the square up "
        "to a threshold and twice threshold times absolute value beyond, or the almost fair CRPS "
        "of training.members",
    )
    members: Count = Field(
        1,
        validate_default=True,
        description="members of the ensemble that is made of each sample, with training.error=crps",
    )
    instance_members: Count | None = Field(
        None,
        description="members of a sample that a model instance makes, a divisor of "
        "training.members; the next replicas make the others, of the same samples; all where unset",
    )
    huber_threshold: PositiveFloat = Field(
        1.0,
        description="where training.error=huber becomes linear, in units of the error that "
        "training.loss weighs: a channel's step standard deviation with increment, its standard "
        "deviation with area, and that over the published multiplier with published",
    )
    small_scales: NonNegativeFloat = Field(
        0.0,
        description="weight of the smallest scales along longitude in the loss, such as 0.1, so "
        "that long forecasts keep to the energy there: the loss of fourth differences is added, in "
        "units of those of the truth; 0: none is",
    )
    channel_weights: dict[str, NonNegativeFloat] = Field(
        {},
        description="by what to multiply a channel's share of the loss, as a table of variables or "
        "single channels such as {2m_temperature: 3, temperature: 2, temperature_850: 4}; a "
        "channel's own entry goes before its variable's",
    )
    optimizer: Literal["adamw", "adam"] = Field(
        "adamw", description="with decoupled weight decay, or with decay added to the gradient"
    )
    schedule: Literal["cosine", "constant", "cooldown"] = Field(
        "cosine",
        description="what the learning rate does after warm-up: fall as half a cosine, stay, or "
        "stay and fall at the end of the training",
    )
    learning_rate: PositiveFloat = Field(4e-3, description="the highest, after warm-up")
    edge_learning_rate: PositiveFloat | None = Field(
        None, description="of the encoder, decoder and head; training.learning_rate where unset"
    )
    learning_rates: dict[LearningGroup, PositiveFloat] = Field(
        {},
        description="the highest of parts of the network, as a table of encoder, blocks, decoder "
        "and head such as {encoder: 1e-3, blocks: 4e-3}; goes before the two above",
    )
    betas: Annotated[tuple[Fraction, Fraction], AsList] = Field(
        (0.9, 0.95), description="of Adam's two averages"
    )
    weight_decay: NonNegativeFloat = Field(0.05, description="of weights, not of biases and gains")
    clip_norm: PositiveFloat = Field(1.0, description="largest norm of the whole gradient")
    average_decay: Fraction | None = Field(
        None,
        description="keep a moving average of the weights that forgets by this factor a step, such "
        "as 0.999, for validation and forecasts; null: none",
    )
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
        description="where each cosine or the cooldown ends; where unset, never above "
        "training.learning_rate",
    )
    cycle_steps: Count | None = Field(
        None,
        description="length of one cosine after warm-up; the next starts at half the height; "
        "where unset, one cosine lasts to the end",
    )
    cooldown_steps: Count | None = Field(
        None,
        description="length of the fall with training.schedule=cooldown, at most what follows "
        "warm-up; a fifth of training.steps where unset",
    )
    validate_every: Count = Field(500, description="steps between validations; one more at the end")
    validation_samples: Count = Field(32, description="samples of a validation, at most")
    validation_leads: Annotated[tuple[Hours, ...], AsList] = Field(
        (),
        description="lead times, hours, at which a validation scores forecasts from its samples "
        "too, such as 24, 72, 120; none where empty",
    )
    validation_scores: Annotated[tuple[str, ...], AsList] = Field(
        ("rmse",),
        description="what forecasts are scored by at training.validation_leads, as verify does: "
        f"some of {', '.join(FORECAST_SCORES)}, and of training.members "
        f"{', '.join(ENSEMBLE_SCORES)}",
    )
    on_divergence: Literal["stop", "skip"] = Field(
        "stop",
        description="where loss or gradient is NaN or infinite, and at a spike of the loss: stop, "
        "or go back to the newest checkpoint and leave out the samples that were seen since",
    )
    most_skips: Count = Field(
        3, description="times that a run goes back so; at the next divergence it stops"
    )
    spike_factor: Annotated[float, Field(gt=1.0)] | None = Field(
        None,
        description="a loss above so many times the median of the last training.spike_window steps "
        "is a spike; null: none is",
    )
    spike_window: Annotated[int, Field(gt=0, le=10_000)] = Field(
        50, description="steps whose median loss the next one is compared with"
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_give_way(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        fitted = fitting_schedule(values, defaults)
        changed = {name: value for name, value in fitted.items() if value != defaults[name]}
        return {**changed, **values}

    @field_validator("rollout", "latent_rollout", mode="wrap")
    @classmethod
    def _is_a_schedule(
        cls, value: Any, validate: Callable[[Any], LengthSchedule]
    ) -> LengthSchedule:
        schedule: LengthSchedule = validated_schedule(value, validate)
        return schedule

    @field_validator("recompute", mode="before", json_schema_input_type=Recompute | bool | None)
    @classmethod
    def _a_switch_is_one_of_blocks(cls, value: Any) -> Any:
        # A whole number is none, as elsewhere; words are what they are for other switches.
        if not isinstance(value, bool | str) or value in get_args(Recompute):
            return value
        try:
            return "blocks" if _SWITCH.validate_python(value) else "none"
        except ValidationError:
            return value

    @field_validator("micro_batch")
    @classmethod
    def _is_part_of_a_batch(cls, value: int | None, info: ValidationInfo) -> int | None:
        batch = info.data.get("instance_batch")
        if value is not None and batch is not None and value > batch:
            raise refusal(
                f"({value}) is above training.instance_batch ({batch}), of which it is a part",
                "lower it, or leave it out to take all samples at once",
            )
        return value

    @field_validator("members")
    @classmethod
    def _are_scored_together(cls, value: int, info: ValidationInfo) -> int:
        error = info.data.get("error")
        if error == "crps" and value == 1:
            raise refusal(
                "is 1, and training.error=crps scores the spread of several members",
                "set it to 2 or more, or train with another error",
            )
        if error not in ("crps", None) and value > 1:
            raise refusal(
                f"({value}) is for training.error=crps: with {error} all members would learn the "
                "same",
                "set training.error=crps, or remove it",
            )
        return value

    @field_validator("instance_members")
    @classmethod
    def _divides_the_members(cls, value: int | None, info: ValidationInfo) -> int | None:
        members = info.data.get("members")
        if value is not None and members is not None and members % value:
            raise refusal(
                f"({value}) does not divide training.members ({members})",
                f"choose a divisor of {members}",
            )
        return value

    @field_validator("channel_weights")
    @classmethod
    def _are_of_channels(cls, value: dict[str, float]) -> dict[str, float]:
        variables = [name for name in value if not _is_channel_on_a_level(name)]
        known = (*VARIABLE_NAMES, *DIAGNOSTIC_NAMES)
        require_known(tuple(variables), known, "variable or channel")
        return value

    @field_validator("validation_leads", "validation_scores")
    @classmethod
    def _lists_nothing_twice(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return require_distinct(value)

    @field_validator("validation_leads")
    @classmethod
    def _increase(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        # To seconds, as times are: those that are equal then are one lead time.
        return require_distinct(tuple(sorted(round(3600.0 * hours) / 3600.0 for hours in value)))

    @field_validator("validation_scores")
    @classmethod
    def _are_scores(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        require_known(value, (*FORECAST_SCORES, *ENSEMBLE_SCORES), "score")
        if not value:
            raise refusal(
                "lists no score",
                "list some, or remove it; without training.validation_leads none is computed",
            )
        of_ensembles = [name for name in value if name in ENSEMBLE_SCORES]
        if of_ensembles and info.data.get("members") == 1:
            raise refusal(
                f"lists {listed(of_ensembles)}, which is of ensembles, and training.members is 1",
                "remove it, or set training.error=crps and training.members",
            )
        return value

    @field_validator("warmup_steps")
    @classmethod
    def _ends_within_the_steps(cls, value: int, info: ValidationInfo) -> int:
        steps = info.data.get("steps")
        if steps is not None and value >= steps:
            raise refusal(
                f"({value}) must be below training.steps ({steps})", "lower it, or train for longer"
            )
        return value

    @property
    def cooldown_length(self) -> int:
        """Steps over which the learning rate falls with ``schedule=cooldown``."""
        after_warmup = self.steps - self.warmup_steps
        return min(self.cooldown_steps or max(self.steps // 5, 1), after_warmup)

    def highest_rate(self, parameter: str) -> float:
        """The learning rate after warm-up of a parameter of that name."""
        part, _, _ = parameter.partition(".")
        part = {"ring": "encoder", "smoothing": "head", "point_noise": "head"}.get(part, part)
        is_edge = part in ("encoder", "decoder", "head")
        usual = (is_edge and self.edge_learning_rate) or self.learning_rate
        return next((rate for name, rate in self.learning_rates.items() if name == part), usual)

    def channel_weight(self, channel: str) -> float:
        """By what a channel's share of the loss is multiplied; 1 where nothing is set."""
        variable, _, _ = channel.rpartition("_")
        of_variable = self.channel_weights.get(variable, 1.0)
        return self.channel_weights.get(channel, of_variable)

    def lengths_at(self, step: int) -> Lengths:
        """How far samples are forecast at an optimizer step, counted from 0; as it is drawn."""
        return Lengths(
            drawn_at(self.rollout, step, seed=self.seed, name="rollout"),
            drawn_at(self.latent_rollout, step, seed=self.seed, name="latent_rollout"),
        )

    def leads_at(self, step: int, input_times: int = 1) -> slice:
        """Which states of a window are read for an optimizer step, counted from 0."""
        return self.lengths_at(step).leads(input_times)

    @property
    def stages(self) -> dict[int, Lengths]:
        """The longest that samples are forecast, from each optimizer step that changes it."""
        starts = starts_of(self.rollout) | starts_of(self.latent_rollout)
        return {
            start: Lengths(longest_at(self.rollout, start), longest_at(self.latent_rollout, start))
            for start in sorted(starts)
        }

    @property
    def longest(self) -> Lengths:
        """The farthest that a sample is forecast at any optimizer step."""
        return max(self.stages.values(), key=lambda lengths: (lengths.steps, lengths.rollout))

    @property
    def longest_rollout(self) -> int:
        """The most times that the network is applied to a sample at any optimizer step."""
        return max(lengths.rollout for lengths in self.stages.values())

    @property
    def longest_latent(self) -> int:
        """The most times that the blocks are applied in an application at any optimizer step."""
        return max(lengths.latent for lengths in self.stages.values())

    @property
    def shortest_advance(self) -> int:
        """The fewest steps by which the training teaches an application to advance at its end.

        That is what a forecast advances by: of fewer applications of the blocks, the decoder has
        learned nothing.
        """
        return shortest_at(self.latent_rollout, self.steps - 1)

    @property
    def samples_at_once(self) -> int:
        """Samples of a model instance that go through the network together."""
        return min(self.micro_batch or self.instance_batch, self.instance_batch)

    @property
    def members_of_instance(self) -> int:
        """Members of a sample that a model instance makes."""
        return self.instance_members or self.members

    @property
    def pool(self) -> int:
        """Replicas that make the members of a sample together."""
        return self.members // self.members_of_instance

    @property
    def forecasts_at_once(self) -> int:
        """Forecasts of a model instance that go through the network together."""
        return self.samples_at_once * self.members_of_instance

    def window_length(self, data: Data) -> int:
        """The number of steps between the first and the last state of a sample, at most."""
        return data.input_times - 1 + self.longest.steps


def _is_channel_on_a_level(name: str) -> bool:
    variable, _, level = name.rpartition("_")
    return variable in PRESSURE_LEVEL_NAMES and level.isdecimal()

"""The sections of the configuration: every setting, typed, with its meaning, unit and check.

The one about training is in ``training_settings.py``. Nothing here reads a file or looks at a
store: what can only be known with data in hand is in ``check.py``.
"""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeGuard, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from weathermixer.config.dates import parse_period
from weathermixer.config.kinds import (
    Address,
    AsList,
    Count,
    Fraction,
    Hours,
    InputTimes,
    Multiple,
    Number,
    Ranks,
    Reader,
    Steps,
    listed,
    refusal,
    refuse_truth_values,
    require_distinct,
    require_known,
)
from weathermixer.config.variables import (
    DIAGNOSTIC_NAMES,
    FORCING_NAMES,
    LEVELS_HPA,
    PRESSURE_LEVEL_NAMES,
    STATIC_NAMES,
    VARIABLE_NAMES,
)
from weathermixer.credentials import without_credentials

_MOST_RANK_LOGS = 64


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
        if (
            kind not in (bool, bool | None)
            and not isinstance(value, BaseModel)
            and not is_section(kind)
        ):
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
    overlap: Number = Field(
        0,
        description="grid points on each side of a patch whose values its token is given too; 0: "
        "none",
    )
    smoothing: Number = Field(
        0,
        description="grid points on each side that learned kernels of each channel span, by which "
        "what was decoded is smoothed over the edges of patches, and small scales of the state are "
        "diffused; 0: no kernels",
    )
    channels: Count = Field(320, description="latent channels of a token")
    blocks: Count = Field(4, description="mixer blocks")
    token_hidden: Multiple = Field(
        2.0, description="hidden width of token mixing, as a multiple of the number of tokens"
    )
    channel_hidden: Multiple = Field(
        1.0, description="hidden width of channel mixing, as a multiple of model.channels"
    )
    dropout: Fraction = Field(
        0.0,
        description="probability of zeroing a hidden value, in training and in ensemble forecasts",
    )
    noise: Number = Field(
        0,
        description="normally distributed numbers by which the norms of the blocks are scaled and "
        "shifted, drawn for each member of an ensemble and each application of the network; 0: "
        "none",
    )
    local_noise: Number = Field(
        0,
        description="such numbers as model.noise, but drawn for each token of each member, so that "
        "members differ by more than a pattern that all patches share, and one for each grid "
        "point, which is added there; 0: none",
    )

    @field_validator("overlap", "smoothing")
    @classmethod
    def _reaches_no_further_than_the_next_patch(cls, value: int, info: ValidationInfo) -> int:
        patch = info.data.get("patch")
        if patch is not None and value > min(patch):
            raise refusal(
                f"({value}) reaches beyond the patches around one of {patch[0]}×{patch[1]} points",
                f"choose {min(patch)} or less, or larger patches",
            )
        return value


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
    diagnostic: Annotated[tuple[str, ...], AsList] = Field(
        (),
        description="further variables that are predicted and not given to the network, such as "
        f"{DIAGNOSTIC_NAMES[0]}",
    )
    levels: Annotated[tuple[Count, ...], AsList] = Field(
        LEVELS_HPA, description="pressure levels, hPa"
    )
    static: Annotated[tuple[str, ...], AsList] = Field(
        STATIC_NAMES,
        description="fields that do not change, given to the network beside the state",
    )
    forcings: Annotated[tuple[str, ...], AsList] = Field(
        (),
        description="fields that are computed for each time and given to the network beside the "
        f"state, some of {', '.join(FORCING_NAMES)}",
    )
    step_hours: Hours = Field(6.0, description="lead time of one step, hours")
    input_times: InputTimes = Field(
        1,
        description="states that the network is given: that from which a step begins, and those "
        "before it, one step apart",
    )
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
    def _carries_no_credentials(cls, value: str | Path) -> str | Path:
        # A run keeps its configuration.
        if isinstance(value, str) and without_credentials(value) != value:
            raise refusal(
                f"({without_credentials(value)}) carries credentials, which a run would keep",
                "give them in the environment, such as AWS_ACCESS_KEY_ID or "
                "GOOGLE_APPLICATION_CREDENTIALS",
            )
        return value

    @field_validator("store")
    @classmethod
    def _in_the_home_folder(cls, value: str | Path) -> str | Path:
        # No shell expands it in a file, nor behind an equals sign.
        is_home = isinstance(value, Path) and value.parts[:1] == ("~",)
        return Path(value).expanduser() if is_home else value

    @field_validator("variables", "diagnostic", "levels", "static", "forcings")
    @classmethod
    def _lists_nothing_twice(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return require_distinct(value)

    @field_validator("variables")
    @classmethod
    def _are_variables(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise refusal("lists no variable", f"choose among {', '.join(VARIABLE_NAMES)}")
        return require_known(value, VARIABLE_NAMES, "variable")

    @field_validator("diagnostic")
    @classmethod
    def _are_other_variables(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        require_known(value, (*DIAGNOSTIC_NAMES, *VARIABLE_NAMES), "variable")
        given = [name for name in value if name in info.data.get("variables", ())]
        if given:
            raise refusal(
                f"lists {listed(given)}, which data.variables lists too",
                "remove it from either: what is in data.variables is given to the network",
            )
        return value

    @field_validator("static")
    @classmethod
    def _are_static_fields(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return require_known(value, STATIC_NAMES, "static field")

    @field_validator("forcings")
    @classmethod
    def _are_forcings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return require_known(value, FORCING_NAMES, "forcing")

    @field_validator("levels")
    @classmethod
    def _has_levels(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        for key in ("variables", "diagnostic"):
            if not value and set(info.data.get(key, ())) & set(PRESSURE_LEVEL_NAMES):
                raise refusal(
                    f"lists no level, and data.{key} has some that lie on levels",
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
        "takes the least time, as predicted, on the ranks that were started",
    )
    tensor: Ranks | None = Field(
        None, description="ranks that share a sample's variables and the latent channels"
    )
    shard_optimizer: bool = Field(
        False, description="divide the optimizer's state among the replicas"
    )
    gradient_dtype: Literal["bfloat16"] | None = Field(
        None,
        description="what gradients travel in between replicas: half the bytes of float32; they "
        "are summed in the type of the weights, in which they travel where this is unset",
    )
    exchange_dtype: Literal["bfloat16"] | None = Field(
        None,
        description="what activations, weights, their gradients and partial sums travel in between "
        "the ranks of a model instance: half the bytes of float32; they are summed as they are "
        "computed, in which type they travel where this is unset",
    )


class Checkpoint(Section):
    """What is kept of a run."""

    every: Count = Field(500, description="steps between checkpoints; one more at the end")
    keep: Count = Field(2, description="newest checkpoints kept")
    best: str | None = Field(
        None,
        description="score of a validation by which the best checkpoint is kept too: loss, "
        "mean_relative_rmse, or the relative RMSE of a channel, such as geopotential_500; or at "
        "training.validation_leads mean_relative_rmse/72 and, of rmse, acc and crps, such as "
        "acc/geopotential_500/120",
    )
    resume: bool = Field(False, description="continue a run that has checkpoints; as --resume does")


class Logging(Section):
    """What is said while training."""

    every: Count = Field(10, description="steps between lines of the log")
    tensorboard: bool = Field(True, description="write TensorBoard events into the run")
    ranks: bool | None = Field(
        None,
        description="write a log of each rank into the folder ranks of the run; null: where there "
        "are at most 64, since a thousand files are work for a file system",
    )
    profile: Annotated[tuple[Steps, ...] | None, AsList] = Field(
        None,
        description="steps of which each rank writes a profile into the folder profile of the run, "
        "each a number or FIRST-LAST: 10-12, 500",
    )
    mlflow: str | None = Field(
        None,
        description="address of an MLflow server, or a folder, that gets the log's numbers too; "
        "a password is for MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to tell",
    )
    wandb: str | None = Field(
        None,
        description="project of Weights & Biases that gets the numbers of the log too, with the "
        "key of WANDB_API_KEY; with WANDB_MODE=offline they stay in the run",
    )

    @field_validator("mlflow", "wandb")
    @classmethod
    def _holds_no_password(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and without_credentials(value) != value:
            raise refusal(
                "holds a password, which would be written into the run",
                "leave it out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            )
        return value

    @field_validator("profile")
    @classmethod
    def _are_steps(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for steps in value or ():
            first, _, last = steps.partition("-")
            if not (first.isdecimal() and (last or first).isdecimal()):
                raise refusal(f"lists {steps!r}", "give steps as numbers or FIRST-LAST, as 10-12")
            if not 1 <= int(first) <= int(last or first):
                raise refusal(
                    f"lists {steps!r}", "count steps from 1, and give the first before the last"
                )
        return value

    @property
    def profiled_steps(self) -> tuple[range, ...]:
        """The steps of ``profile``, counted from 1, in their order."""
        parts = [steps.partition("-") for steps in self.profile or ()]
        ranges = [range(int(first), int(last or first) + 1) for first, _, last in parts]
        return tuple(sorted(ranges, key=lambda steps: (steps.start, steps.stop)))

    def writes_ranks(self, num_ranks: int) -> bool:
        """Whether each of so many ranks writes a log."""
        return num_ranks <= _MOST_RANK_LOGS if self.ranks is None else self.ranks


def is_section(kind: Any) -> TypeGuard[type[Section]]:
    """Whether the type of a field is that of a section, rather than of a setting."""
    return isinstance(kind, type) and issubclass(kind, Section)

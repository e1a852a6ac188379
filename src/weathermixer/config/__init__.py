"""Every setting, typed and checked; read from YAML files and the command line."""

from weathermixer.config.dates import Period, parse_period, period_of
from weathermixer.config.kinds import Reader
from weathermixer.config.lengths import Lengths
from weathermixer.config.problems import Problem
from weathermixer.config.reading import (
    config_text,
    parse_config,
    read_config,
    version_that_wrote,
    write_config,
)
from weathermixer.config.sections import (
    Checkpoint,
    Data,
    Logging,
    Model,
    Parallel,
    Section,
)
from weathermixer.config.settings import Config, choices, settings
from weathermixer.config.training_settings import Recompute, Training
from weathermixer.config.variables import (
    DIAGNOSTIC_NAMES,
    FORCING_NAMES,
    LEVELS_HPA,
    STATIC_NAMES,
    VARIABLE_NAMES,
)

__all__ = [
    "DIAGNOSTIC_NAMES",
    "FORCING_NAMES",
    "LEVELS_HPA",
    "STATIC_NAMES",
    "VARIABLE_NAMES",
    "Checkpoint",
    "Config",
    "Data",
    "Lengths",
    "Logging",
    "Model",
    "Parallel",
    "Period",
    "Problem",
    "Reader",
    "Recompute",
    "Section",
    "Training",
    "choices",
    "config_text",
    "parse_config",
    "parse_period",
    "period_of",
    "read_config",
    "settings",
    "version_that_wrote",
    "write_config",
]

"""A configuration as YAML to be edited: settings with their meaning, and defaults in comments."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from weathermixer.config.sections import is_section
from weathermixer.config.settings import Config

_WIDTH = 96
# Of each section, what a training is most often tried with other values of.
_SHOWN: Mapping[str, tuple[str, ...]] = {
    "model": (
        "patch", "overlap", "smoothing", "channels", "blocks", "token_hidden", "channel_hidden",
        "dropout",
    ),
    "data": (
        "store", "variables", "levels", "static", "forcings", "step_hours", "input_times", "train",
        "validation",
    ),
    "parallel": ("data", "domain", "tensor", "shard_optimizer"),
    "training": (
        "steps", "seed", "dtype", "recompute", "instance_batch", "micro_batch", "rollout",
        "latent_rollout", "loss", "learning_rate", "weight_decay", "warmup_steps", "average_decay",
        "validate_every", "validation_samples", "validation_leads",
    ),
    "checkpoint": ("every", "keep", "best"),
    "logging": ("every", "tensorboard"),
}  # fmt: skip


def commented_config(chosen: Mapping[str, Mapping[str, Any]], heading: Iterable[str]) -> str:
    """What is ``chosen``, by section and key, with the other settings that a user may well change.

    Each has its meaning above it. Those that are not chosen show their defaults behind a ``#`` that
    is to be removed. ``heading`` are sentences for the first lines. Raises pydantic's
    ValidationError where what is chosen is no configuration.
    """
    values = Config.model_validate(chosen).model_dump(mode="json")
    lines = [line for sentence in heading for line in _comment(sentence)]
    for section, keys in _SHOWN.items():
        lines += ["", f"{section}:"]
        for key in keys:
            mark = "" if key in chosen.get(section, {}) else "#"
            lines += [f"  {line}" for line in _comment(_meaning(section, key))]
            lines += [f"  {mark}{line}" for line in _setting(key, values[section][key])]
    return "\n".join(lines) + "\n"


def _meaning(section: str, key: str) -> str:
    kind = Config.model_fields[section].annotation
    assert is_section(kind)
    return kind.model_fields[key].description or ""


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH, break_long_words=False)]


def _setting(key: str, value: Any) -> list[str]:
    """A setting in YAML; a long list goes on in further lines."""
    dumped = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
    text = f"{key}: {dumped.strip().removesuffix('...').strip()}"
    if not isinstance(value, list):
        return [text]
    return textwrap.wrap(text, _WIDTH, subsequent_indent="  ", break_long_words=False)

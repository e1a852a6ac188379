"""Ranks that compare what they are about to do, before they do it."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from weathermixer import __version__
from weathermixer.config import Config
from weathermixer.console import waiting_for
from weathermixer.errors import UserError
from weathermixer.jigsaw.mesh import gather_objects
from weathermixer.launch.rank_names import rank_names


def require_equal_settings(settings: Mapping[str, str]) -> None:
    """Compare ``settings``, texts by key, with those of all other ranks, which call this too.

    Raises UserError, the same on every rank, with the first key that differs; RankLost where a rank
    is gone.
    """
    with waiting_for("the other ranks to open their data and compare settings"):
        # Where a thousand ranks agree, none has to see a thousand copies of what they agree on.
        own = dict(settings)
        if len(set(gather_objects(_digest(own)))) == 1:
            return
        texts = gather_objects(own)
    difference = disagreement(texts)
    assert difference is not None, "different settings have different texts"
    raise UserError(difference)


def settings_of(config: Config) -> dict[str, str]:
    """Every setting of a configuration as text, by its dotted key."""
    return _flat(config.model_dump(mode="json"), "")


def versions() -> dict[str, str]:
    """The versions of the software that numbers depend on."""
    return {
        "the version of weathermixer": __version__,
        **{f"the version of {name}": metadata.version(name) for name in ("torch", "numpy", "zarr")},
        "the version of Python": platform.python_version(),
    }


def disagreement(texts: Sequence[Mapping[str, str]]) -> str | None:
    """The first key on which the ranks' texts differ, in a sentence; None where there is none.

    >>> disagreement([{"seed": "0"}, {"seed": "0"}, {"seed": "1"}])
    'seed is 0 on ranks 0 to 1 and 1 on rank 2: start every rank with the same configuration, \
data and software'
    """
    keys = dict.fromkeys(key for text in texts for key in text)
    for key in keys:
        ranks: dict[str, list[int]] = {}
        for rank, text in enumerate(texts):
            ranks.setdefault(text.get(key, "not set"), []).append(rank)
        if len(ranks) > 1:
            # Two are enough to act upon, and a thousand ranks could have a thousand.
            first, second, *_ = (
                f"{text} on {rank_names(holders)}" for text, holders in ranks.items()
            )
            return (
                f"{key} is {first} and {second}: start every rank with the same configuration, "
                "data and software"
            )
    return None


def _digest(settings: Mapping[str, str]) -> bytes:
    text = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = str(value)
    return flat

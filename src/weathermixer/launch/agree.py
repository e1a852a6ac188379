"""Ranks that compare what they are about to do, before they do it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from weathermixer import __version__
from weathermixer.config import Config
from weathermixer.errors import UserError
from weathermixer.jigsaw.mesh import gather_objects


def agree(what: Mapping[str, str]) -> None:
    """Compare texts by their keys with those of all other ranks, each of which calls this too.

    Raises UserError, the same on every rank, with the first key that differs; RankLost where a rank
    is gone.
    """
    difference = disagreement(gather_objects(dict(what)))
    if difference is not None:
        raise UserError(difference)


def settings_of(config: Config) -> dict[str, str]:
    """Every setting as text, by its dotted key."""
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
            one, other, *_ = (f"{text} on {_named(found)}" for text, found in ranks.items())
            return (
                f"{key} is {one} and {other}: start every rank with the same configuration, data "
                "and software"
            )
    return None


def _named(ranks: Sequence[int]) -> str:
    """
    >>> [_named(ranks) for ranks in ([3], [0, 1, 2], [0, 2, 3, 5])]
    ['rank 3', 'ranks 0 to 2', 'ranks 0, 2 to 3, 5']
    """
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    names = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(names)}"


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = str(value)
    return flat

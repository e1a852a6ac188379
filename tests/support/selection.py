"""Which cases of a test `make test` runs: those on a few meshes that stand for all the others.

A test that runs on all meshes takes minutes, and when it fails, it fails on one of these few. The
other cases are marked ``exhaustive`` and left to `make test-all`.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from support.networks import mesh_name
from weathermixer.jigsaw.layout import Layout

# One rank; both axes of an instance at once, on which shards can be uneven and ranks hold nothing;
# replicas, of one rank and of several.
REPRESENTATIVE = {"1x1x1", "1x2x2", "2x1x1", "2x1x2"}


def mark_exhaustive(items: Iterable[pytest.Item]) -> None:
    """Mark the cases of each test that need not run every time."""
    tests: dict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            tests[item.nodeid.partition("[")[0]].append(item)
    for cases in tests.values():
        representative = [is_representative(case.callspec.params) for case in cases]
        # A test that runs on none of these meshes runs on all of its own.
        for case, stays in zip(cases, representative, strict=True):
            if any(representative) and not stays:
                case.add_marker(pytest.mark.exhaustive)


def share_of(items: Iterable[pytest.Item], share: str) -> set[pytest.Item]:
    """All tests, but of the exhaustive ones those of a share alone, such as ``0/4``."""
    number, _, shares = share.partition("/")
    if not (number.isdecimal() and shares.isdecimal() and int(number) < int(shares)):
        raise pytest.UsageError(f"--share {share} is no K/N with K from 0 to N - 1")
    return {
        item
        for item in items
        if item.get_closest_marker("exhaustive") is None
        or zlib.crc32(item.nodeid.encode()) % int(shares) == int(number)
    }


def exhaustive(*values: Any) -> list[ParameterSet]:
    """Cases of ``parametrize`` that are left to `make test-all`; a tuple is one case."""
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.exhaustive
        )
        for value in values
    ]


def is_representative(parameters: Mapping[str, Any]) -> bool:
    """Whether every mesh among the parameters of a case stands for others."""
    return all(mesh in REPRESENTATIVE for value in parameters.values() for mesh in meshes_in(value))


def meshes_in(value: Any) -> list[str]:
    """The names of the meshes that a parameter is or holds: ``["1x2x2"]``."""
    if isinstance(value, Layout):
        return [mesh_name(value)]
    if isinstance(value, str):
        return [value] if re.fullmatch(r"\d+x\d+x\d+", value) else []
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [mesh for part in value for mesh in meshes_in(part)]
    return []

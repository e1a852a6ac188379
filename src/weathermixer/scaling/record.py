"""``scaling.json``: everything that was measured, written after each round of each case.

An experiment that was stopped goes on from there, and one with other settings does not begin.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from weathermixer.errors import UserError
from weathermixer.planning.machine import ProductType
from weathermixer.scaling.cases import Case
from weathermixer.scaling.measuring import Measured
from weathermixer.scaling.rows import Row, tabulate

FILE = "scaling.json"
_VERSION = 1


@dataclass(frozen=True)
class Ceiling:
    """What ranks can do at most, as measured while so many compute: each of them, a second.

    ``peak`` counts operations of matrix products in an arithmetic.
    """

    dtype: ProductType
    ranks: int
    peak: float
    memory_bytes_per_second: float

    def at(self, intensity: float) -> float:
        """The roofline: operations a second at so many operations for each byte of memory."""
        return min(self.peak, self.memory_bytes_per_second * intensity)

    def or_higher(self, other: Ceiling | None) -> Ceiling:
        """The higher figures of two measurements: nothing makes a machine faster than it is."""
        if other is None:
            return self
        return replace(
            self,
            peak=max(self.peak, other.peak),
            memory_bytes_per_second=max(
                self.memory_bytes_per_second, other.memory_bytes_per_second
            ),
        )


@dataclass
class Record:
    """The rounds of an experiment so far, and the file that holds them.

    ``settings`` are all that its numbers depend on; ``left_out`` says what is not measured.
    """

    folder: Path
    settings: Mapping[str, Any]
    machine: str
    cases: Sequence[Case]
    left_out: Sequence[str]
    rounds: dict[str, list[Measured]] = field(default_factory=dict)
    ceilings: list[Ceiling] = field(default_factory=list)

    @classmethod
    def begin(
        cls,
        folder: Path,
        settings: Mapping[str, Any],
        machine: str,
        cases: Sequence[Case],
        left_out: Sequence[str],
    ) -> Record:
        """A record in a folder, which goes on from what lies there.

        Raises UserError where the folder cannot be written, or holds another experiment.
        """
        record = cls(folder, settings, machine, cases, left_out)
        path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            text = path.read_text(encoding="utf-8") if path.exists() else None
        except OSError as error:
            raise _cannot_be_used(folder, error) from error
        if text is not None:
            record._go_on(text)
        record.save()
        return record

    @property
    def rows(self) -> list[Row]:
        """The table as far as it was measured."""
        return tabulate(self.settings["kind"], self.cases, self.rounds, self.machine)

    def add(self, case: Case, measured: Measured) -> None:
        """Take down a round."""
        self.rounds.setdefault(case.key, []).append(measured)

    def save(self) -> None:
        """Write the file: whole, or not at all. UserError where that is impossible."""
        kind = self.settings["kind"]
        values = {
            "version": _VERSION,
            "kind": kind,
            "machine": self.machine,
            "settings": self.settings,
            "left_out": list(self.left_out),
            "ceilings": [asdict(ceiling) for ceiling in self.ceilings],
            "rows": [row.to_json(kind) for row in self.rows],
        }
        partial = self.folder / f"{FILE}.partial"
        try:
            partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
            partial.replace(self.folder / FILE)
        except OSError as error:
            raise _cannot_be_used(self.folder, error) from error

    def _go_on(self, text: str) -> None:
        path = self.folder / FILE
        try:
            values = json.loads(text)
            before = values["settings"]
            self.ceilings = [Ceiling(**each) for each in values["ceilings"]]
            self.rounds = {
                row["case"]: [Measured(**each) for each in row["rounds"]] for row in values["rows"]
            }
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is no record of a scaling experiment of this version: choose another --out"
            ) from error
        now = json.loads(json.dumps(self.settings))
        other = sorted(_differences(before, now))
        if other:
            raise UserError(
                f"{path} was measured with other values of {', '.join(other)}: start with those to "
                "go on, or choose another --out"
            )


def _differences(before: Any, now: Any, place: str = "") -> list[str]:
    """The places at which two trees of settings differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for key in {*before, *now}
            for difference in _differences(
                before.get(key), now.get(key), f"{place}.{key}" if place else key
            )
        ]
    return [] if before == now else [place]


def _cannot_be_used(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"{folder} cannot be used for results ({error.strerror or error}): choose another --out"
    )

"""The sums of a campaign that is scored while it is forecast, on disk until it is whole.

They stand beside the folder that the scores will be in, as ``NAME.partial``::

    campaign.json    what is forecast with what, and scored against what
    sums-RANK.npz    a rank's sums, of its channels, and the initial times that are in them

A rank replaces its file when some more initial times are in its sums, so that they are always those
of whole forecasts. Files are as large as the sums are, whatever the number of initial times.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from weathermixer.data.partial_files import partial_path, write_error
from weathermixer.errors import UserError
from weathermixer.verification.sums import Sums
from weathermixer.verification.verification_record import SCORES_FILE

_CAMPAIGN = "campaign.json"
_LONGEST_SHOWN = 60


class ScoresInProgress:
    """Sums that ranks keep until all of a campaign is in them; ``scores`` is where they will be."""

    def __init__(self, scores: Path) -> None:
        self.partial = partial_path(scores)

    def is_of(self, forecast: Path) -> bool:
        """Whether a campaign is in progress that writes its fields to ``forecast``."""
        try:
            begun = json.loads((self.partial / _CAMPAIGN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(begun, dict) and begun.get("forecast") == str(forecast)

    @classmethod
    def begin(cls, scores: Path, campaign: Mapping[str, Any]) -> None:
        """Begin a campaign, or find one that was begun with an equal description.

        ``campaign`` is JSON: what must be the same, by names for the user. Raises UserError where
        the begun campaign is another one, or where there are scores already.
        """
        partial = partial_path(scores)
        file = partial / _CAMPAIGN
        wanted = json.loads(json.dumps(campaign))
        try:
            if file.exists():
                _require_equal(partial, json.loads(file.read_text(encoding="utf-8")), wanted)
                return
            if (scores / SCORES_FILE).exists():
                raise UserError(
                    f"{scores} holds scores already: choose another place for those of this "
                    "forecast, or remove it first"
                )
            partial.mkdir(parents=True, exist_ok=True)
            begun = file.with_name(file.name + ".partial")
            begun.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
            begun.replace(file)
        except OSError as error:
            raise write_error(partial, error) from error

    def save(
        self, rank: int, channels: Sequence[str], sums: Sums, finished: Collection[int]
    ) -> None:
        """Replace a rank's sums; ``finished`` are the places of the initial times in them.

        Raises UserError where they cannot be written.
        """
        file = self._file(rank)
        begun = file.with_name(file.name + ".partial")
        try:
            with begun.open("wb") as stream:
                sums.save(
                    stream,
                    channels=np.array(channels),
                    finished=np.array(sorted(finished), dtype=np.int64),
                )
            begun.replace(file)
        except OSError as error:
            raise write_error(self.partial, error) from error

    def load(self, rank: int) -> tuple[Sums, set[int]] | None:
        """A rank's sums, and the places of the initial times in them; None before the first.

        Raises UserError where the file is damaged.
        """
        file = self._file(rank)
        if not file.exists():
            return None
        _, sums, finished = self._read(file)
        return sums, finished

    def total(self, channels: Sequence[str], num_times: int) -> Sums:
        """The sums of all ranks, of some ``channels`` in their order, over all initial times.

        Raises UserError where some of them are not there.
        """
        by_channels: dict[tuple[str, ...], tuple[Sums, set[int]]] = {}
        for file in sorted(self.partial.glob("sums-*.npz")):
            names, sums, finished = self._read(file)
            if names in by_channels:  # of a replica, with initial times of its own
                others, theirs = by_channels[names]
                sums, finished = others.merge(sums), finished | theirs
            by_channels[names] = sums, finished
        held = [name for names in by_channels for name in names]
        if sorted(held) != sorted(channels) or any(
            len(finished) != num_times for _, finished in by_channels.values()
        ):
            raise UserError(
                f"{self.partial} lacks sums that other ranks have written: choose a place for the "
                "scores on a file system that all ranks share"
            )
        whole = reduce(Sums.join_channels, (sums for sums, _ in by_channels.values()))
        return whole.of_channels([held.index(name) for name in channels])

    def remove(self) -> None:
        """Remove the sums, which the scores have been made of; UserError if impossible."""
        try:
            shutil.rmtree(self.partial)
        except OSError as error:
            raise write_error(self.partial, error) from error

    def _file(self, rank: int) -> Path:
        return self.partial / f"sums-{rank:05d}.npz"

    def _read(self, file: Path) -> tuple[tuple[str, ...], Sums, set[int]]:
        try:
            with np.load(file) as arrays:
                names = tuple(arrays["channels"].tolist())
                finished = set(arrays["finished"].tolist())
            return names, Sums.load(file), finished
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{file} cannot be read or is damaged ({error}): remove {self.partial}, and the "
                "campaign begins again"
            ) from error


def _require_equal(partial: Path, begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise UserError, naming what differs, where two campaigns are not the same."""
    differing = [name for name in wanted if begun.get(name) != wanted[name]]
    if not differing:
        return
    words = []
    for name in differing:
        value = begun.get(name)
        shown = isinstance(value, str) and len(value) <= _LONGEST_SHOWN
        words.append(f"{name} ({value})" if shown else name)
    raise UserError(
        f"{partial} holds the sums of a campaign that was begun with another "
        f"{', another '.join(words)}: go on as it was begun, remove it, or choose another place"
    )

"""What a folder holds, a run or a verification, and which of the other belongs to it.

A verification names its forecast and truth, a forecast names its run; so each is found from the
other as long as they lie where they were written, or were moved together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from weathermixer.data.archives.formats import open_datasets
from weathermixer.errors import UserError
from weathermixer.runs.run import Run
from weathermixer.verification.comparison import Comparison
from weathermixer.verification.scores import MODEL
from weathermixer.verification.verification_record import SCORES_FILE, Verification

_CONFIG = "config.yaml"
# How far above a folder to look for what it names by a relative path, or once lay beside.
_LEVELS_UP = 4


@dataclass(frozen=True)
class LocatedVerification:
    """A verification, its folder, and the archives that it names.

    ``forecast`` and ``truth``, paths or URLs, are None where they are not named or no longer
    there; ``attributes`` say what made the forecast, in the words of the verification where it was
    scored while it was made, else in those of a local forecast.
    """

    path: Path
    verification: Verification
    forecast: str | None
    truth: str | None
    attributes: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> LocatedVerification:
        """Read a folder's ``scores.json``; UserError where it is damaged or something else."""
        verification = Verification.read(path)
        forecast = _archive(verification.forecasts.get(MODEL), path)
        truth = _archive(verification.truth, path)
        attributes = verification.made_by or _attributes(forecast)
        return cls(path, verification, forecast, truth, attributes)

    @property
    def missing(self) -> str | None:
        """Why the fields cannot be read, where forecast or truth is nowhere; else None."""
        if self.forecast is not None and self.truth is not None:
            return None
        which = "forecast" if self.forecast is None else "truth"
        verification = self.verification
        name = verification.forecasts.get(MODEL) if which == "forecast" else verification.truth
        if name is not None:
            return f"the {which} is no longer at {name}"
        if which == "forecast" and verification.made_by:
            return (
                "the forecast was scored while it was made, and its fields were not written; "
                "forecast with --out as well to have them"
            )
        return f"the {which} is not named in {self.path / SCORES_FILE}"

    @cached_property
    def comparison(self) -> Comparison:
        """The forecast and the truth, opened, none of which may be missing.

        Raises UserError where they cannot be read.
        """
        assert self.forecast is not None
        assert self.truth is not None
        return Comparison.open(self.forecast, self.truth)

    def run(self) -> Path | None:
        """The folder of the run that made the forecast, where it can be found."""
        return _locate(self.attributes.get("run"), Path(self.forecast or self.path), _is_run)


@dataclass(frozen=True)
class ReportInputs:
    """What a report is made of: a ``run``, a verification, ``verified``, or both; never neither."""

    run: Run | None
    verified: LocatedVerification | None

    @classmethod
    def find(cls, path: Path) -> ReportInputs:
        """Find what ``path`` holds, a run or a verification, and what belongs to it.

        Raises UserError where it is neither, or where a file of it is damaged.
        """
        if not path.exists():
            raise UserError(f"there is nothing at {path}: correct the path")
        is_run, is_verification = _is_run(path), (path / SCORES_FILE).is_file()
        if not (is_run or is_verification):
            raise UserError(
                f"{path} is neither a run (it has no {_CONFIG}) nor a verification (it has no "
                f"{SCORES_FILE}): give the folder that 'weathermixer train --out' or "
                "'weathermixer verify --out' wrote"
            )
        if is_verification:
            verified = LocatedVerification.open(path)
            run = path if is_run else verified.run()
            return cls(Run.open(run) if run else None, verified)
        return cls(Run.open(path), _newest_verification(path))


def _newest_verification(run: Path) -> LocatedVerification | None:
    """The newest verification, in the run's folder or beside it, of one of its forecasts."""
    beside = run.resolve().parent
    files = {*run.resolve().glob(f"*/{SCORES_FILE}"), *beside.glob(f"*/{SCORES_FILE}")}
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            verified = LocatedVerification.open(file.parent)
        except UserError:
            continue  # another's, or damaged; it was not asked for
        its_run = verified.run()
        if its_run is not None and its_run.resolve() == run.resolve():
            return verified
    return None


def _attributes(forecast: str | None) -> Mapping[str, Any]:
    """What a local forecast says of itself.

    Nothing of a remote forecast, nor of a damaged one: whoever draws its maps will say so.
    """
    if forecast is None or _is_remote(forecast):
        return {}
    try:
        return open_datasets(forecast)[0].dataset.attrs
    except UserError:
        return {}


def _archive(name: str | None, named_in: Path) -> str | None:
    """The archive that a verification calls ``name``, where it can be found."""
    if name is not None and _is_remote(name):
        return name
    place = _locate(name, named_in, _is_archive)
    return None if place is None else str(place)


def _is_remote(name: str) -> bool:
    return "://" in name


def _locate(name: Any, named_in: Path, is_it: Callable[[Path], bool]) -> Path | None:
    """The first path that holds what a file calls ``name``, where there is one."""
    if not isinstance(name, str) or not name:
        return None
    return next((place for place in _places(Path(name), named_in.resolve()) if is_it(place)), None)


def _places(name: Path, named_in: Path) -> Iterator[Path]:
    yield name
    for folder in (named_in, *named_in.parents)[:_LEVELS_UP]:
        yield folder / name
        yield folder / name.name


def _is_run(path: Path) -> bool:
    return (path / _CONFIG).is_file()


def _is_archive(path: Path) -> bool:
    marks = ("zarr.json", ".zgroup", ".zmetadata")
    return path.is_file() or any((path / mark).is_file() for mark in marks)

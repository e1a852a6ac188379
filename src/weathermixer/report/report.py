"""From a folder to a page: finds what belongs together, reads it, writes the file."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weathermixer.errors import UserError
from weathermixer.report.maps import MapPart
from weathermixer.report.numbers import date
from weathermixer.report.page import Page
from weathermixer.report.scoring import ScorePart
from weathermixer.report.sources import Sources, Verified
from weathermixer.report.spectra import spectra
from weathermixer.report.training import TrainingPart

FILE_NAME = "report.html"


@dataclass(frozen=True)
class Written:
    """The file that was written; ``notes`` are sentences for the user about what it lacks."""

    path: Path
    notes: tuple[str, ...]


def report(path: Path, out: Path | None = None) -> Written:
    """Write a page about the run or the verification at ``path``, by default into that folder.

    What belongs to it is found: a run's newest verification, a verification's run, forecast and
    truth. Raises UserError where ``path`` is neither, is damaged, or ``out`` cannot be written.
    """
    path = Path(path)
    sources = Sources.find(path)
    target = path / FILE_NAME if out is None else Path(out)
    if target.is_dir():
        raise UserError(f"{target} is a folder: give --out the name of a file, {FILE_NAME} say")
    verified = sources.verified
    maps, notes = _maps(verified)
    page = Page(
        title=_title(sources.run.path if sources.run else path),
        made=date(np.datetime64("now", "m")),
        checkpoint=str(verified.attributes.get("checkpoint", "")) if verified else "",
        training=TrainingPart.read(sources.run) if sources.run else None,
        scores=ScorePart.read(verified) if verified else None,
        maps=maps,
        spectra=tuple(spectra(verified.record)) if verified else (),
        notes=(*_absent(sources), *notes),
    )
    _write(target, page.render())
    return Written(target, page.notes)


def _title(path: Path) -> str:
    """The folder and the one around it, since a folder of a run is often called ``run``."""
    return "/".join(path.resolve().parts[1:][-2:])


def _absent(sources: Sources) -> tuple[str, ...]:
    if sources.verified is None:
        assert sources.run is not None
        return (
            f"No verification of {sources.run.path} was found in it or beside it: the page shows "
            "the training alone",
        )
    if sources.run is None:
        return ("The run of this verification was not found: the page shows the scores alone",)
    return ()


def _maps(verified: Verified | None) -> tuple[MapPart | None, tuple[str, ...]]:
    """Maps, or why there are none."""
    if verified is None:
        return None, ()
    if verified.forecast is None or verified.truth is None:
        which = "forecast" if verified.forecast is None else "truth"
        said = "is no longer at" if which in verified.record else "is not named in"
        where = verified.record.get(which, verified.path / "scores.json")
        return None, (f"There are no maps: the {which} {said} {where}",)
    try:
        return MapPart.read(verified.forecast, verified.truth), ()
    except UserError as error:
        return None, (f"There are no maps: {error}",)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, "utf-8")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): choose another place with "
            "--out, or free some space"
        ) from error

"""From a folder to a page: finds what belongs together, reads it, writes the file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weathermixer.data.points import Point
from weathermixer.errors import UserError
from weathermixer.report.difference_section import DifferenceSection
from weathermixer.report.formatting import date_text
from weathermixer.report.inputs import LocatedVerification, ReportInputs
from weathermixer.report.map_section import MapSection
from weathermixer.report.page import Page
from weathermixer.report.plume_section import PlumeSection
from weathermixer.report.score_section import ScoreSection
from weathermixer.report.spectrum_section import spectrum_charts
from weathermixer.report.training_section import TrainingSection
from weathermixer.verification.figures.attempt import attempt

FILE_NAME = "report.html"


@dataclass(frozen=True)
class WrittenReport:
    """A report, written to the file ``path``; ``notes`` are sentences about what it lacks."""

    path: Path
    notes: tuple[str, ...]


def make_report(path: Path, out: Path | None = None, *, at: Sequence[Point] = ()) -> WrittenReport:
    """Write a page about the run or the verification at ``path``, by default into that folder.

    What belongs to it is found: a run's newest verification, a verification's run, forecast and
    truth. ``at`` are places to show plumes of. Raises UserError where ``path`` is neither, is
    damaged, ``out`` cannot be written, or there are no plumes at these places.
    """
    path = Path(path)
    inputs = ReportInputs.find(path)
    target = path / FILE_NAME if out is None else Path(out)
    if target.is_dir():
        raise UserError(f"{target} is a folder: give --out the name of a file, {FILE_NAME} say")
    verified = inputs.verified
    maps, notes = _maps(verified)
    plumes = _plumes(verified, at) if at else None
    page = Page(
        title=_title(inputs.run.path if inputs.run else path),
        made=date_text(np.datetime64("now", "m")),
        checkpoint=str(verified.attributes.get("checkpoint", "")) if verified else "",
        training=TrainingSection.read(inputs.run) if inputs.run else None,
        scores=ScoreSection.of(verified.verification, verified.path) if verified else None,
        differences=_differences(verified),
        maps=maps,
        plumes=plumes,
        spectra=tuple(spectrum_charts(verified.verification.spectra)) if verified else (),
        notes=(*_absent(inputs), *notes),
    )
    _write(target, page.render())
    return WrittenReport(target, page.notes)


def _title(path: Path) -> str:
    """The folder and the one around it, since a folder of a run is often called ``run``."""
    return "/".join(path.resolve().parts[1:][-2:])


def _absent(inputs: ReportInputs) -> tuple[str, ...]:
    if inputs.verified is None:
        assert inputs.run is not None
        return (
            f"No verification of {inputs.run.path} was found in it or beside it: the page shows "
            "the training alone",
        )
    if inputs.run is None:
        return ("The run of this verification was not found: the page shows the scores alone",)
    return ()


def _differences(verified: LocatedVerification | None) -> DifferenceSection | None:
    if verified is None or verified.verification.differences is None:
        return None
    return DifferenceSection.of(verified.verification)


def _maps(verified: LocatedVerification | None) -> tuple[MapSection | None, tuple[str, ...]]:
    """Maps, or a sentence that says why there are none."""
    if verified is None:
        return None, ()
    if verified.missing is not None:
        return None, (f"There are no maps: {verified.missing}",)
    maps, failure = attempt(lambda: MapSection.of(verified.comparison), "The maps")
    return maps, () if failure is None else (failure,)


def _plumes(verified: LocatedVerification | None, at: Sequence[Point]) -> PlumeSection:
    """Plumes at some places; they were asked for, so UserError where there are none."""
    if verified is None:
        raise UserError(
            "there are no plumes of a run without a verification: verify its forecast with "
            "'weathermixer verify --out' first"
        )
    if verified.missing is not None:
        raise UserError(f"there are no plumes: {verified.missing}")
    return PlumeSection.read(verified.comparison, at)


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

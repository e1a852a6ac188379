"""Fills the page's template; everything that it needs is put into the one file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from weathermixer import __version__
from weathermixer.report.difference_section import DifferenceSection
from weathermixer.report.formatting import grouped_number
from weathermixer.report.map_section import MapSection
from weathermixer.report.plume_section import PlumeSection
from weathermixer.report.score_section import ScoreSection
from weathermixer.report.training_section import TrainingSection

_FOLDER = "page"


@dataclass(frozen=True)
class Page:
    """The parts of a report under a ``title``: ``training``, ``scores``, ``maps`` and so on.

    Each is None or empty where there is none; ``notes`` say why some are missing. ``made`` is the
    time of writing, and ``checkpoint`` the name of the one that forecast, if it is known.
    """

    title: str
    made: str
    checkpoint: str
    training: TrainingSection | None
    scores: ScoreSection | None
    differences: DifferenceSection | None
    maps: MapSection | None
    plumes: PlumeSection | None
    spectra: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]

    def render(self) -> str:
        """The page as the text of one HTML file, with all that is not of this package escaped."""
        environment = Environment(
            loader=PackageLoader(__package__, _FOLDER),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["count"] = grouped_number
        environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
        folder = files(__package__) / _FOLDER
        return environment.get_template("page.html").render(
            page=self,
            version=__version__,
            style=(folder / "page.css").read_text("utf-8"),
            script=(folder / "page.js").read_text("utf-8"),
            data=self._data(),
        )

    def _data(self) -> dict[str, Any]:
        """The numbers that the page's script draws."""
        maps = self.maps
        return {
            "training": self.training.charts if self.training else (),
            "scores": self.scores.curves if self.scores else None,
            "spectra": self.spectra,
            "maps": {
                "from": maps.initial_time,
                "leads": [asdict(lead) for lead in maps.leads],
                "channels": [
                    {
                        "label": channel.label,
                        "units": channel.units,
                        "errors": channel.errors,
                        "spreads": channel.spreads,
                    }
                    for channel in maps.channels
                ],
            }
            if maps
            else None,
            "plumes": self.plumes.data if self.plumes else None,
        }

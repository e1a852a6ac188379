"""What has a trained network: the folder of a run, or the file that was exported from one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from weathermixer.config import Config, read_config
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.errors import UserError
from weathermixer.runs.export_file import SUFFIX, WEIGHTS, ExportFile
from weathermixer.runs.run import Run, Weights


def open_trained(path: Path | str) -> Run:
    """Open a run, or an export of one.

    Raises UserError where it is neither, and where the file is damaged.
    """
    path = Path(path)
    return ExportedRun(path, ExportFile.open(path)) if path.suffix == SUFFIX else Run.open(path)


@dataclass(frozen=True)
class ExportedRun(Run):
    """A run as one file: what it was trained to be, and nothing of how it went."""

    file: ExportFile

    @cached_property
    def normalisation(self) -> Normalisation:
        """Channels, their statistics and the grid."""
        return self.file.normalisation

    def require_checkpoint(self, which: str = "newest") -> Path:
        """The path of the file itself; UserError where a certain checkpoint is asked for."""
        if which != "newest":
            raise UserError(
                f"the export {self.path} has the weights of one checkpoint alone, "
                f"{self.file.about['checkpoint']}: leave out --checkpoint, or export that one"
            )
        return self.path

    def weights_of(self, checkpoint_path: Path, weights: Weights | None) -> Weights:
        """Which weights were exported; UserError where others are asked for."""
        exported: Weights = self.file.about["weights"]
        if weights not in (None, exported):
            raise UserError(
                f"the export {self.path} has the {exported} weights alone: leave out --weights, or "
                f"export the {weights} ones"
            )
        return exported

    def kind_of(self, weights: Weights) -> str:
        """What the names of its weights begin with, whichever they are."""
        return WEIGHTS.removesuffix(".")

    def _read_config(self, overrides: Sequence[str], base_overrides: Sequence[str]) -> Config:
        return read_config(
            self.path, overrides, base_overrides=base_overrides, text=self.file.config
        )

"""Trained networks as models of NVIDIA's Earth2Studio, for its workflows, sources and writers.

An :class:`Earth2Model` computes in one process; a :class:`CutEarth2Model` is one that ranks hold
and compute together. The extra ``earth2studio`` installs what they need.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from weathermixer.errors import UserError

_TESTED = "0.19"
_REMEDY = "pip install 'weathermixer[earth2studio]' has it"


def _require_tested_version() -> None:
    """Its models' interface changes from one 0.x to the next, also in what numbers mean."""
    try:
        found = version("earth2studio")
    except PackageNotFoundError:
        raise UserError(
            f"Earth2Studio is not installed, and this needs its version {_TESTED}: {_REMEDY}"
        ) from None
    if not f"{found}.".startswith(f"{_TESTED}."):
        raise UserError(
            f"Earth2Studio {found} is installed, and this was made for {_TESTED}: {_REMEDY}"
        )


_require_tested_version()

from weathermixer.earth2studio.cut_model import CutEarth2Model  # noqa: E402
from weathermixer.earth2studio.model import Earth2Model  # noqa: E402
from weathermixer.earth2studio.names import earth2studio_name  # noqa: E402

__all__ = ["CutEarth2Model", "Earth2Model", "earth2studio_name"]

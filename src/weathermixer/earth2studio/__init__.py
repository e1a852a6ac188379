"""Trained networks as models of NVIDIA's Earth2Studio, for its workflows, sources and writers.

An :class:`Earth2Model` computes in one process; a :class:`CutEarth2Model` is one that ranks hold
and compute together. The extra ``earth2studio`` installs what they need.
"""

from __future__ import annotations

from weathermixer.tested_versions import require_tested_version

# Its models' interface changes from one 0.x to the next, also in what numbers mean.
require_tested_version("earth2studio", shown_as="Earth2Studio", tested="0.19", extra="earth2studio")

from weathermixer.earth2studio.cut_model import CutEarth2Model  # noqa: E402
from weathermixer.earth2studio.model import Earth2Model  # noqa: E402
from weathermixer.earth2studio.names import earth2studio_name  # noqa: E402

__all__ = ["CutEarth2Model", "Earth2Model", "earth2studio_name"]

"""Channels under the names of Earth2Studio."""

from __future__ import annotations

from weathermixer.data.channels import PREDICTED_VARIABLES, parse_channel
from weathermixer.earth2studio.names import earth2studio_name


def test_every_channel_has_the_name_of_earth2studios_vocabulary() -> None:
    from earth2studio.lexicon import WB2Lexicon
    from earth2studio.lexicon.base import E2STUDIO_VOCAB

    for name, variable in PREDICTED_VARIABLES.items():
        for channel in [f"{name}_500", f"{name}_1000"] if variable.on_levels else [name]:
            theirs = earth2studio_name(channel)
            key, _ = WB2Lexicon[theirs]
            parsed = parse_channel(channel)
            assert key == f"{parsed.variable}::{parsed.level_hpa or ''}"
            assert parsed.level_hpa or theirs in E2STUDIO_VOCAB

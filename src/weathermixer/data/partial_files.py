"""Where stores and forecasts stand while they are written, and what to say where they cannot be."""

from __future__ import annotations

from pathlib import Path

from weathermixer.errors import UserError


def partial_path(path: Path) -> Path:
    """The path at which a store or a forecast stands while it is written: ``NAME.partial``."""
    return path.with_name(path.name + ".partial")


def write_error(path: Path, error: OSError) -> UserError:
    """The error for a write that failed, on a full disk or in a read-only folder, with a remedy."""
    reason = error.strerror or str(error)
    return UserError(
        f"cannot write to {path} ({reason}): free some space or choose another place; "
        "what was written is kept, and the same command continues it"
    )

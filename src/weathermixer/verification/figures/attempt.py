"""Drawing that may fail: pictures never cost the numbers that they show."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from weathermixer.errors import UserError

Drawn = TypeVar("Drawn")


def attempt(draw: Callable[[], Drawn], what: str) -> tuple[Drawn | None, str | None]:
    """Call ``draw()``: what it returns, or else a sentence on why ``what`` could not be drawn.

    The sentence has no full stop. Whatever ``draw`` raises is caught.
    """
    try:
        return draw(), None
    except UserError as error:
        return None, f"{what} could not be drawn: {error}"
    except Exception as error:  # noqa: BLE001
        # Fonts, a broken matplotlib, a full disk, fields that no colour suits: anything.
        return None, f"{what} could not be drawn ({type(error).__name__}: {error})"

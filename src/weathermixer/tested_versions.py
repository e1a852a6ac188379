"""Packages whose interfaces change between minor versions: another than the tested is refused."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from weathermixer.errors import UserError


def require_tested_version(package: str, *, shown_as: str, tested: str, extra: str) -> None:
    """Raise UserError where a package is absent, or of another minor version than ``tested``.

    ``extra`` is the one of this project that installs it.
    """
    remedy = f"pip install 'weathermixer[{extra}]' has it"
    try:
        found = version(package)
    except PackageNotFoundError:
        raise UserError(
            f"{shown_as} is not installed, and this needs its version {tested}: {remedy}"
        ) from None
    if not f"{found}.".startswith(f"{tested}."):
        raise UserError(
            f"{shown_as} {found} is installed, and this was made for {tested}: {remedy}"
        )

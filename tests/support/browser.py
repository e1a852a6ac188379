"""The browser that is installed, where there is one: headless Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "chrome")


@contextmanager
def installed_browser() -> Iterator[Any]:
    """A browser of Playwright's; skips the test, with the reason, where none is installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip(f"no browser to show the page: none of {', '.join(NAMES)} is installed")
    with playwright.sync_playwright() as driver:
        # A container's root has no sandbox; the page is our own.
        started = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield started
        started.close()

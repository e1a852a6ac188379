"""Fixtures that every part of the tests shares."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from support.browser import installed_browser
from support.processes import Processes
from support.ranks import POOL, Pool
from support.selection import mark_exhaustive, share_of

# Earth2Studio wants both. Made for an older NumPy, the first warns when it is imported: NumPy has
# Python ignore that, but not in tests that take any warning for an error. The second brings an
# ecCodes of its own, which has to be loaded before another, or the process aborts when it ends.
with warnings.catch_warnings(), suppress(ImportError):
    warnings.simplefilter("ignore")
    import netCDF4  # noqa: F401
    import pygrib  # noqa: F401

# Machines that run tests are shared, and no test asserts a time.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--share",
        metavar="K/N",
        help="of the exhaustive tests, run the K-th of N shares alone, 0 to N - 1",
    )


# Before pytest takes out what the command line does not select.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    mark_exhaustive(items)
    share = config.getoption("--share")
    if share is not None:
        kept = share_of(items, share)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]


@pytest.fixture(scope="module", autouse=True)
def collections_spare_what_stays() -> None:
    """Every training begins with a collection, which need not go through every module again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real reanalysis samples, which the project itself does not carry."""
    folder = os.environ.get("WEATHERMIXER_TEST_DATA")
    if not folder:
        pytest.skip("WEATHERMIXER_TEST_DATA is unset: it names the folder of real ERA5 samples")
    return Path(folder)


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Starts processes, of which none is left when the test is over."""
    started = Processes()
    yield started
    started.close()


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Ranks that tests send work to."""
    yield POOL
    POOL.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser that shows pages."""
    with installed_browser() as started:
        yield started

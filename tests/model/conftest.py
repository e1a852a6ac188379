from __future__ import annotations

from collections.abc import Iterator

import pytest

from ranks import POOL, Pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Ranks that tests send work to."""
    yield POOL
    POOL.close()

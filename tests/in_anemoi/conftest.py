"""The files that the document of anemoi-inference speaks of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.anemois import (
    run_of,
    write_states,
)
from support.waves import write_waves


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the document's files lie: a store, a run and its export, and states made of the store.

    The run takes two states and has noise.
    """
    path = tmp_path_factory.mktemp("anemoi")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        write_waves(path / "planet.zarr", levels=(500, 850))
        write_states()
        run_of(path, model={"noise": 3})
        yield path

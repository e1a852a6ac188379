"""What ranks fetch of chunks that they share: each the whole of them, of a store each its own."""

from __future__ import annotations

from multiprocessing import Pipe
from pathlib import Path

import pytest
import zarr
import zarr.storage._local as files_of_zarr

from weathermixer.data.store import exact_store
from weathermixer.jigsaw.layout import Layout
from weathermixer.planning.choosing import MACHINE_VARIABLE, choose_mesh
from weathermixer.planning.machine_files import find_machine, write_machine
from weathermixer.planning.plan import Planner
from weathermixer.planning.plan_text import render_plan

ROOT = Path(__file__).parents[1]
GRID = (25, 48)  # of which the last row is the south pole
RANKS, SAMPLES = 3, 2  # of 18, 18 and 12 columns


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        from shared_chunks import make_sources

    folder = tmp_path_factory.mktemp("sources")
    make_sources(folder, GRID, RANKS)
    return folder


def bytes_by_rank(source: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The bytes that each rank's process fetches for a sample, here one after another."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from inputs.limited_storage import read_as_rank
    from shared_chunks import configuration, plan

    layout = Layout(domain=RANKS)
    data, architecture = configuration(source, layout).data, plan(source, layout).architecture
    found = []
    for rank in range(RANKS):
        # What the process that reads would take with it when it ends.
        with pytest.MonkeyPatch.context() as patch:
            for module, name in ((files_of_zarr, "_get"), (exact_store, "_read")):
                patch.setattr(module, name, getattr(module, name))
            answer, said = Pipe(duplex=False)
            of_rank = (source, data, architecture, layout.at(rank), SAMPLES, None)
            read_as_rank(said, lambda: None, *of_rank)
            found.append(answer.recv().bytes_per_sample)
    return found


def test_of_an_archive_each_rank_fetches_every_chunk_as_planned(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = sources / "archive.zarr"
    state = sum(
        file.stat().st_size for name in ("temperature", "2m_temperature")
        for file in (archive / name).glob("0.*")
    )  # fmt: skip
    assert state == 3 * 25 * 48 * 4
    fetched = bytes_by_rank(archive, monkeypatch)
    assert fetched == [2 * state] * RANKS
    from shared_chunks import plan

    planned = plan(archive, Layout(domain=RANKS))
    assert planned.bytes_fetched == pytest.approx(fetched[0], rel=1e-12)
    assert planned.share_bytes == 2 * 3 * 24 * 18 * 4


def test_of_a_store_each_byte_is_fetched_once(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = sources / "store.zarr"
    array = zarr.open_group(store, mode="r")["state"]
    assert isinstance(array, zarr.Array) and array.shards is not None
    chunks = [-(-size // chunk) for size, chunk in zip(array.shards, array.chunks, strict=True)]
    index = 16 * chunks[0] * chunks[1] * chunks[2] * chunks[3] + 4  # of a file, and a checksum
    files = [store / "state" / "c" / str(time) / "0" / "0" / "0" for time in range(2)]
    stored = [file.stat().st_size for file in files]
    # Samples of the times 0 and 1, and again.
    assert sum(bytes_by_rank(store, monkeypatch)) == sum(stored) + 2 * (RANKS - 1) * index


def test_a_plan_tells_what_chunks_cost_and_the_rate_that_would_do(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from shared_chunks import configuration

    from weathermixer.data.opening import open_states
    from weathermixer.model.architecture import architecture_of

    layout, rate = Layout(domain=RANKS), 1e3
    slow = find_machine("processors")
    storage = slow.storage.model_copy(
        update={"rank_bytes_per_second": rate, "node_bytes_per_second": 1e9}
    )
    slow = slow.model_copy(update={"storage": storage})
    write_machine(slow, tmp_path / "slow.yaml")
    monkeypatch.setenv(MACHINE_VARIABLE, str(tmp_path / "slow.yaml"))
    said = {}
    for name in ("archive", "store"):
        config = configuration(sources / f"{name}.zarr", layout)
        states = open_states(config.data.store, config.data)
        architecture = architecture_of(config.data, config.model, states.grid)
        planned = Planner(config, architecture, slow, states=states).plan(RANKS, only=layout)
        (candidate,) = planned.candidates
        wanted = 2 * 3 * 24 * 18 * 4
        fetched = 2 * 3 * 25 * 48 * 4 if name == "archive" else wanted
        assert candidate.to_json()["bytes_read_per_rank"] == wanted
        assert candidate.to_json()["bytes_fetched_per_rank"] == fetched
        assert candidate.time.total == pytest.approx(fetched / rate)
        said[name] = render_plan(planned)
        # As a training that chooses its mesh predicts it.
        choice = choose_mesh(config, architecture, world_size=RANKS, states=states)
        assert choice.seconds == pytest.approx(fetched / rate)
    assert "archive.zarr make a rank fetch 2.78 times its share, 28.8 kB a step" in said["archive"]
    assert "weathermixer data prepare" in said["archive"]
    assert "times its share" not in said["store"]

"""Archives and stores in Amazon's and Google's storage, served here by packages that speak both."""

from __future__ import annotations

import re
import socket
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.forecast_runs import write_run
from support.waves import wave_config, write_waves
from support.weatherbench import as_dataset, write_archive
from weathermixer.cli import main
from weathermixer.config import Data
from weathermixer.credentials import without_credentials
from weathermixer.data.making.preparation import prepare
from weathermixer.data.opening import inspect, open_states
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError
from weathermixer.training.trainer import train

pytest.importorskip("moto", reason="moto, which serves Amazon's storage here, is not installed")
pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator is not installed")

SECRET = "topsecretvalue"


@dataclass(frozen=True)
class Uploaded:
    """A prepared store and an archive of its states, its mask cut to fractions, here and afar."""

    store: Path
    archive: Path
    addresses: dict[str, str]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uploaded]:
    import fsspec
    from gcp_storage_emulator.server import create_server
    from moto.server import ThreadedMotoServer

    folder = tmp_path_factory.mktemp("sources")
    store = write_waves(folder / "store.zarr", times=10)
    dataset = as_dataset(Store.open(store))
    dataset["land_sea_mask"] = dataset["land_sea_mask"].clip(0.0, 1.0)
    archive = Path(write_archive(dataset, folder / "archive.zarr", time=4))
    amazon, port = ThreadedMotoServer("127.0.0.1", port=0, verbose=False), free_port()
    amazon.start()
    google = create_server("127.0.0.1", port, in_memory=True, default_bucket="weather")
    google.start()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that warn of each other
        host, amazon_port = amazon.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{amazon_port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        # Asking for the kind of a bucket goes another way, which is not served here.
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        files = fsspec.filesystem("s3")
        files.mkdir("weather")
        for path in (store, archive):
            files.put(str(path), f"weather/{path.name}", recursive=True)
            fsspec.filesystem("gs").put(str(path), f"weather/{path.name}", recursive=True)
        yield Uploaded(store, archive, {"s3": "s3://weather", "gs": "gs://weather"})
    amazon.stop()
    google.stop()


def refused(address: str) -> str:
    with pytest.raises(UserError) as caught:
        inspect(address)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["s3", "gs"])
@pytest.mark.parametrize("name", ["archive.zarr", "store.zarr"])
def test_states_from_afar_are_those_that_were_uploaded(
    uploaded: Uploaded, kind: str, name: str
) -> None:
    near = Store.open(uploaded.store)
    far = open_states(f"{uploaded.addresses[kind]}/{name}", Data(store=uploaded.store))
    assert far.path == f"{uploaded.addresses[kind]}/{name}"
    assert np.array_equal(far.times, near.times)
    channels, longitudes = slice(1, 2), slice(5, 12)
    for index in (0, len(near.times) - 1):
        assert np.array_equal(
            far.read(index, far.channel_indices(near.channels[channels]), longitudes),
            near.read(index, channels, longitudes),
        )
    static = far.read_static(near.static_channels)
    assert np.array_equal(static.clip(0.0, 1.0), near.read_static(near.static_channels).clip(0, 1))


def test_a_network_learns_the_same_from_a_store_in_a_bucket(
    uploaded: Uploaded, tmp_path: Path
) -> None:
    short = {"steps": 2, "warmup_steps": 1, "validate_every": 2}
    bucket = f"{uploaded.addresses['s3']}/store.zarr"
    near = train(wave_config(uploaded.store, training=short), tmp_path / "run-0")
    far = train(wave_config(bucket, training=short), tmp_path / "run-1")
    assert far.loss == near.loss and far.validation == near.validation
    assert SECRET not in (tmp_path / "run-1" / "config.yaml").read_text(encoding="utf-8")


def test_a_store_is_prepared_from_a_bucket(uploaded: Uploaded, tmp_path: Path) -> None:
    store = prepare(
        tmp_path / "store.zarr", [f"{uploaded.addresses['gs']}/archive.zarr"], climatology=False
    )
    near = Store.open(uploaded.store)
    assert np.array_equal(store.read(2), near.read(2, near.channel_indices(store.channels)))


def test_what_a_bucket_holds_is_told(uploaded: Uploaded) -> None:
    near, far = inspect(str(uploaded.store)), inspect(f"{uploaded.addresses['s3']}/store.zarr")
    assert far.to_json() == {**near.to_json(), "path": "s3://weather/store.zarr"}


def test_what_is_not_there_or_may_not_be_read_is_said_in_a_sentence(
    uploaded: Uploaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "there is nothing at s3://weather/other.zarr" in refused("s3://weather/other.zarr")
    assert "there is nothing at gs://weather/other.zarr" in refused("gs://weather/other.zarr")
    # fsspec keeps a connection for each set of settings: these are told apart by an address.
    unreachable = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", unreachable)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    sentence = refused("s3://weather/store.zarr")
    assert "s3://weather/store.zarr cannot be opened" in sentence and "endpoint" in sentence
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    assert "Unable to locate credentials" in refused("s3://weather/store.zarr")
    s3fs.S3FileSystem.clear_instance_cache()


def test_credentials_in_an_address_are_not_repeated() -> None:
    port = free_port()
    for address in (
        f"http://me:{SECRET}@127.0.0.1:{port}/a.zarr",
        f"http://127.0.0.1:{port}/a.nc?X-Amz-Signature={SECRET}",
    ):
        sentence = refused(address)
        assert SECRET not in sentence and f"127.0.0.1:{port}/a." in sentence


@pytest.fixture
def served(uploaded: Uploaded) -> Iterator[str]:
    """The address of the prepared store at a server, with a user and a password in it."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(uploaded.store.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://me:{SECRET}@127.0.0.1:{server.server_port}/{uploaded.store.name}"
        server.shutdown()


def test_nothing_that_commands_write_or_say_has_the_credentials_of_an_address(
    uploaded: Uploaded, served: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, out = write_run(tmp_path / "run", uploaded.store, scale=0.05), tmp_path / "f.zarr"
    archive = served.replace(uploaded.store.name, uploaded.archive.name)
    for words in (
        ["forecast", run, "--store", served, "--init", "2001-01-01T06", "--steps", 2, "--out", out],
        ["verify", out, "--truth", served, "--out", tmp_path / "scores", "--json"],
        ["report", tmp_path / "scores", "--out", tmp_path / "report.html"],
        ["data", "inspect", served],
        ["data", "prepare", tmp_path / "again.zarr", archive, "--no-climatology"],
    ):
        main([*map(str, words)])
    with pytest.raises(SystemExit):
        main(["data", "inspect", served.replace(uploaded.store.name, "absent.zarr")])
    said = capfd.readouterr()
    assert "127.0.0.1" in said.out and "absent.zarr" in said.err
    assert SECRET not in said.out + said.err
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


def test_a_run_is_given_no_address_that_carries_credentials() -> None:
    with pytest.raises(ValueError, match="carries credentials") as caught:
        Data(store=f"https://me:{SECRET}@example.org/a.zarr")
    assert "https://example.org/a.zarr" in str(caught.value)


@given(
    st.sampled_from(["https", "s3", "gs", "http"]),
    st.text("abcXYZ019-_:%", min_size=1),
    st.text("abcXYZ019-_=&%", min_size=1),
    st.sampled_from(["{} cannot be read", "Cannot open '{}' (403)", 'url="{}", status=403', "{}"]),
)
def test_neither_user_nor_signature_stays_in_a_text(
    scheme: str, user: str, signature: str, text: str
) -> None:
    bare = f"{scheme}://host.example/path/a.nc"
    carrying = f"{scheme}://{user}@host.example/path/a.nc?Signature={signature}"
    assert without_credentials(text.format(carrying)) == text.format(bare)
    assert without_credentials(text.format(bare)) == text.format(bare)
    assert re.search(r"Signature", without_credentials(text.format(carrying))) is None

"""Archives to prepare from, made in memory, and a server to fetch them from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

UNITS = {
    "geopotential": "m**2 s**-2",
    "temperature": "K",
    "2m_temperature": "K",
    "mean_sea_level_pressure": "Pa",
    "land_sea_mask": "(0 - 1)",
    "geopotential_at_surface": "m**2 s**-2",
}
GEOPOTENTIAL_M2_S2 = {500: 54600.0, 850: 14300.0, 1000: 1100.0}


def make_archive(
    *,
    times: int = 24,
    start: str = "2020-01-01",
    spacing_hours: float = 6,
    latitude: Any = None,
    columns: int = 16,
    levels: tuple[int, ...] = (500, 850),
    variables: tuple[str, ...] = ("geopotential", "temperature", "2m_temperature"),
    static: tuple[str, ...] = (),
    seed: int = 0,
) -> xr.Dataset:
    """States as WeatherBench 2 keeps them: canonical names, dimensions time, level, lat, lon."""
    random = np.random.default_rng(seed)
    rows = np.linspace(-78.75, 78.75, 8) if latitude is None else np.asarray(latitude)
    hours = (np.arange(times) * spacing_hours * 3600).astype("timedelta64[s]")
    stamps = (np.datetime64(start, "s") + hours).astype("datetime64[ns]")
    coordinates = {
        "time": stamps,
        "latitude": rows,
        "longitude": np.arange(columns) * (360.0 / columns),
    }

    def noise(mean: float, std: float, *, level: bool = False, time: bool = True) -> Any:
        shape = (times,) * time + (len(levels),) * level + (len(rows), columns)
        return (mean + std * random.standard_normal(shape)).astype(np.float32)

    plane = ("latitude", "longitude")
    fields: dict[str, Any] = {}
    for name in variables:
        if name == "geopotential":
            means = np.array([GEOPOTENTIAL_M2_S2[level] for level in levels], dtype=np.float32)
            values = noise(0.0, 900.0, level=True) + means[:, None, None]
            fields[name] = (("time", "level", *plane), values)
        elif name == "temperature":
            fields[name] = (("time", "level", *plane), noise(260.0, 9.0, level=True))
        elif name == "2m_temperature":
            fields[name] = (("time", *plane), noise(285.0, 9.0))
        else:
            fields[name] = (("time", *plane), noise(1.01e5, 900.0))
    for name in static:
        low, high = (0.0, 1.0) if name == "land_sea_mask" else (0.0, 3.0e4)
        shape = (len(rows), columns)
        fields[name] = (plane, random.uniform(low, high, shape).astype(np.float32))
    if any("level" in dims for dims, _ in fields.values()):
        coordinates["level"] = np.array(levels)
    dataset = xr.Dataset(fields, coordinates)
    for name in fields:
        dataset[name].attrs["units"] = UNITS[name]
    return dataset


@pytest.fixture
def archive() -> Callable[..., xr.Dataset]:
    """Makes an archive as WeatherBench 2 keeps them; its keywords are ``make_archive``'s."""
    return make_archive


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    """Writes a data set where a source can be read from; the name's ending says in what format."""

    def save(dataset: xr.Dataset, name: str, **options: Any) -> str:
        path = tmp_path / name
        if name.endswith(".zarr"):
            dataset.to_zarr(path, zarr_format=2, consolidated=True, **options)
        else:
            dataset.to_netcdf(path, **options)
        return str(path)

    return save


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address at which this machine serves the test's folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_RangeHandler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


class _RangeHandler(SimpleHTTPRequestHandler):
    """Serves parts of files, as real object stores do and the base class does not."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        if asked is None or not path.is_file():
            super().do_GET()
            return
        size = path.stat().st_size
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start = int(first) if first else size - int(last)
        stop = min(int(last) + 1, size) if first and last else size
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        with path.open("rb") as file:
            file.seek(start)
            self.wfile.write(file.read(stop - start))

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not worth a line of the test's output."""

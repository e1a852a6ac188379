"""Writes the coastlines that maps are drawn with, from the public-domain Natural Earth data.

    npm pack world-atlas@2.0.2 && tar xf world-atlas-2.0.2.tgz
    .venv/bin/python tools/make_coastlines.py package/land-110m.json

The result, `src/weathermixer/verification/figures/coastlines.npz`, is part of the package; run this
again only to change its resolution.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parents[1] / "src/weathermixer/verification/figures/coastlines.npz"
FULL_CIRCLE = 360.0
DATE_LINE = 180.0


def decode_arcs(topology: dict) -> list[np.ndarray]:
    """The polylines of a TopoJSON file, (points, 2) longitude and latitude in degrees.

    Arcs are stored as differences of whole numbers. Each arc is one shared piece of border, so
    that taking the arcs and not the polygons draws no line twice.
    """
    scale = np.array(topology["transform"]["scale"])
    translate = np.array(topology["transform"]["translate"])
    return [np.cumsum(arc, axis=0) * scale + translate for arc in topology["arcs"]]


def is_coast(start: np.ndarray, stop: np.ndarray) -> bool:
    """False for the edges that only close a polygon: along the date line or the south pole."""
    on_date_line = min(abs(start[0]), abs(stop[0])) > DATE_LINE - 0.01
    along_meridian = on_date_line and abs(abs(start[0]) - abs(stop[0])) < 0.01
    on_pole = max(start[1], stop[1]) < -89.9
    return not (along_meridian or on_pole)


def split(line: np.ndarray) -> list[np.ndarray]:
    """Cuts a polyline where it crosses the date line, with a point on each side of it."""
    pieces = [[line[0]]]
    for start, stop in itertools.pairwise(line):
        if not is_coast(start, stop):
            pieces.append([stop])
        elif abs(stop[0] - start[0]) > DATE_LINE:
            edge = np.copysign(DATE_LINE, start[0])
            unwrapped = stop[0] + np.copysign(FULL_CIRCLE, start[0])
            fraction = (edge - start[0]) / (unwrapped - start[0])
            latitude = start[1] + fraction * (stop[1] - start[1])
            pieces[-1].append(np.array([edge, latitude]))
            pieces.append([np.array([-edge, latitude]), stop])
        else:
            pieces[-1].append(stop)
    return [np.array(piece) for piece in pieces if len(piece) > 1]


def to_hundredths(line: np.ndarray) -> np.ndarray:
    """Rounded to int16 hundredths of a degree (1.1 km), without points that repeat."""
    rounded = np.rint(line * 100).astype(np.int16)
    moves = np.any(np.diff(rounded, axis=0) != 0, axis=1)
    return rounded[np.concatenate([[True], moves])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topojson", type=Path, help="land-110m.json of world-atlas")
    parser.add_argument("--out", type=Path, default=TARGET)
    arguments = parser.parse_args()

    arcs = decode_arcs(json.loads(arguments.topojson.read_text()))
    lines = [to_hundredths(piece) for arc in arcs for piece in split(arc)]
    lines = [line for line in lines if len(line) > 1]
    offsets = np.concatenate([[0], np.cumsum([len(line) for line in lines])]).astype(np.int32)
    np.savez_compressed(arguments.out, points=np.concatenate(lines), offsets=offsets)
    print(f"{len(lines)} polylines, {offsets[-1]} points, {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()

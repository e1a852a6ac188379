"""Draws model.svg, the network from state to state: `python docs/images/model.py`."""

import re
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent
INK, GREY, LINE = "#1f2328", "#57606a", "#d0d7de"
TOKENS, CHANNELS, TOKEN = "#0072b2", "#e69f00", "#009e73"
WIDTH, HEIGHT = 1000, 316
# A matrix of tokens (rows) and channels (columns) in the picture, and the side of a cell.
ROWS, COLUMNS, CELL = 8, 6, 15
# The patch that is followed, by row and column of patches, and the row of its token.
PATCH, MARKED = (1, 2), 3


def draw() -> str:
    """The whole picture: from left to right a state, its tokens, a block, and the next state."""
    land = re.search(r'<path id="land" d="([^"]*)"', (FOLDER / "jigsaw.svg").read_text("utf-8"))
    assert land is not None
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"'
        f' height="{HEIGHT}" role="img" font-size="14" text-anchor="middle" fill="{INK}"'
        ' font-family="system-ui, -apple-system, Helvetica, Arial, sans-serif">',
        "<title>WeatherMixer: from a state to the state six hours later</title>",
        "<desc>Each patch of the grid, in all variables, becomes one token. A block mixes the"
        " tokens of each channel, then the channels of each token. The decoder makes of each token"
        " what its patch changes by, which is added to the state.</desc>",
        f'<defs><path id="land" d="{land[1]}"/></defs>',
        f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="14" fill="#fff"'
        f' stroke="{LINE}"/>',
        *state(28, "state", "69 variables on a grid"),
        *arrow(213, "encoder"),
        *matrix(264, "tokens", "a row for each patch"),
        f'<rect x="400" y="34" width="326" height="254" rx="12" fill="#f6f8fa" stroke="{LINE}"/>',
        text(563, 64, "a block, several times over", "bold"),
        *matrix(432, "mixes tokens", "each channel alike", column=2),
        *arrow(561, "", width=34),
        *matrix(600, "mixes channels", "each token alike", row=MARKED),
        *arrow(766, "decoder"),
        *state(834, "six hours later", "state + what changed", beside="+"),
    ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def text(x: float, y: float, words: str, weight: str = "", colour: str = INK) -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    return f'<text x="{x:g}" y="{y:g}"{bold} fill="{colour}">{words}</text>'


def state(left: float, name: str, meaning: str, beside: str = "") -> Iterator[str]:
    """Maps behind each other, the first cut into patches, of which one is followed."""
    width, height, top = 120, 64, 130
    for back in (3, 2, 1, 0):
        x, y = left + 6 * back, top - 12 * back
        yield (
            f'<svg x="{x:g}" y="{y:g}" width="{width}" height="{height}" viewBox="-180 0 360 180"'
            f' preserveAspectRatio="none"><path fill="#ddf4ff" d="M-180 0h360v180h-360z"/>'
            f'<use href="#land" transform="translate(0 90)" fill="#9aa7b4"/></svg>'
            f'<rect x="{x:g}" y="{y:g}" width="{width}" height="{height}" fill="none"'
            f' stroke="{GREY}"/>'
        )
    grid = "".join(f"M{left + 20 * i:g} {top}v{height}" for i in range(1, 6))
    grid += "".join(f"M{left:g} {top + 16 * i}h{width}" for i in range(1, 4))
    x, y = left + 20 * PATCH[1], top + 16 * PATCH[0]
    yield f'<path d="{grid}" stroke="{GREY}" stroke-opacity=".6"/>'
    yield (
        f'<rect x="{x:g}" y="{y:g}" width="20" height="16" fill="{TOKEN}" fill-opacity=".85"'
        ' stroke="#fff" stroke-width="1.5"/>'
    )
    yield text(left + width / 2, 250, name, "bold")
    yield text(left + width / 2, 270, meaning, colour=GREY)
    if beside:
        yield f'<text x="{left - 22:g}" y="167" font-size="22" font-weight="bold">{beside}</text>'


def matrix(
    left: float, name: str, meaning: str, column: int | None = None, row: int | None = None
) -> Iterator[str]:
    """Tokens × channels: the token of the patch, or the column or row that is mixed."""
    top, width, height = 100, CELL * COLUMNS, CELL * ROWS
    yield f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="#eaeef2"/>'
    if column is not None:
        x = left + CELL * column
        yield f'<rect x="{x}" y="{top}" width="{CELL}" height="{height}" fill="{TOKENS}"/>'
    else:
        colour = TOKEN if row is None else CHANNELS
        y = top + CELL * (MARKED if row is None else row)
        yield f'<rect x="{left}" y="{y}" width="{width}" height="{CELL}" fill="{colour}"/>'
    lines = "".join(f"M{left + CELL * i} {top}v{height}" for i in range(COLUMNS + 1))
    lines += "".join(f"M{left} {top + CELL * i}h{width}" for i in range(ROWS + 1))
    yield f'<path d="{lines}" stroke="#fff" stroke-width="1.5"/>'
    yield text(left + width / 2, 250, name, "bold")
    yield text(left + width / 2, 270, meaning, colour=GREY)


def arrow(x: float, name: str, width: float = 44) -> Iterator[str]:
    """An arrow to the right, with what it stands for above it."""
    half = width / 2
    yield (
        f'<path fill="{GREY}" d="M{x - half:g} 158.5h{width - 12:g}v-5l12 6.5-12 6.5v-5'
        f'h{12 - width:g}z"/>'
    )
    if name:
        yield text(x, 144, name)


if __name__ == "__main__":
    (FOLDER / "model.svg").write_text(draw(), encoding="utf-8")

"""Draws jigsaw-reduce.svg and its three siblings: `python docs/images/jigsaw.py`."""

from itertools import product
from pathlib import Path

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")  # of ranks 0 to 3, as in jigsaw.svg
INK = "#1f2328"

# How a matrix is cut: the ranks that hold its pieces, row by row of pieces.
BY_BOTH = ((0, 2), (1, 3))
WEIGHT = ((0, 1), (2, 3))
STRIPES, TURNED = ((0,), (2,), (1,), (3,)), ((0,), (1,), (2,), (3,))

# For each scheme W, X and Y: its cut, the ranks whose pieces rank 0 multiplies or makes a part of.
SCHEMES = {
    "reduce": ((WEIGHT, (0, 2)), (BY_BOTH, (0,)), (BY_BOTH, (0, 1))),
    "gather": ((STRIPES, (0, 2)), (BY_BOTH, (0, 1)), (BY_BOTH, (0,))),
    "turn": ((WEIGHT, (0,)), (BY_BOTH, (0, 2)), (TURNED, (0, 1))),
    "fold": ((BY_BOTH, (0,)), (TURNED, (0, 1)), (BY_BOTH, (0, 2))),
}
# Left, top, width and height: W beside Y = W X, and X above it.
PLACES = {"W": (46, 164, 104, 120), "X": (186, 30, 132, 104), "Y": (186, 164, 132, 120)}


def draw(scheme: str) -> str:
    """The picture of one scheme."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 340 306" width="340" height="306"'
        ' role="img" font-family="system-ui, -apple-system, Helvetica, Arial, sans-serif"'
        f' fill="{INK}" text-anchor="middle">',
        f"<title>{scheme}: what rank 0 of a 2 × 2 mesh multiplies, and what moves</title>",
        '<rect x=".5" y=".5" width="339" height="305" rx="14" fill="#fff" stroke="#d0d7de"/>',
        f'<text x="92" y="74" font-size="21" font-weight="700">{scheme}</text>',
    ]
    for name, (cut, used) in zip("WXY", SCHEMES[scheme], strict=True):
        parts += matrix(cut, used, *PLACES[name], sums=name == "Y")
    for name, x, y in (("W", 26, 229), ("X", 252, 22), ("Y", 252, 301)):
        parts.append(f'<text x="{x}" y="{y}" font-size="16" font-style="italic">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def matrix(cut, used, left, top, width, height, *, sums):
    """The pieces with their ranks; an outline around those in use; an arrow where one moves."""
    rows, columns = len(cut), len(cut[0])
    w, h = width / columns, height / rows
    at = {cut[r][c]: (left + c * w, top + r * h) for r, c in product(range(rows), range(columns))}
    for rank, (x, y) in at.items():
        badge_x = x + (w / 2 if columns > 1 else 18)
        yield (
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" fill="{COLOURS[rank]}"'
            f' fill-opacity="{0.9 if rank in used else 0.3}" stroke="#fff" stroke-width="2"/>'
            f'<circle cx="{badge_x:g}" cy="{y + h / 2:g}" r="9.5" fill="#fff"/>'
            f'<text x="{badge_x:g}" y="{y + h / 2 + 5:g}" font-size="14" font-weight="700">'
            f"{rank}</text>"
        )
    x, y = (min(at[rank][axis] for rank in used) for axis in (0, 1))
    right = max(at[rank][0] for rank in used) + w
    bottom = max(at[rank][1] for rank in used) + h
    yield (
        f'<rect x="{x:g}" y="{y:g}" width="{right - x:g}" height="{bottom - y:g}" fill="none"'
        f' stroke="{INK}" stroke-width="3.5"/>'
    )
    if len(used) > 1:
        # A gathered piece comes to rank 0; a partial sum goes from it to its owner.
        beside = at[used[0]][1] == at[used[1]][1]
        angle = (0 if beside else 90) + (0 if sums else 180)
        x, y = ((x + right) / 2, (y + bottom) / 2)
        yield (
            f'<path d="M-13-2.5H2v-5L13 0 2 7.5v-5H-13z" fill="{INK}" stroke="#fff"'
            f' stroke-width="2" paint-order="stroke"'
            f' transform="translate({x:g} {y:g}) rotate({angle})"/>'
        )


if __name__ == "__main__":
    for name in SCHEMES:
        Path(__file__).with_name(f"jigsaw-{name}.svg").write_text(draw(name), encoding="utf-8")

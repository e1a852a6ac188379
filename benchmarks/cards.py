"""What `plan` says of the configurations for clusters: docs/cards.md.

    python benchmarks/cards.py            # plan, and write the page anew; minutes

Everything is predicted from the machine file of the package. The text is in ``cards_page.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pages import table, write_page

from weathermixer.config import read_config
from weathermixer.model.architecture import architecture_of
from weathermixer.model.mixer import count_parameters
from weathermixer.planning.choosing import make_planner

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/cards.md"
EXAMPLES = ROOT / "examples/cluster"
MACHINE, RANKS_PER_NODE = "h100", 4


@dataclass(frozen=True)
class Card:
    """A configuration for so many GPUs on a grid."""

    gpus: int
    grid: tuple[int, int]
    resolution: str

    @property
    def path(self) -> Path:
        return EXAMPLES / f"{self.gpus}-gpus.yaml"


CARDS = [
    Card(4, (720, 1440), "0.25°"),
    Card(32, (720, 1440), "0.25°"),
    Card(256, (720, 1440), "0.25°"),
    Card(1024, (1440, 2880), "0.125°"),
]


def main() -> None:
    write_page(__doc__, PAGE, page)


def page() -> str:
    text = (Path(__file__).parent / "cards_page.md").read_text(encoding="utf-8")
    head = (
        "GPUs", "grid", "weights", "mesh", "memory a rank", "a step", "samples/s", "of peak",
        "read", "sent",
    )  # fmt: skip
    found = table(head, map(row, CARDS)).rstrip()
    return text.replace("{table}", found).replace("{cards}", "\n\n".join(map(described, CARDS)))


def row(card: Card) -> list[str]:
    """The line of a card: the best mesh with as many replicas as it has, and a step on it."""
    config = read_config(card.path)
    planner = make_planner(config, machine=MACHINE, grid=card.grid)
    fitting = [each for each in planner.plan(card.gpus).candidates if each.fits]
    best = next(each for each in fitting if each.layout.data == config.parallel.data)
    fastest, layout = fitting[0], best.layout
    slower = best.time.total / best.samples / (fastest.time.total / fastest.samples)
    assert slower < 1.01, f"{card.path.name} has another parallel.data than the fastest"
    weights = count_parameters(architecture_of(config.data, config.model, card.grid))
    return [
        f"[{card.gpus:,}](../examples/cluster/{card.path.name})",
        f"{card.resolution}, {card.grid[0]} × {card.grid[1]}",
        f"{weights / 1e9:.1f} billion",
        f"{layout.data} × {layout.domain} × {layout.tensor}",
        f"{best.step.memory_bytes / 1e9:.0f} GB",
        f"{best.time.total:.2f} s",
        f"{best.samples / best.time.total:.0f}",
        f"{best.peak_fraction:.0%}",
        f"{best.step.bytes_read / 1e6:.0f} MB",
        f"{best.step.bytes_sent / 1e9:.1f} GB",
    ]


def described(card: Card) -> str:
    """The section of a card: its configuration, and how a job is made of it."""
    where = f"examples/cluster/{card.path.name}"
    nodes = card.gpus // RANKS_PER_NODE
    return f"""## {card.gpus:,} GPUs, {card.resolution}

```yaml
{card.path.read_text(encoding="utf-8").rstrip()}
```

```
weathermixer submit {where} --out RUN --nodes {nodes} --ranks-per-node {RANKS_PER_NODE} [--go]
```"""


if __name__ == "__main__":
    main()

"""What Jigsaw is predicted to reach, beside what others published: docs/claims.md.

    python benchmarks/claims.py            # predict, and write the page anew; two minutes

Everything is predicted, by ``planning``, from machine files of the package: nothing here was run.
The text of the page is in ``claims_page.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pages import table, write_page
from predicting import AUTHORS, CASES, Case, jigsaw, machine_of, network, other

from weathermixer.jigsaw.layout import Layout
from weathermixer.model.mixer import count_parameters
from weathermixer.planning.machine import ProductType
from weathermixer.planning.step_time import StepTime

PAGE = Path(__file__).parents[1] / "docs/claims.md"
MACHINES = {AUTHORS: "A100", "h100": "H100", "gh200": "GH200"}


def main() -> None:
    write_page(__doc__, PAGE, page)


def ranged(values: Sequence[float], form: str) -> str:
    """The likely value, and the range with those of bad and good constants."""
    return f"{values[0]:{form}} ({min(values):{form}} – {max(values):{form}})"


def mesh(layout: Layout) -> str:
    return f"{layout.domain} × {layout.tensor}"


TYPES: tuple[ProductType, ...] = ("float32", "tf32")


def four_gpus() -> str:
    """Large networks on a node of four."""
    rows = []
    sizes: tuple[tuple[int, float, ProductType], ...] = (
        (10352, 1.0, "float32"),
        (6064, 1.0, "tf32"),
        (4896, 0.5, "tf32"),
    )
    for channels, hidden, dtype in sizes:
        a = network(channels, hidden)
        ours = [jigsaw(a, 4, 4, case=case, dtype=dtype) for case in CASES]
        others = [
            other(name, a, layout, dtype=dtype)
            for name, layout in (
                ("published", Layout(domain=2, tensor=2)),
                ("megatron", Layout(tensor=4)),
            )
        ]
        reached = [
            step.operations / step.seconds / 4 / max(machine_rates(case, dtype))
            for step, case in zip(ours, CASES, strict=True)
        ]
        rows.append(
            [
                f"{channels}, {hidden:g}, {dtype}",
                *(f"{step.seconds:.3f} s, {step.fraction:.0%}" for step in others),
                ranged([step.seconds for step in ours], ".3f") + " s",
                ranged([step.fraction for step in ours], ".0%"),
                ranged(reached, ".0%"),
                mesh(ours[0].layout),
            ]
        )
    head = [
        "channels, token_hidden, type",
        "published: step, of peak",
        "Megatron-style",
        "Jigsaw: step",
        "of peak",
        "of the rate of large products",
        "mesh",
    ]
    return table(head, rows)


def machine_rates(case: Case, dtype: ProductType) -> tuple[float, ...]:
    """Rates of products of all sizes on the authors' machine."""
    return machine_of(AUTHORS, case).computing_of(ranks=1).product_rates(dtype).rates


def eight_gpus() -> str:
    """Speed-up of a network that fits on one device."""
    rows = []
    for channels in (2832, 4896):
        for dtype in TYPES:
            a = network(channels, 0.5)
            cells = [
                ranged(
                    [
                        jigsaw(a, 1, 1, case=case, dtype=dtype).seconds
                        / jigsaw(a, ways, ways, case=case, dtype=dtype).seconds
                        for case in CASES
                    ],
                    ".1f",
                )
                for ways in (2, 4, 8)
            ]
            one, four = (
                other("published", a, layout, dtype=dtype).seconds
                for layout in (Layout(), Layout(domain=2, tensor=2))
            )
            rows.append([f"{channels}, {dtype}", *cells, f"{one / four:.1f}"])
    return table(["channels, type", "2 GPUs", "4", "8 (2 nodes)", "published, 4"], rows)


def many_gpus(gpus: int = 256) -> str:
    """Replicas, each step of which reads its samples."""
    rows = []
    for ways, channels, hidden in ((1, 4320, 0.5), (2, 8192, 0.5), (4, 10352, 1.0)):
        a = network(channels, hidden)
        domain, tensor = {1: (1, 1), 2: (1, 2), 4: (2, 2)}[ways]
        theirs = [
            other("published", a, Layout(data, domain, tensor), loads=True)
            for data in (1, gpus // ways)
        ]
        ours = [
            [jigsaw(a, ways, count, case=case, loads=True) for count in (ways, gpus)]
            for case in CASES
        ]
        narrow = [jigsaw(a, ways, gpus, case=case, loads=True, gradient_bytes=2) for case in CASES]
        rows.append(
            [
                f"{ways}, {channels}, {hidden:g}",
                f"{theirs[1].seconds:.2f} s, {theirs[0].seconds / theirs[1].seconds:.0%}, "
                f"{theirs[1].operations / theirs[1].seconds / 1e15:.1f}",
                ranged([pair[1].seconds for pair in ours], ".2f") + " s",
                ranged([pair[0].seconds / pair[1].seconds for pair in ours], ".0%"),
                ranged([pair[1].operations / pair[1].seconds / 1e15 for pair in ours], ".1f"),
                parts(ours[0][1].time),
                ranged(
                    [
                        pair[0].seconds / step.seconds
                        for pair, step in zip(ours, narrow, strict=True)
                    ],
                    ".0%",
                ),
            ]
        )
    head = [
        "ways, channels, token_hidden",
        "published: step, efficiency, PFLOP/s",
        "Jigsaw: step",
        "efficiency",
        "PFLOP/s",
        "computing, exchanges, reading",
        "efficiency with bfloat16 gradients",
    ]
    return table(head, rows)


def schemes() -> str:
    """Seconds of a GPU for a sample, by scheme, on one node and on many."""
    a = network(4320, 0.5)
    rows = []
    for machine, title in MACHINES.items():
        for gpus in (4, 256):
            steps = {
                "DDP": other("ddp", a, Layout(gpus), machine=machine),
                "FSDP": other("fsdp", a, Layout(gpus), machine=machine),
                "Megatron-style, 4 ways": other(
                    "megatron", a, Layout(gpus // 4, 1, 4), machine=machine
                ),
            } | {
                f"Jigsaw, {ways} {'way' if ways == 1 else 'ways'}": jigsaw(
                    a, ways, gpus, machine=machine
                )
                for ways in (1, 2, 4)
            }
            best = min(step.seconds * step.layout.ways for step in steps.values())
            cells = []
            for step in steps.values():
                seconds = step.seconds * step.layout.ways
                cell = f"{seconds:.3f}"
                cell = f"**{cell}**" if seconds == best else cell
                cells.append(cell if step.fits else f"{cell}, does not fit")
            rows.append([f"{title}, {gpus}", *cells])
    return table(["machine, GPUs", *steps], rows)


def strong(instances: int = 640) -> str:
    """The same samples in each step, on more and more GPUs."""
    a = LARGE[0][1]
    rows = []
    for machine, title in MACHINES.items():
        cells = [
            [
                jigsaw(a, ways, ways * instances, machine=machine, case=case, loads=True)
                for case in CASES
            ]
            for ways in (4, 8, 16)
        ]
        rows.append(
            [
                title,
                ranged([step.seconds for step in cells[0]], ".2f") + " s",
                *(
                    ranged(
                        [
                            first.seconds / step.seconds * 4 / ways
                            for first, step in zip(cells[0], later, strict=True)
                        ],
                        ".0%",
                    )
                    for later, ways in zip(cells[1:], (8, 16), strict=True)
                ),
            ]
        )
    counts = [f"{ways * instances:,} GPUs" for ways in (4, 8, 16)]
    return table(["machine", f"{counts[0]}: step", *counts[1:]], rows)


def parts(time: StepTime) -> str:
    """The parts of a step's time, in percent."""
    shares = (time.compute + time.overhead, time.exchange_exposed, time.read_exposed)
    return ", ".join(f"{share / time.total:.0%}" for share in shares)


LARGE = (
    ("3.2 B, 0.25°", network(14304, 1.0), (4, 8), (256, 1024)),
    ("0.125°", network(14304, 1.0, grid=(1440, 2880), patch=(2, 120)), (8, 16), (1024, 10240)),
    ("10 B, 0.25°", network(36000, 1.0), (16, 32), (1024, 10240)),
)


def large(machine: str) -> str:
    rows = []
    for name, a, all_ways, counts in LARGE:
        for gpus in counts:
            options = [
                (ways, jigsaw(a, ways, gpus, machine=machine, loads=True)) for ways in all_ways
            ]
            fitting = [option for option in options if option[1].fits] or options[-1:]
            ways, likely = min(fitting, key=lambda option: option[1].seconds * option[0])
            steps = [
                jigsaw(a, ways, gpus, machine=machine, case=case, loads=True) for case in CASES
            ]
            alone = [
                jigsaw(a, ways, ways, machine=machine, case=case, loads=True) for case in CASES
            ]
            pairs = list(zip(alone, steps, strict=True))
            rows.append(
                [
                    f"{name} ({count_parameters(a) / 1e9:.1f} B)",
                    f"{gpus:,}",
                    f"{mesh(likely.layout)}{'' if likely.fits else ', does not fit'}",
                    ranged([step.seconds for step in steps], ".2f") + " s",
                    ranged([one.seconds / step.seconds for one, step in pairs], ".0%"),
                    ranged([step.operations / step.seconds / 1e15 for step in steps], ".0f"),
                    f"{likely.fraction:.0%}",
                    parts(likely.time),
                ]
            )
    head = ["network", "GPUs", "mesh", "step", "weak scaling", "PFLOP/s", "of peak", "parts"]
    return table(head, rows)


def page() -> str:
    """The page, in Markdown."""
    text = (Path(__file__).parent / "claims_page.md").read_text(encoding="utf-8")
    return text.format(
        four=four_gpus(),
        eight=eight_gpus(),
        many=many_gpus(),
        schemes=schemes(),
        strong=strong(),
        **{f"large_{name.replace('-', '_')}": large(name) for name in MACHINES},
    )


if __name__ == "__main__":
    main()

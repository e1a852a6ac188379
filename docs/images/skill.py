"""Draws skill.svg of the newest record of benchmarks/skill.py: `python docs/images/skill.py`."""

import json
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
RECORDS = FOLDER.parents[1] / "benchmarks" / "results"
# Colours of Okabe and Ito, told apart with any colour vision.
NETWORKS = {
    "weathermixer": ("WeatherMixer", "#0072B2", "o"),
    "sfno": ("spherical Fourier neural operator", "#D55E00", "s"),
    "vit": ("vision transformer", "#009E73", "D"),
    "unet": ("UNet", "#CC79A7", "^"),
}


def draw(record: Path) -> Figure:
    """A panel for each baseline, with a line for each network, of its best whole training."""
    trainings = json.loads(record.read_text(encoding="utf-8"))["trainings"]
    tested = [training for training in trainings if training["is_tested"]]
    best = {
        network: min(
            (training["learned"] for training in tested if training["network"] == network),
            key=lambda learned: learned["validation"],
        )
        for network in NETWORKS
    }
    figure = Figure(figsize=(8.4, 4.0), layout="constrained")
    for panel, baseline in zip(figure.subplots(1, 2), ("persistence", "climatology"), strict=True):
        for network, (name, colour, marker) in NETWORKS.items():
            errors = best[network]["relative_rmse"][baseline]
            days = [int(hours) / 24 for hours in errors]
            panel.plot(days, errors.values(), color=colour, marker=marker, label=name)
        panel.axhline(1.0, color="#999999", linewidth=1)
        panel.set(title=f"RMSE, of {baseline}'s", xlabel="lead time, days", ylim=(0, None))
        panel.grid(color="#eeeeee")
        panel.spines[["top", "right"]].set_visible(False)
    handles, names = panel.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2, frameon=False)
    return figure


if __name__ == "__main__":
    # Drawn again, it is the same file.
    matplotlib.rcParams["svg.hashsalt"] = "skill"
    figure = draw(max(RECORDS.glob("*-skill.json")))
    figure.savefig(FOLDER / "skill.svg", metadata={"Date": None})

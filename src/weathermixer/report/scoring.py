"""The numbers of ``scores.json`` as the page shows them: tables, headlines, and what curves need.

Whatever a verification does not have (a climatology, regions, spectra) is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weathermixer.data.channels import parse_channel
from weathermixer.errors import UserError
from weathermixer.report.numbers import date, drawn, lead, lead_in_words, percent, short, units_of
from weathermixer.report.sources import Verified
from weathermixer.verification.headline import (
    TABLE_HOURS,
    headline_channels,
    headline_leads,
    title_of,
)
from weathermixer.verification.scores import CLIMATOLOGY, MODEL, PERSISTENCE

METRICS = {"rmse": "RMSE", "acc": "ACC", "bias": "Bias", "activity": "Activity"}
_WITHOUT_UNITS = ("acc",)
_USEFUL_ACC = 0.6
_TILE_HOURS = 72.0
_GLOBE = "global"
_REGIONS = {
    _GLOBE: "Globe",
    "tropics": "Tropics",
    "extratropics_north": "Northern extratropics",
    "extratropics_south": "Southern extratropics",
}

Series = Mapping[str, float | None]  # by lead time in hours
BySource = Mapping[str, Mapping[str, Mapping[str, Series]]]  # source, metric, channel


@dataclass(frozen=True)
class Cell:
    """A number as it is (None: not defined), as it is shown, and from −1 to 1 how good it is."""

    value: float | None
    shown: str
    shade: float | None = None


@dataclass(frozen=True)
class Row:
    """A channel's line of a table."""

    label: str
    units: str
    cells: tuple[Cell, ...]
    is_first_of_variable: bool


@dataclass(frozen=True)
class Table:
    """One score of every channel at a few lead times."""

    name: str
    title: str
    note: str
    leads: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Tile:
    """A headline number."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class ScorePart:
    """What the page says of a verification. ``curves`` is for the page's script."""

    path: str
    num_times: int
    first_time: str
    last_time: str
    num_channels: int
    lead_hours: tuple[float, ...]
    warnings: tuple[str, ...]
    tables: tuple[Table, ...]
    tiles: tuple[Tile, ...]
    has_climatology: bool
    curves: Mapping[str, Any]

    @classmethod
    def read(cls, verified: Verified) -> ScorePart:
        """Raises UserError where the record is not one that ``verify`` writes."""
        record = verified.record
        try:
            sources = _sources(record["scores"], record)
            rmse: Mapping[str, Series] = record["scores"]["rmse"]
            hours = sorted({hours for series in rmse.values() for hours in series}, key=float)
            times = record.get("initial_times", [])
            if not hours or not times:
                raise KeyError("a lead time")
            return cls(
                path=str(verified.path),
                num_times=len(times),
                first_time=date(times[0]),
                last_time=date(times[-1]),
                num_channels=len(rmse),
                lead_hours=tuple(map(float, hours)),
                warnings=tuple(map(str, record.get("warnings", []))),
                tables=tuple(_tables(sources, hours)),
                tiles=tuple(_tiles(sources, record.get("rmse_relative_to", {}), hours)),
                has_climatology=CLIMATOLOGY in sources,
                curves=_curves(sources, hours, record.get("regions")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{verified.path}/scores.json is not what 'weathermixer verify' writes "
                f"({type(error).__name__}: {error}): verify the forecast again"
            ) from error


def label_of(channel: str) -> str:
    """A channel in words; as it is where this project does not know it."""
    try:
        title = title_of(channel)
    except ValueError:
        return channel
    return title[0].upper() + title[1:]


def _tables(sources: BySource, hours: Sequence[str]) -> Iterator[Table]:
    shown = [hours[index] for index in headline_leads(list(map(float, hours)), TABLE_HOURS)]
    leads = tuple(lead(float(one)) for one in shown)

    def table(name: str, title: str, note: str, cells: Mapping[str, list[Cell]]) -> Table:
        return Table(name, title, note, leads, tuple(_rows(cells, with_units=name == "rmse")))

    model = sources[MODEL]
    for baseline in (PERSISTENCE, CLIMATOLOGY):
        if baseline in sources:
            theirs = sources[baseline]["rmse"]
            cells = {
                channel: [_skill(series.get(at), theirs[channel].get(at)) for at in shown]
                for channel, series in model["rmse"].items()
            }
            note = f"1 − RMSE / RMSE of {baseline}: above zero the model is better."
            yield table(f"skill-{baseline}", f"Skill against {baseline}", note, cells)
    for name in ("rmse", "acc"):
        if name in model:
            cells = {
                channel: [_score(series.get(at), name, channel) for at in shown]
                for channel, series in model[name].items()
            }
            note = {
                "rmse": "Root mean square error, weighted by area.",
                "acc": "Correlation of anomalies from the climatology; above 0.6 a forecast is "
                "commonly held to be useful.",
            }[name]
            yield table(name, METRICS[name], note, cells)


def _rows(cells: Mapping[str, list[Cell]], *, with_units: bool) -> Iterator[Row]:
    previous = None
    for channel, row in cells.items():
        variable = _variable(channel)
        units = units_of(channel)[0] if with_units else ""
        yield Row(label_of(channel), units, tuple(row), variable != previous)
        previous = variable


def _variable(channel: str) -> str:
    """The surface's channels stand together."""
    try:
        parsed = parse_channel(channel)
    except ValueError:
        return channel
    return parsed.variable if parsed.level_hpa is not None else ""


def _score(value: float | None, metric: str, channel: str) -> Cell:
    if metric in _WITHOUT_UNITS:
        shade = None if value is None else _clip((value - _USEFUL_ACC) / (1.0 - _USEFUL_ACC))
        return Cell(value, short(value), shade)
    return Cell(value, short(value if value is None else units_of(channel)[1] * value))


def _skill(ours: float | None, theirs: float | None) -> Cell:
    if ours is None or not theirs:
        return Cell(None, percent(None))
    skill = 1.0 - ours / theirs
    return Cell(skill, percent(skill), _clip(skill))


def _clip(value: float) -> float:
    return round(max(-1.0, min(1.0, value)), 3)


def _tiles(
    sources: BySource, relative: Mapping[str, Series], hours: Sequence[str]
) -> Iterator[Tile]:
    """A few numbers that say how good the forecasts are."""
    model = sources[MODEL]
    at = min(hours, key=lambda one: abs(float(one) - _TILE_HOURS))
    for channel in headline_channels(list(model["rmse"]))[:1]:
        units, factor = units_of(channel)
        ours = model["rmse"][channel].get(at)
        skill = _skill(ours, sources.get(PERSISTENCE, model)["rmse"][channel].get(at)).value
        yield Tile(
            f"{label_of(channel)}: RMSE at {lead_in_words(float(at))}",
            f"{short(None if ours is None else factor * ours)} {units}".strip(),
            _against(skill, PERSISTENCE) if PERSISTENCE in sources else "",
        )
        if "acc" in model:
            yield Tile(
                f"{label_of(channel)}: useful until",
                _crossing(model["acc"][channel], hours, _USEFUL_ACC, falling=True),
                f"anomaly correlation above {_USEFUL_ACC:g}",
            )
    for baseline in (PERSISTENCE, CLIMATOLOGY):
        ratio = relative.get(baseline, {}).get(at)
        if ratio is not None:
            until = _crossing(relative[baseline], hours, 1.0, falling=False)
            yield Tile(
                f"All {len(model['rmse'])} channels: RMSE against {baseline}",
                percent(ratio - 1.0),
                f"at {lead_in_words(float(at))}, on average; better until {until}",
            )


def _against(skill: float | None, baseline: str) -> str:
    if skill is None:
        return ""
    return f"{abs(skill):.0%} {'below' if skill >= 0.0 else 'above'} {baseline}".replace("%", " %")


def _crossing(series: Series, hours: Sequence[str], limit: float, *, falling: bool) -> str:
    """When a series crosses a limit first, between lead times linearly; in words."""
    before: tuple[float, float] | None = None
    for one in hours:
        value = series.get(one)
        if value is None:
            continue
        hour = float(one)
        if (value < limit) if falling else (value > limit):
            if before is None:
                return f"less than {lead_in_words(hour)}"
            crossed = before[0] + (limit - before[1]) / (value - before[1]) * (hour - before[0])
            if crossed < 24.0:
                return f"{crossed:.0f}\u00a0hours"
            return f"{crossed / 24.0:.1f}\u00a0days"
        before = hour, value
    return f"beyond {lead_in_words(float(hours[-1]))}" if before else "–"


def _curves(sources: BySource, hours: Sequence[str], regions: Any) -> dict[str, Any]:
    """Every series, in shown units: region, source, metric, channel, lead."""
    channels = list(sources[MODEL]["rmse"])
    first = headline_channels(channels)
    by_region = {_REGIONS[_GLOBE]: sources, **dict(_regions(regions))}
    return {
        "hours": list(map(float, hours)),
        "channels": [
            {"name": name, "label": label_of(name), "units": units_of(name)[0]} for name in channels
        ],
        "headline": [channels.index(name) for name in first],
        "metrics": {
            metric: {"label": METRICS[metric], "hasUnits": metric not in _WITHOUT_UNITS}
            for metric in METRICS
            if metric in sources[MODEL]
        },
        "regions": {
            region: {
                source: {
                    metric: [
                        _drawn(by_channel.get(name, {}), hours, metric, name) for name in channels
                    ]
                    for metric, by_channel in by_metric.items()
                    if metric in METRICS
                }
                for source, by_metric in values.items()
            }
            for region, values in by_region.items()
        },
    }


def _drawn(series: Series, hours: Iterable[str], metric: str, channel: str) -> list[float | None]:
    factor = 1.0 if metric in _WITHOUT_UNITS else units_of(channel)[1]
    values = drawn((series.get(at) for at in hours), factor)
    return values if any(value is not None for value in values) else []


def _regions(regions: Any) -> Iterator[tuple[str, BySource]]:
    """Scores of parts of the globe, where a verification has them."""
    for name, scores in (regions or {}).items():
        if name != _GLOBE:
            yield _REGIONS.get(name, name.replace("_", " ")), _sources(scores, scores)


def _sources(model: Mapping[str, Any], record: Mapping[str, Any]) -> BySource:
    """The model's scores, those of forecasts put beside it, and those of the baselines."""
    own = {metric: model[metric] for metric in METRICS if metric in model}
    return {MODEL: own, **record.get("beside", {}), **record.get("baselines", {})}

"""What several commands share: types of arguments, options, and how a result is printed."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Any

import click

from weathermixer.cli.completion import ArchiveName, MachineName, TakesSettings, complete_value

PATH = click.Path(path_type=Path)
ARCHIVE = ArchiveName()
OVERRIDES = {"ignore_unknown_options": True}


class GridShape(click.ParamType):
    """Latitude × longitude, such as 32x64."""

    name = "LATxLON"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Parse the grid, unless it is parsed already."""
        if isinstance(value, tuple):
            return value
        rows, cross, columns = value.lower().replace("×", "x").partition("x")
        if not (cross and rows.isdecimal() and columns.isdecimal() and int(rows) * int(columns)):
            self.fail(f"{value!r} is not latitude × longitude, such as 32x64")
        return int(rows), int(columns)


class MeshShape(click.ParamType):
    """Data × domain × tensor, such as 2x4x1."""

    name = "DxOxT"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int, int]:
        """Parse the mesh, unless it is parsed already."""
        if isinstance(value, tuple):
            return value
        sizes = value.lower().replace("×", "x").split("x")
        if len(sizes) != 3 or not all(size.isdecimal() and int(size) for size in sizes):
            self.fail(f"{value!r} is not data × domain × tensor, such as 2x4x1")
        data, domain, tensor = map(int, sizes)
        return data, domain, tensor


class RankCounts(click.ParamType):
    """Numbers of ranks, such as 1,2,4; ascending, each once."""

    name = "N[,N...]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Parse the numbers, unless they are parsed already."""
        if isinstance(value, tuple):
            return value
        counts = value.split(",")
        if not all(count.isdecimal() and int(count) for count in counts):
            self.fail(f"{value!r} is not numbers of ranks, such as 1,2,4")
        return tuple(sorted({int(count) for count in counts}))


class WithSettings(TakesSettings):
    """A command whose help ends with every setting of the configuration."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write every setting with its default and its meaning below the help."""
        from weathermixer.config import settings

        with formatter.section("Settings, as --section.key=value or in CONFIG"):
            formatter.write_dl(
                [(key, f"{meaning} [{default}]") for key, default, meaning in settings()]
            )


as_json = click.option("--json", "json", is_flag=True, help="Print the result as one JSON object.")
config_argument = click.argument("config", type=PATH)
nproc_option = click.option(
    "--nproc", type=click.IntRange(1), help="Ranks to start on this machine."
)
overrides_argument = click.argument(
    "overrides",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="[--section.key=value]...",
    shell_complete=complete_value,
)
machine_option = click.option(
    "--machine",
    type=MachineName(),
    metavar="NAME|FILE",
    help="A machine that is known, or a file that 'bench machine' wrote.  [default: this machine]",
)


def print_result(result: Any) -> None:
    """Print text as it is, and anything else as one line of JSON, on standard output."""
    if isinstance(result, dict):
        result = json_module.dumps(result)
    click.echo(result)

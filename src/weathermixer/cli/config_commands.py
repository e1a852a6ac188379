"""The commands about a configuration: ``init``, ``check`` and ``schema``."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path

import click

from weathermixer.cli.arguments import (
    ARCHIVE,
    OVERRIDES,
    PATH,
    as_json,
    config_argument,
    machine_option,
    overrides_argument,
    print_result,
)
from weathermixer.cli.completion import TakesSettings
from weathermixer.console import say, size_text, waiting_for

_THIS_MACHINE = "this one"


@click.command()
@click.option(
    "--store", type=ARCHIVE, help="What to learn from: a store, or WeatherBench 2's Zarr."
)
@click.option(
    "--out",
    type=PATH,
    default=Path("config.yaml"),
    show_default=True,
    metavar="FILE",
    help="Configuration to write.",
)
@click.option(
    "--gpus",
    type=click.IntRange(1),
    help="Ranks, in all.  [default: the GPUs of this machine, or one rank; all of a node]",
)
@machine_option
def init(store: str | None, out: Path, gpus: int | None, machine: str | None) -> None:
    """Write a commented configuration for a store and a machine, and say what to run next.

    Without --store it asks for that, and for what else was not given.
    """
    if store is None and not sys.stdin.isatty():
        raise click.UsageError("There is nobody to ask for a store: give --store.")
    with waiting_for("the program's libraries to be loaded"):
        from weathermixer.first_config import default_gpus, refuse_existing, write_first_config
        from weathermixer.planning.machine_files import shipped_machines

    refuse_existing(out)
    if store is None:
        store = click.prompt("Store to learn from", err=True)
        if machine is None:
            known = ", ".join(shipped_machines())
            say(f"Machines that are known: {known}; or a file that 'bench machine' wrote.")
            machine = click.prompt("Machine to train on", default=_THIS_MACHINE, err=True)
            machine = None if machine == _THIS_MACHINE else machine
        if gpus is None:
            most = default_gpus(machine)
            gpus = click.prompt("Ranks, in all", type=click.IntRange(1), default=most, err=True)
    with waiting_for("the plan"):
        command = write_first_config(out, store, gpus=gpus, machine=machine)
    say(f"wrote {out}, which 'weathermixer check' finds sound: read it, then run")
    print_result(command)


@click.command(cls=TakesSettings, context_settings=OVERRIDES)
@config_argument
@overrides_argument
@as_json
def check(config: Path, overrides: tuple[str, ...], json: bool) -> None:
    """Name every problem of a configuration and its store, with a remedy; run nothing."""
    from weathermixer.check import check as check_config

    findings = check_config(config, overrides)
    if json:
        print_result(findings.to_json())
    else:
        for problem in findings.problems:
            print_result(f"{problem.severity}: {problem.sentence()}")
        if not findings.problems:
            print_result(f"{config}: no problems found")
        if findings.buffer_bytes is not None and findings.kept_bytes is not None:
            print_result(
                f"reading ahead holds at most {size_text(findings.buffer_bytes)} on a rank; the "
                f"ranks of a machine keep states in at most {size_text(findings.kept_bytes)}"
            )
    if findings.has_errors:
        raise SystemExit(2)


@click.command()
def schema() -> None:
    """Print the JSON Schema of a configuration, for editors that complete and check YAML."""
    from weathermixer.config.schema import config_schema

    print_result(json_module.dumps(config_schema(), indent=2, ensure_ascii=False))

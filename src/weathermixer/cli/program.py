"""The command ``weathermixer``: its commands, and how each of them ends."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

import click

from weathermixer import __version__
from weathermixer.cli.bench_commands import bench
from weathermixer.cli.config_commands import check, init, schema
from weathermixer.cli.plan_commands import plan
from weathermixer.cli.run_commands import demo, export, forecast, train
from weathermixer.cli.score_commands import report, verify
from weathermixer.cli.store_commands import data
from weathermixer.cli.submit_command import submit
from weathermixer.console import say
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import LayoutError
from weathermixer.launch.failures import RankFailed, RanksMissing
from weathermixer.launch.ranks import exit_with_error


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="weathermixer")
def commands() -> None:
    """Train, run and verify WeatherMixer, an MLP-Mixer for the atmosphere.

    Any command takes --traceback, to show where in the program an error arose.
    """


for _command in (
    demo, data, init, schema, check, train, submit, forecast, export, verify, report, plan, bench,
):  # fmt: skip
    commands.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit with 0, with 2 for a user's mistake, 75 (stopped early), or with 1."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    show_traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    run_by_all_ranks = _takes_ranks(words)
    try:
        # Ranks are started with the words that the user typed.
        commands.main(words, prog_name="weathermixer", standalone_mode=False, obj=tuple(words))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        exit_with_error(error, shown.getvalue().rstrip("\n"), 2, run_by_all_ranks=run_by_all_ranks)
    except (click.Abort, KeyboardInterrupt) as error:
        exit_with_error(error, "Interrupted.", 1, run_by_all_ranks=run_by_all_ranks)
    except RankFailed as error:
        if show_traceback:
            say(error.details)
        say(str(error))
        sys.exit(error.status)
    except (UserError, LayoutError, RanksMissing) as error:
        exit_with_error(
            error,
            f"Error: {error}",
            1 if isinstance(error, RanksMissing) else 2,
            show_traceback=show_traceback,
            run_by_all_ranks=run_by_all_ranks,
        )
    except Exception as error:  # noqa: BLE001 - the last place where anything can be said
        sentence = (
            f"{type(error).__name__}: {error} (an error of the program; --traceback shows where)"
        )
        exit_with_error(
            error,
            f"Error: {sentence}",
            1,
            show_traceback=show_traceback,
            run_by_all_ranks=run_by_all_ranks,
        )


def _takes_ranks(words: Sequence[str]) -> bool:
    """Whether a command is one that several ranks run together."""
    command: click.Command | None = commands
    for word in words:
        if not isinstance(command, click.Group):
            break
        command = command.commands.get(word)
    return command is not None and any(
        option.name in ("nproc", "ranks") for option in command.params
    )

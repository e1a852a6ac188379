"""What a shell completes beyond options and commands: settings, their values, archives, machines.

A shell calls the program for each completion, so nothing heavy may be imported here.
"""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import (
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)


class ArchiveName(click.ParamType):
    """The path or address of a store, an archive or a forecast, as text."""

    name = "text"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Leave it to the shell to complete a path."""
        return [_path(incomplete)]


class MachineName(click.ParamType):
    """The name of a machine that the package describes, or the path of a machine file."""

    name = "text"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The names that begin so, or else a path."""
        from weathermixer.planning.machine_files import shipped_machines

        known = [CompletionItem(name) for name in shipped_machines() if name.startswith(incomplete)]
        return known or [_path(incomplete)]


class TakesSettings(click.Command):
    """A command that takes settings as ``--section.key=value``, of which shells know the keys."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The options that begin so, then the settings."""
        from weathermixer.config import settings

        return super().shell_complete(ctx, incomplete) + [
            CompletionItem(f"--{key}", help=meaning)
            for key, _, meaning in settings()
            if incomplete.startswith("--") and f"--{key}".startswith(incomplete) and self.takes(key)
        ]

    def takes(self, key: str) -> bool:
        """Whether the command takes this setting."""
        return True


class TakesSettingsOfForecasts(TakesSettings):
    """A command that takes the few settings that may change a forecast."""

    def takes(self, key: str) -> bool:
        """Whether the command takes this setting."""
        from weathermixer.forecast.options import ADJUSTABLE_OF_ENSEMBLES

        return key in ADJUSTABLE_OF_ENSEMBLES


class _WholeWords(ShellComplete):
    """For shells that replace a whole word, where bash takes words apart at ``=``."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """What can follow, values with the key that they are typed behind."""
        key, equals, value = incomplete.partition("=")
        if not (equals and key.startswith("--")):
            return super().get_completions(args, incomplete)
        return [
            CompletionItem(f"{key}={item.value}", item.type, item.help)
            for item in super().get_completions([*args, key], value)
            if item.type == "plain"
        ]


@add_completion_class
class _Zsh(_WholeWords, ZshComplete):
    """Completion in zsh."""


@add_completion_class
class _Fish(_WholeWords, FishComplete):
    """Completion in fish."""


def complete_value(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The values of the setting whose key was typed before, where they are few; or a path."""
    from weathermixer.config import choices

    assert param.name is not None
    words = [word for word in ctx.params.get(param.name) or () if word != "="]
    key = words[-1].removeprefix("--") if words else ""
    if key == "data.store":
        return [_path(incomplete)]
    return [CompletionItem(text) for text in choices(key) if text.startswith(incomplete)]


def _path(incomplete: Any) -> CompletionItem:
    return CompletionItem(incomplete, type="file")

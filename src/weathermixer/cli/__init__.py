"""The command line: parse, call, print. No logic lives here.

Everything heavy is imported inside the command that needs it, so that ``--help`` is quick.
"""

from weathermixer.cli.program import commands, main

__all__ = ["commands", "main"]

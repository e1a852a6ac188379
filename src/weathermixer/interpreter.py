"""The Python interpreter that this program runs in, and those that it starts.

A file of the user's that happens to be called ``queue.py`` must not stand in for Python's own, and
a locale without ``°`` must not stop the program. This module comes before
any other, so it imports nothing but what every interpreter has loaded by then.
"""

from __future__ import annotations

import os
import sys

PATH_AT_THE_END = "WEATHERMIXER_PATH_AT_THE_END"
"""Names, to ranks, the folders that come last on the search path for modules."""

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def prepare_interpreter() -> None:
    """Put the current folder last on the search path, and read and write UTF-8, in this process.

    Where the locale gives file names another encoding, the process is replaced by one in Python's
    UTF-8 mode, which can only be chosen at the start.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    sys.path[:] = reordered_path(
        sys.path, os.environ.get("PYTHONPATH", ""), runs_as_module=not sys.flags.safe_path
    )
    later = os.environ.get(PATH_AT_THE_END, "").split(os.pathsep)
    sys.path += [folder for folder in later if folder and folder not in sys.path]
    for stream in (sys.stdout, sys.stderr):
        # What an encoding that was asked for lacks is written as \\xb0 instead of raising.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def reordered_path(path: list[str], pythonpath: str, *, runs_as_module: bool) -> list[str]:
    """A search path with the current folder and relative entries of PYTHONPATH at its end.

    There they still provide what nothing else does. ``runs_as_module`` says that the first entry
    is the folder that ``python -m`` was called in.

    >>> reordered_path(["", "/lib", "/site"], "", runs_as_module=True)[:2]
    ['/lib', '/site']
    """
    here = os.getcwd()
    given = pythonpath.split(os.pathsep) if pythonpath else []
    last = {
        os.path.normpath(os.path.join(here, entry)) for entry in given if not os.path.isabs(entry)
    }
    last -= {os.path.normpath(entry) for entry in given if os.path.isabs(entry)}
    if runs_as_module and path and path[0] in ("", here):
        last.add(here)
    behind = [entry for entry in path if os.path.join(here, entry).rstrip(os.sep) in last]
    return [entry for entry in path if entry not in behind] + [
        os.path.join(here, entry) for entry in behind
    ]


def num_cores() -> int:
    """The cores that this process may compute on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def program(*words: str) -> list[str]:
    """The command line that runs this very copy of the program on ``words``."""
    return [sys.executable, "-P", os.path.join(_PACKAGE, "__main__.py"), *words]


def environment_of_children() -> dict[str, str]:
    """Variables for a Python process that finds the modules that this one finds.

    It looks in no folder of the user's before Python's own modules and the installed ones.
    """
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(entry for entry in given if os.path.isabs(entry)),
        PATH_AT_THE_END: os.pathsep.join(os.path.abspath(entry) for entry in sys.path),
    }

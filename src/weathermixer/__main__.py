"""The program ``weathermixer``, also as ``python -m weathermixer`` and by this file's path."""

import os
import sys


def main() -> None:
    """Run the command that the command line names, and exit with its status."""
    from weathermixer.interpreter import prepare_interpreter

    prepare_interpreter()
    from weathermixer.cli import main as run_command

    run_command()


if __name__ == "__main__":
    if not __package__:
        # Run by its path: the package is the one around this file, and nothing else is beside it.
        package = os.path.dirname(os.path.abspath(__file__))
        sys.path[:] = [os.path.dirname(package), *(path for path in sys.path if path != package)]
        import weathermixer  # noqa: F401

        del sys.path[0]
    main()

"""``python -m weathermixer`` is the command ``weathermixer``."""

from weathermixer.cli import main

main()

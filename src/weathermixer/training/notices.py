"""Sentences for the person who waits, and troubles that are said once and cost nothing.

Whatever only watches a training (its log, events, progress, validations) reports its failures here
instead of raising them: the steps go on with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable


class Notices:
    """Says sentences through ``write``, and each kind of trouble once.

    Where a sentence cannot be written, because the terminal is gone or the disk under it is full,
    nothing is said and nothing is raised.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._kinds: set[str] = set()
        self._listeners: list[Callable[[str], None]] = []

    def listen(self, hear: Callable[[str], None]) -> None:
        """Let ``hear`` be called with every sentence about a trouble from now on."""
        self._listeners.append(hear)

    def say(self, sentence: str) -> None:
        """Say a sentence to the user, where that is possible."""
        self.try_to_show(lambda: self._write(sentence))

    def try_to_show(self, show: Callable[[], object]) -> bool:
        """Call ``show``, which writes to the terminal, and return whether it could."""
        # A closed file is a ValueError, and rich exits where nobody reads its output any more.
        try:
            show()
        except (OSError, ValueError, SystemExit):
            return False
        return True

    def say_once(self, kind: str, sentence: str) -> None:
        """Say what went wrong with watching, unless a sentence of this ``kind`` was said before."""
        if kind not in self._kinds:
            self._kinds.add(kind)
            self.say(sentence)
            for hear in self._listeners:
                hear(sentence)

"""On how many ranks an experiment measures where nobody says it; nothing heavy is imported here."""

from __future__ import annotations


def default_counts(kind: str, started: int) -> tuple[int, ...]:
    """The numbers of ranks to measure where a user names none.

    A roofline is that of all that were started. Elsewhere it is every number that divides them;
    where no launcher started any, 1, 2 and 4.

    >>> default_counts("weak", 6), default_counts("strong", 1), default_counts("roofline", 6)
    ((1, 2, 3, 6), (1, 2, 4), (6,))
    """
    if kind == "roofline":
        return (started,)
    if started == 1:
        return (1, 2, 4)
    return tuple(count for count in range(1, started + 1) if started % count == 0)

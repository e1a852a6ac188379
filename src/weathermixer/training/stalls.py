"""A step that does not get on: what it waits for, in a sentence, while it still waits.

How a job ends of which a rank is gone is for the heartbeat. This is for the waits before, and for
those that end well after all: a file system that hangs, a rank that is slower than the others.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import Self

from weathermixer.jigsaw.activity import ACTIVITY, RankNews

SECONDS_TO_A_WORD = 60.0
_TIMES_A_STEP = 4.0  # of the longest so far: what is longer than that is no ordinary step


class StallWatch:
    """While entered, a thread that looks at what this rank waits for, once a second.

    ``say`` is called once for each wait that is long, with a sentence about all ranks of which
    something is known; ``note`` with what this rank alone waits for. ``step`` tells how many steps
    have been taken.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        note: Callable[[str], None],
        step: Callable[[], int],
        *,
        rank: int,
        patience: float = SECONDS_TO_A_WORD,
    ) -> None:
        self._say, self._note, self._step, self._rank = say, note, step, rank
        self._patience = patience
        self._ended = threading.Event()
        self._spoken: tuple[int, int] | None = None  # the step and the exchange

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="stalls", daemon=True).start()
        return self

    def __exit__(self, *details: object) -> None:
        self._ended.set()

    def take_note(self, seconds: float) -> None:
        """Take note of how long a step has taken."""
        self._patience = max(self._patience, _TIMES_A_STEP * seconds)

    def look(self) -> None:
        """Speak where something has been waited for too long, and has not been spoken of."""
        own = ACTIVITY.now()
        all_ranks = ACTIVITY.all_ranks
        news = {self._rank: RankNews("", own)} if all_ranks is None else all_ranks()
        what, number = what_is_waited_for(news, self._patience), self._step() + 1
        if what is None or self._spoken == (number, own.exchanges):
            return
        self._spoken = number, own.exchanges
        self._say(f"step {number} stands still: {what}")
        here = what_is_waited_for({self._rank: RankNews("", own)}, self._patience)
        if here is not None:
            self._note(f"step {number} stands still: {here}")

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            self.look()


def what_is_waited_for(news: Mapping[int, RankNews], patience: float) -> str | None:
    """What ranks have waited for longer than ``patience`` seconds, None where there is nothing.

    Of ranks that wait for each other, it is the one that does not wait that is named.
    """
    for rank, each in news.items():
        beat = each.beat
        if beat.waited_alone_s >= patience:
            who = f"{_named(rank, each)} is " if len(news) > 1 else ""
            return f"{who}waiting for {beat.waits_alone_for}, {beat.waited_alone_s:.0f} s so far"
    waiting = {
        rank: each.beat
        for rank, each in news.items()
        if each.beat.exchange and each.beat.waited_s >= patience
    }
    if not waiting:
        return None
    late = [rank for rank, each in news.items() if each.beat.waited_s < patience]
    for rank in late:
        # Of those that wait, the one that hears of it directly knows what it lacks.
        for beat in waiting.values():
            if _may_be(rank, beat.waits_for):
                return (
                    f"{_named(rank, news[rank])} has not sent its part of the {beat.exchange} for "
                    f"{beat.waited_s:.0f} s"
                )
    rank, beat = next(iter(waiting.items()))
    return (
        f"{_named(rank, news[rank])} has waited {beat.waited_s:.0f} s for {beat.waits_for}, in the "
        f"{beat.exchange}"
    )


def _may_be(rank: int, waits_for: str) -> bool:
    """Whether a text such as ``rank 1 or 3 along tensor`` may mean a rank; all ranks may be others.

    >>> [_may_be(rank, "rank 1 or 3 along tensor") for rank in (3, 13)]
    [True, False]
    >>> _may_be(13, "one of the 3 other ranks along data")
    True
    """
    names = re.match(r"rank ([\d or]+) along", waits_for)
    return names is None or str(rank) in names[1].split(" or ")


def _named(rank: int, news: RankNews) -> str:
    return f"rank {rank} on {news.host}" if news.host else f"rank {rank}"

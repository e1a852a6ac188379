"""Ranks in words."""

from __future__ import annotations

from collections.abc import Sequence


def rank_names(ranks: Sequence[int]) -> str:
    """Increasing ranks as a sentence names them.

    >>> [rank_names(ranks) for ranks in ([3], [0, 1, 2], [0, 2, 3, 5])]
    ['rank 3', 'ranks 0 to 2', 'ranks 0, 2 to 3, 5']
    """
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    names = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(names)}"

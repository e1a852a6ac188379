"""Which times make a sample, and in which order samples are seen.

Pure arithmetic on times and numbers; nothing here reads a state. The order depends on the seed and
on the number of samples consumed, and on nothing else: not on workers, ranks, or restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import Data, Period, parse_period
from weathermixer.data.feeding.periods import Periods, periods
from weathermixer.data.states import States
from weathermixer.data.time_steps import to_hours, to_timedelta
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout


def training_period(data: Data, store: States) -> Period:
    """The period ``data.train``, or by default the first four fifths of the store's times."""
    return _periods(data, store).train


def validation_period(data: Data, store: States) -> Period | None:
    """The period ``data.validation``, or by default a tenth of the store's times, if it has any."""
    return _periods(data, store).validation


class Windows:
    """Every run of ``length + 1`` times exactly one step apart: the samples that there are.

    Only the first time of each is held. ``windows[numbers]`` gives the time indices of some of
    them, ``(..., length + 1)``, in the order of their first time; a number, a slice or an array of
    numbers takes as many.
    """

    def __init__(
        self,
        times: NDArray[np.datetime64],
        step: np.timedelta64,
        length: int,
        firsts: NDArray[np.intp],
    ) -> None:
        self._times, self._step, self._length, self._firsts = times, step, length, firsts

    def __len__(self) -> int:
        return len(self._firsts)

    def __getitem__(self, numbers: int | slice | NDArray[np.integer]) -> NDArray[np.int64]:
        return self._after(self._firsts[numbers][..., None], np.arange(self._length + 1))

    def states(self) -> NDArray[np.bool_]:
        """Which of all times ``(time,)`` are in any window."""
        found = np.zeros(len(self._times), dtype=np.bool_)
        for steps in range(self._length + 1):
            found[self._after(self._firsts, steps)] = True
        return found

    def _after(
        self, indices: NDArray[np.intp], steps: int | NDArray[np.integer]
    ) -> NDArray[np.int64]:
        """The indices of the times so many steps after those at ``indices``, which there are."""
        return np.searchsorted(self._times, self._times[indices] + steps * self._step)


def windows(
    times: NDArray[np.datetime64], step_hours: float, length: int, period: Period
) -> Windows:
    """Find the windows: every run of times exactly one step apart.

    ``times`` increase, at any spacing: a step may span several of them. All of a window's times lie
    in the period (inclusive). Takes memory for a few numbers per time, whatever the ``length``.
    """
    step = to_timedelta(step_hours)
    following = np.searchsorted(times, times + step)
    following[following == len(times)] = 0
    inside = (times >= period[0]) & (times <= period[1])
    goes_on = inside & (times[following] == times + step)
    begins = inside
    for _ in range(length):
        begins = goes_on & begins[following]
    return Windows(times, step, length, np.flatnonzero(begins))


def require_windows(
    store: States, step_hours: float, length: int, period: Period, *, key: str
) -> Windows:
    """Find the ``windows`` of a store, at least one.

    ``key`` is the setting that chose the period, such as ``data.train``. Raises UserError, with
    what the store's times are like, where there are none.
    """
    found = windows(store.times, step_hours, length, period)
    if len(found):
        return found
    times = store.times[(store.times >= period[0]) & (store.times <= period[1])]
    pairs = len(windows(store.times, step_hours, 1, period))
    spacing = "it has no two times"
    if len(times) > 1:
        intervals, counts = np.unique(np.diff(times), return_counts=True)
        hours = to_hours(intervals[np.argmax(counts)])
        spacing = f"its times are mostly {hours:g} h apart"
    raise UserError(
        f"{key} ({period[0]} to {period[1]}) holds {len(times)} of the store's times but no "
        f"{length + 1} in a row that are {step_hours:g} h apart, and {pairs} pairs: {spacing} and "
        f"data.step_hours is {step_hours:g}, so change data.step_hours, {key}, training.rollout, "
        "training.latent_rollout or data.input_times"
    )


def evenly_spaced(samples: Windows | NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Choose at most ``count`` of the samples, evenly spaced, from the first to the last."""
    if len(samples) <= count:
        return samples[:]
    return samples[np.linspace(0, len(samples) - 1, count).round().astype(np.int64)]


def sample_numbers(
    num_windows: int,
    seed: int,
    first: int,
    batch: int,
    layout: Layout,
    skipped: Sequence[range] = (),
) -> NDArray[np.int64]:
    """Numbers ``(batch,)`` of the windows of one step on this rank.

    ``first`` samples were consumed before the step, by all replicas together; those that are
    ``skipped``, counted in the same way, are passed over. Each epoch visits every window once, in
    an order of its own; a batch may span two epochs. Samples are divided over ``data`` alone: the
    ranks of one model instance see the same sample, because each of them holds a part of it.
    """
    own = layout.coordinates.data * batch
    number = consumed_by(first, batch * layout.data, skipped)[own : own + batch]
    epochs, positions = np.divmod(number, num_windows)
    numbers = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        numbers[here] = _permutation(num_windows, seed, int(epoch))[positions[here]]
    return numbers


def consumed_by(first: int, count: int, skipped: Sequence[range]) -> NDArray[np.int64]:
    """The next ``count`` samples from ``first`` on, as they are counted, but for the ``skipped``.

    >>> consumed_by(3, 4, [range(5, 8), range(6, 10)]).tolist()
    [3, 4, 10, 11]
    """
    runs: list[NDArray[np.int64]] = []
    for each in sorted(skipped, key=lambda each: each.start):
        taken = min(count, max(0, each.start - first))
        runs.append(np.arange(first, first + taken))
        count -= taken
        first = max(first + taken, each.stop if count else 0)
    return np.concatenate([*runs, np.arange(first, first + count)])


def training_plan(
    all_windows: Windows,
    *,
    seed: int,
    batch: int,
    layout: Layout,
    steps: range,
    samples: int,
    leads_at: Callable[[int], slice],
    skipped: Sequence[range] = (),
) -> Iterator[NDArray[np.int64]]:
    """Yield the time indices ``(batch, times)`` that this rank reads for each optimizer step.

    ``samples`` were consumed before the first of ``steps``, and those that are ``skipped`` are
    passed over. Windows are as long as the farthest forecast, and ``leads_at`` says which of their
    states a step reads, input times first, so that a growing rollout leaves the order alone.
    """
    for step in steps:
        numbers = sample_numbers(len(all_windows), seed, samples, batch, layout, skipped)
        yield all_windows[numbers][:, leads_at(step)]
        samples = int(consumed_by(samples, batch * layout.data, skipped)[-1]) + 1


@lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> NDArray[np.unsignedinteger]:
    # Raw bits of a bit generator are the same in every release of NumPy; Generator.permutation
    # makes no such promise.
    order = np.argsort(np.random.PCG64([seed, epoch]).random_raw(size), kind="stable")
    return order.astype(np.min_scalar_type(size))


def _periods(data: Data, store: States) -> Periods:
    return periods(
        store.times,
        None if data.train is None else parse_period(data.train),
        None if data.validation is None else parse_period(data.validation),
    )

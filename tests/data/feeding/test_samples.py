from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from support.waves import START, wave_config, write_waves
from weathermixer.data.feeding.samples import (
    evenly_spaced,
    require_windows,
    sample_numbers,
    training_period,
    training_plan,
    validation_period,
    windows,
)
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout

HOUR = np.timedelta64(1, "h")


@given(
    hours=st.lists(st.integers(0, 60), unique=True, min_size=1, max_size=40).map(sorted),
    step=st.integers(1, 9),
    length=st.integers(1, 4),
    span=st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted),
)
def test_windows_are_all_runs_of_times_one_step_apart_in_the_period(
    hours: list[int], step: int, length: int, span: list[int]
) -> None:
    times = START + np.array(hours) * HOUR
    period = (START + span[0] * HOUR, START + span[1] * HOUR)
    expected = [
        [hours.index(hour + step * number) for number in range(length + 1)]
        for hour in hours
        if all(hour + step * number in hours for number in range(length + 1))
        and span[0] <= hour
        and hour + step * length <= span[1]
    ]
    assert windows(times, step, length, period)[:].tolist() == expected


def test_the_real_samples_uneven_times_hold_their_17_pairs(test_data: Path) -> None:
    import xarray

    with xarray.open_zarr(test_data / "era5_surface_1deg.zarr") as dataset:
        times = dataset["time"].values.astype("datetime64[s]")
    assert len(windows(times, 7, 1, (times[0], times[-1]))) == 17


def test_too_few_windows_say_what_the_times_are_like(tmp_path: Path) -> None:
    store = Store.open(write_waves(tmp_path / "s.zarr", times=10, hours=7))
    period = (store.times[0], store.times[-1])
    with pytest.raises(UserError, match="0 pairs: its times are mostly 7 h apart") as caught:
        require_windows(store, 6.0, 1, period, key="data.train")
    assert "data.step_hours is 6" in str(caught.value)
    with pytest.raises(UserError, match=r"no 11 in a row .* and 9 pairs"):
        require_windows(store, 7.0, 10, period, key="data.train")
    with pytest.raises(UserError, match=r"holds 1 of the store's times .* no two times"):
        require_windows(store, 7.0, 1, (period[0], period[0]), key="data.validation")


def test_periods_default_to_four_fifths_and_a_tenth(tmp_path: Path) -> None:
    store = Store.open(write_waves(tmp_path / "s.zarr", times=20))
    config = wave_config(tmp_path / "s.zarr")
    assert training_period(config.data, store) == (store.times[0], store.times[15])
    assert validation_period(config.data, store) == (store.times[16], store.times[17])
    config = wave_config(
        tmp_path / "s.zarr",
        data={"train": "2001-01-01/2001-01-02", "validation": "2001-01-03/2001-01-04"},
    )
    assert training_period(config.data, store)[0] == START
    assert validation_period(config.data, store) == (
        np.datetime64("2001-01-03T00:00:00"),
        np.datetime64("2001-01-04T23:59:59"),
    )


@given(
    size=st.integers(1, 30),
    batch=st.integers(1, 7),
    replicas=st.integers(1, 4),
    seed=st.integers(0, 2**63),
)
def test_an_epoch_visits_every_window_once_whatever_the_batch_and_the_ranks(
    size: int, batch: int, replicas: int, seed: int
) -> None:
    def order(batch: int, replicas: int) -> list[int]:
        layouts = [Layout(data=replicas, rank=rank) for rank in range(replicas)]
        seen: list[int] = []
        while len(seen) < 3 * size:
            for layout in layouts:
                first = len(seen) - layout.rank * batch
                seen += sample_numbers(size, seed, first, batch, layout).tolist()
        return seen[: 3 * size]

    seen = order(batch, replicas)
    for epoch in range(3):
        assert sorted(seen[epoch * size : (epoch + 1) * size]) == list(range(size))
    assert seen == order(1, 1)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {
        tuple(sample_numbers(50, seed, epoch * 50, 50, Layout()))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_the_ranks_of_a_model_instance_see_the_same_samples() -> None:
    ranks = [Layout(data=2, domain=3, tensor=2, rank=rank) for rank in range(12)]
    seen = [sample_numbers(100, 0, 40, 4, layout).tolist() for layout in ranks]
    assert all(numbers == seen[0] for numbers in seen[:6])
    assert all(numbers == seen[6] for numbers in seen[6:])
    assert not set(seen[0]) & set(seen[6])


def test_a_plan_continues_where_it_was_left_and_follows_the_rollout() -> None:
    times = START + np.arange(33) * HOUR
    found = windows(times, 1, 3, (times[0], times[-1]))

    def leads(step: int) -> slice:
        return slice(0, 2) if step < 5 else slice(0, 4)

    def plan(start: int) -> list[list[list[int]]]:
        steps = training_plan(
            found,
            seed=7,
            batch=4,
            layout=Layout(),
            steps=range(start, 9),
            samples=4 * start,
            leads_at=leads,
        )
        return [indices.tolist() for indices in steps]

    whole = plan(0)
    assert [len(indices[0]) for indices in whole] == [2] * 5 + [4] * 4
    assert plan(3) == whole[3:]


def _plan_of_all(
    hours: list[int], step: int, length: int, seed: int, batch: int, data: int, lengths: list[int]
) -> list[list[list[list[int]]]]:
    """The plan of every replica, in plain NumPy: all samples and all orders written out."""
    samples = np.array(
        [
            [hours.index(hour + step * number) for number in range(length + 1)]
            for hour in hours
            if all(hour + step * number in hours for number in range(length + 1))
        ]
    )
    num_epochs = -(-len(lengths) * batch * data // len(samples))
    orders = [
        np.argsort(np.random.PCG64([seed, epoch]).random_raw(len(samples)), kind="stable")
        for epoch in range(num_epochs)
    ]
    seen = samples[np.concatenate(orders)][: len(lengths) * batch * data]
    by_replica = seen.reshape(len(lengths), data, batch, length + 1)
    return [
        [by_replica[at, replica, :, : lengths[at] + 1].tolist() for at in range(len(lengths))]
        for replica in range(data)
    ]


@given(
    hours=st.lists(st.integers(0, 60), unique=True, min_size=20, max_size=50).map(sorted),
    step=st.integers(1, 3),
    length=st.integers(1, 3),
    seed=st.integers(0, 2**63),
    batch=st.integers(1, 5),
    data=st.integers(1, 4),
)
def test_a_plan_is_that_of_all_samples_and_orders_written_out(
    hours: list[int], step: int, length: int, seed: int, batch: int, data: int
) -> None:
    times = START + np.array(hours) * HOUR
    found = windows(times, step, length, (times[0], times[-1]))
    assume(len(found))
    lengths = [1, 1, length, length, length, 1, length]
    assert [
        [
            indices.tolist()
            for indices in training_plan(
                found,
                seed=seed,
                batch=batch,
                layout=Layout(data=data, tensor=2, rank=2 * replica + 1),
                steps=range(len(lengths)),
                samples=0,
                leads_at=lambda step: slice(lengths[step] + 1),
            )
        ]
        for replica in range(data)
    ] == _plan_of_all(hours, step, length, seed, batch, data, lengths)
    assert np.flatnonzero(found.states()).tolist() == np.unique(found[:]).tolist()


def test_an_epoch_of_a_million_samples_is_planned_in_constant_memory() -> None:
    count, batch = 1_000_000, 1000
    times = START + np.arange(count + 1) * np.timedelta64(3600, "s")
    all_windows = windows(times, 1.0, 1, (times[0], times[-1]))
    plan = training_plan(
        all_windows,
        seed=0,
        batch=batch,
        layout=Layout(),
        steps=range(count // batch),
        samples=0,
        leads_at=lambda step: slice(2),
    )
    visits = np.zeros(count, dtype=np.int64)
    visits[next(plan)[:, 0]] += 1  # the order of the epoch is drawn here
    tracemalloc.start()
    try:
        for indices in plan:
            visits[indices[:, 0]] += 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(visits, np.ones(count))
    assert peak < 1_000_000  # bytes, beside the order itself: less than one for each sample


def test_samples_take_the_memory_of_their_times_however_long_they_are() -> None:
    times = START + np.arange(100_000) * HOUR
    held, most = [], []
    for length in (2, 40):
        tracemalloc.start()
        found = windows(times, 1, length, (times[0], times[-1]))
        assert found.states().sum() == len(times)
        now, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        held.append(now / len(times))
        most.append(peak / len(times))
    assert max(held) < 10  # bytes: the number of each sample's first time
    assert most[1] < 1.1 * most[0]


@given(size=st.integers(0, 200), count=st.integers(1, 60))
def test_evenly_spaced_windows_are_distinct_and_reach_both_ends(size: int, count: int) -> None:
    chosen = evenly_spaced(np.arange(size)[:, None], count)[:, 0]
    assert len(chosen) == min(size, count)
    assert len(set(chosen)) == len(chosen)
    if size and count > 1:
        assert (chosen[0], chosen[-1]) == (0, size - 1)
        gaps = np.diff(chosen)
        assert not len(gaps) or gaps.max() - gaps.min() <= 1

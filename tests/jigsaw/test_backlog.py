"""What is done whenever something is waited for: in order, and not too late."""

from __future__ import annotations

from functools import partial

import torch

from weathermixer.jigsaw.backlog import Backlog
from weathermixer.jigsaw.exchange import ReduceScatter
from weathermixer.jigsaw.mesh import Mesh


class Sums(ReduceScatter):
    """A sum that arrives when it is told to."""

    def __init__(self, *, has_ended: bool) -> None:
        super().__init__(Mesh.describe().tensor)
        self.is_there = has_ended

    @property
    def has_ended(self) -> bool:
        return self.is_there


def test_work_is_done_in_the_order_in_which_it_was_deferred() -> None:
    backlog, done = Backlog(), list[int]()
    for number in range(3):
        backlog.defer(partial(done.append, number), is_shared=False)
    assert backlog.fill()
    assert done == [0]
    backlog.finish()
    assert done == [0, 1, 2]
    assert not backlog.fill()


def test_what_other_ranks_wait_for_is_done_first() -> None:
    backlog, done = Backlog(), list[str]()
    for name, is_shared in (("own", False), ("shared", True), ("shared too", True)):
        backlog.defer(partial(done.append, name), is_shared=is_shared)
    backlog.finish()
    assert done == ["shared", "shared too", "own"]


def test_what_a_layer_defers_is_done_before_the_layer_after_the_next() -> None:
    backlog, done = Backlog(), list[str]()
    for layer in "abc":
        backlog.defer(partial(done.append, layer), is_shared=False)
        backlog.finish_layer()
    assert done == ["a", "b"]


def test_sums_are_taken_in_as_they_were_sent_and_when_they_are_there() -> None:
    backlog, there = Backlog(), list[str]()
    late, early = Sums(has_ended=False), Sums(has_ended=True)
    out = torch.zeros(2, 3)
    backlog.travel(late, torch.ones(3), out[0], partial(there.append, "late"))
    backlog.travel(early, torch.ones(3), out[1], partial(there.append, "early"))
    assert there == []
    late.is_there = True
    assert not backlog.fill()
    assert there == ["late", "early"]
    assert torch.equal(out, torch.ones(2, 3))


def test_no_more_is_on_its_way_than_memory_is_for() -> None:
    backlog, there = Backlog(), list[int]()
    out = torch.zeros(3)
    for number in range(40):
        backlog.travel(Sums(has_ended=False), out, out, partial(there.append, number))
    assert there == list(range(24))

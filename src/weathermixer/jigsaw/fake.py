"""One process in the place of any rank of any mesh: the real code, whose exchanges do nothing.

Values are meaningless there, as nothing arrives; what the counter of the mesh counts is exact.
PyTorch's fake process group stands for the other ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.jigsaw.mesh import Axis, Mesh, describe_neighbours
from weathermixer.jigsaw.transfers import Transfers


@contextmanager
def fake_mesh(layout: Layout, *, overlap: bool = True, has_link: bool = False) -> Iterator[Mesh]:
    """The mesh as the rank of ``layout`` sees it, without any of the other ranks.

    What runs on it goes through all that it would on a real one, and is counted: ``mesh.counter``.
    Within ``torch._subclasses.FakeTensorMode`` nothing is computed or held either, so that a
    network of any size can be counted in seconds. A thousand ranks cost what two do.
    ``has_link`` is as in :func:`~weathermixer.jigsaw.mesh.connect`.

    Raises LayoutError where ranks were started: this process is one of them.
    """
    if dist.is_initialized():
        raise LayoutError(
            "this process is one of ranks that were started, and cannot stand for another: use "
            "fake_mesh() in a process of its own"
        )
    dist.init_process_group(
        "fake", store=FakeStore(), rank=layout.rank, world_size=layout.world_size
    )
    try:
        described = Mesh.describe(layout, has_link=has_link)
        data, domain, tensor = (_with_groups(axis, overlap) for axis in described.axes)
        yield replace(described, data=data, domain=domain, tensor=tensor)
    finally:
        dist.destroy_process_group()


def fake_neighbours(mesh: Mesh, size: int) -> Axis:
    """What ``connect_neighbours`` of ``mesh.py`` makes, on a fake mesh: this rank's group alone."""
    axis = describe_neighbours(mesh, size)
    return replace(axis, group=dist.new_group(list(axis.ranks)))


def _with_groups(axis: Axis, overlap: bool) -> Axis:
    """The axis with groups of its own: those of other lines of the mesh are nobody's here."""
    transfers = _Unseen() if axis.has_link else _Ended()
    axis = replace(
        axis, overlap=overlap, transfers=transfers, background_transfers=(transfers, transfers)
    )
    if axis.size == 1:
        return axis
    group, background = (dist.new_group(list(axis.ranks)) for _ in range(2))
    return replace(axis, group=group, background=background)


class _Ended(Transfers):
    """Transfers that have ended as soon as they have begun, as copies in memory nearly have.

    Otherwise what is done in which wait would depend on when a thread has its turn.
    """

    def of(self, works: Sequence[Any]) -> Any:
        ended: Future[None] = Future()
        ended.set_result(None)
        return ended


class _Unseen(Transfers):
    """Transfers of which the host does not know when they end, as those of accelerators."""

    def of(self, works: Sequence[Any]) -> Any:
        return None

"""Ranks that know each other: the only place that starts ``torch.distributed``.

A :class:`Mesh` gives each rank its place in a layout and, along each axis, a group of its peers. On
an accelerator each axis has a communicator and so a stream of its own: exchanges over one axis
do not queue behind those over another.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.count import Counter
from weathermixer.jigsaw.heartbeat import Heartbeat, StoreBoard, exit_with
from weathermixer.jigsaw.layout import Layout, LayoutError, layouts
from weathermixer.jigsaw.transfers import Transfers

T = TypeVar("T")


class RankLost(RuntimeError):
    """Another rank stopped taking part; its message names it where that is known."""


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of the mesh as this rank sees it.

    ``ranks`` are the global ranks along it, of which this one stands at ``index``. ``group`` is
    their process group, absent where the axis has one rank or the mesh only describes ranks.
    ``background`` is a second one, so that what is fetched ahead or sent behind, weights and their
    gradients, does not stand in the way of what is waited for. Messages of one ``tag`` and group
    arrive in the order in which they were sent. ``in_flight`` are the exchanges of the whole mesh
    that have begun and not ended. ``has_link`` tells whether something other than the processors
    that compute carries what is exchanged, as between hosts or accelerators. ``exchange_dtype`` is
    as in :meth:`Mesh.exchanging`. A copy of a model shares all of it.
    """

    name: str
    ranks: tuple[int, ...]
    index: int
    counter: Counter
    group: dist.ProcessGroup | None = None
    background: dist.ProcessGroup | None = None
    overlap: bool = True
    in_flight: set[Any] = field(default_factory=set)
    tag: int = 0
    has_link: bool = False
    transfers: Transfers = field(default_factory=Transfers)
    background_transfers: tuple[Transfers, Transfers] = field(
        default_factory=lambda: (Transfers(), Transfers())
    )
    exchange_dtype: torch.dtype | None = None

    def travels_in(self, dtype: torch.dtype) -> torch.dtype:
        """What operands and partial sums of products travel in, where they are of ``dtype``."""
        narrow = self.exchange_dtype
        return dtype if narrow is None or dtype.itemsize <= narrow.itemsize else narrow

    def bytes_of(self, element_bytes: int) -> int:
        """The bytes that an element of so many takes where it :meth:`travels_in` another type."""
        narrow = self.exchange_dtype
        return element_bytes if narrow is None else min(element_bytes, narrow.itemsize)

    @property
    def size(self) -> int:
        """The number of ranks along the axis."""
        return len(self.ranks)

    def require_group(self) -> None:
        """Raise LayoutError where the ranks of the axis are only described."""
        if self.group is None and self.size > 1:
            raise LayoutError(
                f"this mesh only describes its {self.size} ranks along {self.name}: start them, "
                "and run on the mesh that connect() returns"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> Axis:
        return self

    def ahead(self) -> Axis:
        """The same ranks, in their second group, for what is fetched before it is needed."""
        return replace(self, group=self.background, transfers=self.background_transfers[0])

    def behind(self) -> Axis:
        """The same ranks, in their second group, for what is sent whenever there is time.

        Ranks do so at different moments, but each in the same order.
        """
        return replace(self, group=self.background, tag=1, transfers=self.background_transfers[1])

    def peers(self) -> list[int]:
        """Places of the other ranks, nearest following one first; this rank's own comes last."""
        return [(self.index + distance) % self.size for distance in range(1, self.size + 1)]


@dataclass(frozen=True)
class Mesh:
    """A layout with the groups that its ranks talk in, and a counter of what they say.

    Without groups it describes any rank of any layout: enough to build a model and to count, not
    to run one on more than one rank.
    """

    layout: Layout
    data: Axis
    domain: Axis
    tensor: Axis
    counter: Counter
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __deepcopy__(self, memo: dict[int, Any]) -> Mesh:
        return self

    @classmethod
    def describe(cls, layout: Layout | None = None, *, has_link: bool = False) -> Mesh:
        """A mesh without groups; by default that of one rank, on which everything runs.

        ``has_link`` as in :func:`connect`.
        """
        return _mesh(layout or Layout(), {}, torch.device("cpu"), has_link=has_link)

    @property
    def axes(self) -> tuple[Axis, Axis, Axis]:
        return self.data, self.domain, self.tensor

    def exchanging(self, dtype: torch.dtype | None) -> Mesh:
        """The same ranks, of which those of an instance send each other no wider type of products.

        Activations, weights, their gradients and partial sums that products exchange are rounded to
        ``dtype`` on their way and are summed as they were computed; None leaves them as they are.
        What norms, losses and replicas exchange stays.
        """
        return replace(
            self,
            domain=replace(self.domain, exchange_dtype=dtype),
            tensor=replace(self.tensor, exchange_dtype=dtype),
        )


def start(
    rank: int,
    world_size: int,
    *,
    device: torch.device,
    store: dist.Store | None = None,  # type: ignore[name-defined]
) -> None:
    """Start ``torch.distributed`` on this rank: NCCL on GPUs, gloo elsewhere.

    The ranks meet in ``store``, such as a ``torch.distributed.FileStore`` of one path, or where
    torchrun's environment says.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        dist.get_default_backend_for_device(device),
        store=store,
        rank=rank,
        world_size=world_size,
        # Long enough for one rank to write a checkpoint while the others wait. That a rank has died
        # is for whoever started it to see and to end the others: a connection that closes in the
        # middle of a message does not always wake the one who waits for it.
        timeout=timedelta(minutes=30),
    )


def stop() -> None:
    """End ``torch.distributed``, where it was started, when every rank has come here.

    A rank that closed its connections early would break those that are still exchanging.
    """
    if dist.is_initialized():
        wait_for_all()
        dist.destroy_process_group()


def connect(
    layout: Layout,
    *,
    device: torch.device | None = None,
    overlap: bool = True,
    has_link: bool | None = None,
) -> Mesh:
    """The mesh of all ranks that were started; each of them calls this at the same time.

    ``layout`` is taken as seen by any rank: its own place in it is this process's. With ``overlap``
    off, each exchange is waited for before anything is computed; the results are the same bits.
    ``has_link`` tells whether something other than the processors that compute carries what is
    exchanged, so that it is worth exchanging in pieces. By default it is found out: ranks that
    compute on the processors of one host have none.

    Raises LayoutError where the layout has another number of ranks than were started.
    """
    layout.require_ranks(world_size())
    mesh = connect_first(layout, device=device, overlap=overlap, has_link=has_link)
    assert mesh is not None, "every rank is one of the mesh"
    return mesh


def connect_first(
    layout: Layout,
    *,
    device: torch.device | None = None,
    overlap: bool = True,
    has_link: bool | None = None,
) -> Mesh | None:
    """The mesh of the first ranks of those that were started; None on the others.

    Every rank that was started calls this at the same time, as :func:`connect`, whose arguments it
    takes. Raises LayoutError where fewer ranks were started than the layout has.
    """
    if layout.world_size > world_size():
        layout.require_ranks(world_size())
    rank = own_rank()
    groups: dict[tuple[str, tuple[int, ...]], Any] = {}
    for axis in ("data", "domain", "tensor"):
        lines = sorted({layout.at(other).ranks_along(axis) for other in range(layout.world_size)})
        for use in ("group", "background"):
            if len(lines[0]) > 1:
                # Every rank has to take part in making every group, in the same order.
                own, _ = dist.new_subgroups_by_enumeration(  # type: ignore[no-untyped-call]
                    [list(line) for line in lines]
                )
                if own is None:
                    continue
                if dist.get_backend(own) == "nccl":
                    # The first exchange of a communicator needs all of its ranks, and a rank whose
                    # piece is empty takes no part in that of an activation.
                    dist.all_reduce(torch.zeros(1, device=device), group=own)
                groups[use, layout.at(rank).ranks_along(axis)] = own
    device = device or torch.device("cpu")
    if has_link is None:
        hosts = gather_objects(_host())[: layout.world_size]
        has_link = device.type != "cpu" or len(set(hosts)) > 1
    if rank >= layout.world_size:
        return None
    return _mesh(layout.at(rank), groups, device, overlap=overlap, has_link=has_link)


def connect_neighbours(mesh: Mesh, size: int) -> Axis:
    """The ``size`` neighbouring replicas along ``data`` among which this rank is, as an axis.

    Every rank of the mesh calls this at the same time; ``size`` divides the number of replicas.
    """
    group = None
    if mesh.data.group is not None:
        layout = mesh.layout
        lines = sorted({layout.at(rank).ranks_along("data") for rank in range(layout.world_size)})
        starts = range(0, mesh.data.size, size)
        group, _ = dist.new_subgroups_by_enumeration(  # type: ignore[no-untyped-call]
            [list(line[start : start + size]) for line in lines for start in starts]
        )
    return replace(describe_neighbours(mesh, size), group=group)


def describe_neighbours(mesh: Mesh, size: int) -> Axis:
    """The axis that :func:`connect_neighbours` makes, without a group of its ranks."""
    first = mesh.data.index // size * size
    ranks, index = mesh.data.ranks[first : first + size], mesh.data.index - first
    return replace(mesh.data, name="members", ranks=ranks, index=index, group=None)


@contextmanager
def torchrun_mesh(
    *, data: int = 1, domain: int | None = None, tensor: int | None = None, overlap: bool = True
) -> Iterator[Mesh]:
    """The mesh of the ranks that ``torchrun`` started, or of this process alone without it.

    ``torch.distributed`` is started before and ended after. Where ``domain`` or ``tensor`` is left
    open it takes the ranks that are left; where both are, they are as equal as they can be. Raises
    LayoutError where they do not multiply to the number of ranks.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    device = local_device(int(os.environ.get("LOCAL_RANK", "0")))
    candidates = [
        layout
        for layout in layouts(max(1, ranks // data), data=data)
        if domain in (None, layout.domain) and tensor in (None, layout.tensor)
    ] or [Layout(data=data, domain=domain or 1, tensor=tensor or 1)]
    layout = candidates[(len(candidates) - 1) // 2]
    layout.require_ranks(ranks)
    heartbeat = None
    if ranks > 1:
        rank = int(os.environ["RANK"])
        start(rank, ranks, device=device)
        board = StoreBoard(dist.distributed_c10d._get_default_store())
        heartbeat = Heartbeat(board, rank, ranks, exit_with)
    yield connect(layout, device=device, overlap=overlap)
    stop()  # not where this rank failed: the others, who wait for it, are ended by torchrun
    if heartbeat is not None:
        heartbeat.stop()


def world_size() -> int:
    """Ranks that were started; 1 where none were."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_rank() -> int:
    """The number of this rank among those that were started; 0 where none were."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first_rank() -> bool:
    """Whether this is the rank that speaks, and writes what is written once."""
    return own_rank() == 0


def wait_for_all() -> None:
    """Return when every rank that was started has come here; RankLost where one is gone."""
    if dist.is_initialized():
        with losing_ranks("waiting for the others"):
            dist.barrier()


def gather_objects(value: Any) -> list[Any]:
    """A small object of each rank that was started, in their order; RankLost where one is gone."""
    if not dist.is_initialized():
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    with losing_ranks("comparing notes with the others"):
        dist.all_gather_object(found, value)
    return found


def from_first_rank(make: Callable[[], T]) -> T:
    """Call ``make`` on the first rank of all, and return on every rank what it returned there.

    A ValueError that it raises is raised on every rank; RankLost where one is gone.
    """
    if not dist.is_initialized():
        return make()
    told: list[Any] = [None]
    if is_first_rank():
        try:
            told = [make()]
        except ValueError as error:
            told = [error]
    with losing_ranks("hearing from the first"):
        dist.broadcast_object_list(told)
    if isinstance(told[0], ValueError):
        raise told[0]
    result: T = told[0]
    return result


def local_device(index: int | None = None) -> torch.device:
    """The accelerator of this number among those of its machine, or the processor without any.

    By default it is the one that this rank was started on.
    """
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device() if index is None else index)
    return torch.device("cpu")


@contextmanager
def losing_ranks(doing: str) -> Iterator[None]:
    """While entered, raise RankLost where a connection breaks, with what was being done."""
    try:
        with ACTIVITY.waiting_for("all others"):
            yield
    except RuntimeError as error:
        raise RankLost(
            f"rank {dist.get_rank()} lost its connection to another rank while {doing} ({error})"
        ) from error


def _host() -> str:
    """What tells hosts apart that a link lies between, where it is known."""
    network = Path("/proc/self/ns/net")
    return f"{socket.gethostname()} {network.stat().st_ino if network.exists() else ''}"


def _mesh(
    layout: Layout,
    groups: Mapping[tuple[str, tuple[int, ...]], Any],
    device: torch.device,
    *,
    overlap: bool = True,
    has_link: bool,
) -> Mesh:
    counter = Counter()
    in_flight: set[Any] = set()
    axes = {
        name: Axis(
            name,
            layout.ranks_along(name),
            getattr(layout.coordinates, name),
            counter,
            groups.get(("group", layout.ranks_along(name))),
            groups.get(("background", layout.ranks_along(name))),
            overlap,
            in_flight,
            has_link=has_link,
        )
        for name in ("data", "domain", "tensor")
    }
    return Mesh(layout, **axes, counter=counter, device=device)

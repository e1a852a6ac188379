"""Where ranks meet: the store of ``torch.distributed`` in which each finds the others."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

# Documented as torch.distributed.TCPStore and so on, where type checkers do not see them.
from torch._C._distributed_c10d import FileStore, PrefixStore, Store, TCPStore

from weathermixer.console import waiting_for
from weathermixer.errors import UserError
from weathermixer.launch.coordinator import Coordinator
from weathermixer.launch.environment import MeetingAddress, RankInfo
from weathermixer.launch.failures import RanksMissing
from weathermixer.launch.other_ranks import SECONDS_TO_MEET, OtherRanks, listen
from weathermixer.launch.participant import Participant

_COORDINATOR = "coordinator"
_SECONDS_BETWEEN_TRIES = 0.2


def shared_store(folder: Path, world_size: int) -> Store:
    """Open the store in which ranks of this machine meet, in a folder that is new for them."""
    return FileStore(str(folder / "meeting"), world_size)


def meet(
    info: RankInfo, address: MeetingAddress, *, remedy: str, seconds: float = SECONDS_TO_MEET
) -> tuple[Store, OtherRanks]:
    """Meet the ranks of another launcher at an address: returns their store, and the other ranks.

    ``remedy`` is for the sentence on a rank that dies. Raises UserError where the address is taken,
    and RanksMissing where rank 0 is not there within ``seconds``.
    """
    store = _open_store(info, address, seconds)
    if info.is_first:
        coordinator = Coordinator(info, remedy=remedy)
        store.set(_COORDINATOR, f"{_own_host(address)} {coordinator.port}")
        return store, coordinator
    with _waiting_for_first(info, address):
        _retry(lambda: store.check([_COORDINATOR]), info, address, seconds)
    host, port = store.get(_COORDINATOR).decode().split()
    return store, Participant(info, host, int(port), remedy=remedy)


def _open_store(info: RankInfo, address: MeetingAddress, seconds: float) -> Store:
    serves = info.is_first and not address.is_served
    if serves:
        try:
            listener = listen(address.port)
        except OSError as error:
            raise UserError(
                f"rank 0 cannot listen at port {address.port}, where the ranks are to meet "
                f"({error.strerror or error}): set MASTER_PORT to a free one"
            ) from error
        descriptor: int | None = listener.detach()
    else:
        descriptor = None
        with _waiting_for_first(info, address):
            # The library's own attempts to connect cannot be interrupted, and end in pages of text.
            _retry(lambda: _listens(address), info, address, seconds)
    store = TCPStore(
        "localhost" if serves else address.host,
        address.port,
        info.world_size,
        is_master=serves,
        timeout=timedelta(seconds=seconds),
        wait_for_workers=False,
        master_listen_fd=descriptor,
    )
    return PrefixStore(f"weathermixer/{address.attempt}", store)


def _listens(address: MeetingAddress) -> bool:
    with socket.create_connection((address.host, address.port), timeout=10.0):
        return True


def _retry(
    attempt: Callable[[], bool], info: RankInfo, address: MeetingAddress, seconds: float
) -> None:
    """Return when an attempt succeeds; RanksMissing where none has within ``seconds``."""
    end = time.monotonic() + seconds
    reason = "nobody answers"
    while True:
        try:
            if attempt():
                return
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() > end:
            raise RanksMissing(
                f"rank {info.rank} on {info.host} did not find rank 0 at {address} within "
                f"{seconds / 60:.2g} minutes ({reason}): start all ranks with one torchrun or "
                "srun, or set MASTER_ADDR and MASTER_PORT to where rank 0 can be reached"
            )
        time.sleep(_SECONDS_BETWEEN_TRIES)


def _waiting_for_first(info: RankInfo, address: MeetingAddress) -> nullcontext[None]:
    # One rank of a machine is enough to say it.
    if info.local_rank > 0 and info.rank > 1:
        return nullcontext()
    return waiting_for(  # type: ignore[return-value]
        f"rank 0 to come to {address} (rank {info.rank} on {info.host} is there)"
    )


def _own_host(address: MeetingAddress) -> str:
    """The name under which the other ranks reach this machine."""
    if not address.is_served:
        return address.host
    # torchrun may listen on another machine than that of rank 0.
    with socket.create_connection((address.host, address.port), timeout=10.0) as connected:
        own = str(connected.getsockname()[0])
    return address.host if own.startswith("127.") or own in ("::1", "::ffff:127.0.0.1") else own

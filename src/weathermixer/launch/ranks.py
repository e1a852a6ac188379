"""Being a rank: beginning together with the others, and ending, also when something fails.

Nothing heavy is imported before it is known that there are several ranks.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from weathermixer.console import say
from weathermixer.launch.place import Place, own_gpu, place_in, threads_per_rank
from weathermixer.launch.report import REPORTS, Report


@contextmanager
def ranks() -> Iterator[Place]:
    """Begin as the rank that the environment describes, and end in order.

    The only rank begins nothing. Where the block raises, connections are left as they are, since
    closing them may wait for a rank that is gone: leave the process with ``end``.

    Raises UserError as ``place_in`` does and where there are too few GPUs, and RankLost where the
    ranks do not meet.
    """
    if REPORTS in os.environ:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    place = place_in(os.environ)
    if place.world_size == 1:
        yield place
        return
    import torch

    from weathermixer.jigsaw import mesh
    from weathermixer.jigsaw.mesh import RankLost

    if "OMP_NUM_THREADS" not in os.environ:  # which torch follows by itself
        torch.set_num_threads(threads_per_rank(os.environ, place.local_world_size))
    if torch.cuda.is_available():
        os.environ["LOCAL_RANK"] = str(own_gpu(place, torch.cuda.device_count(), os.environ))
    try:
        mesh.start(
            place.rank,
            place.world_size,
            rendezvous=place.rendezvous,
            device=mesh.local_device(),
        )
    except RuntimeError as error:
        raise RankLost(
            f"rank {place.rank} of {place.world_size} did not meet the others at "
            f"{place.rendezvous} ({error})"
        ) from error
    yield place
    mesh.stop()


def end(
    error: BaseException, sentence: str, status: int, *, show_traceback: bool = False
) -> NoReturn:
    """Say why this process fails, to the user or to the process that started it, and exit."""
    if is_rank_lost(error):
        sentence = f"Error: {error}"
    if REPORTS in os.environ:
        Report.of(error, sentence, status, rank_lost=is_rank_lost(error)).leave()
    else:
        if show_traceback:
            traceback.print_exception(error)
        say(sentence)
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        # An orderly end would wait for the other ranks.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def is_rank_lost(error: BaseException) -> bool:
    """Whether an error says no more than that another rank is gone."""
    mesh = sys.modules.get("weathermixer.jigsaw.mesh")
    return mesh is not None and isinstance(error, mesh.RankLost)


def _end_with_parent() -> None:
    """Standard input is a pipe that nothing is written to, and that closes when the parent ends."""
    while os.read(0, 1):
        pass
    os._exit(1)

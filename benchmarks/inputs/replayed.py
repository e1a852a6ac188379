"""A rank among many on one process: what it does before its first step, the others being replayed.

Every function returns what its work takes of this process, without what prepares it.
"""

from __future__ import annotations

import pickle
import resource
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch._C._distributed_c10d import TCPStore
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.storage import WriteResult

from weathermixer.config import Config, Parallel, Training
from weathermixer.data.feeding.samples import sample_numbers, windows
from weathermixer.jigsaw.fake import fake_mesh
from weathermixer.jigsaw.heartbeat import Heartbeat, StoreBoard, exit_with
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh, connect
from weathermixer.launch.consistency import require_equal_settings, settings_of, versions
from weathermixer.launch.coordinator import Coordinator
from weathermixer.launch.environment import MeetingAddress, RankInfo
from weathermixer.launch.other_ranks import Connection
from weathermixer.model.architecture import Architecture
from weathermixer.model.cuts import build, describe
from weathermixer.planning.choosing import choose_mesh as choose_fastest_mesh
from weathermixer.runs.checkpoint_index import write_seal
from weathermixer.runs.saving import ShardWriter
from weathermixer.runs.shards import ShardSavePlanner, own_share, readers
from weathermixer.training.notices import Notices
from weathermixer.training.state import TrainingState

LARGEST = Architecture(
    prognostic=69,
    static=3,
    grid=(720, 1440),
    patch=(1, 60),
    channels=14_320,
    blocks=3,
    token_hidden=17_280,
    channel_hidden=14_320,
    dropout=0.001,
    prediction="state",
)
"""3.20 billion parameters."""

SMALL = Architecture(
    prognostic=69,
    static=3,
    grid=(32, 64),
    patch=(1, 4),
    channels=512,
    blocks=3,
    token_hidden=512,
    channel_hidden=512,
    dropout=0.001,
    prediction="state",
)
"""A network that stands for a large one: as many parameters by name, and rows for 1,024 ranks."""


@dataclass(frozen=True)
class HostTime:
    """Seconds of the processor, of all threads, and seconds that passed."""

    processor: float
    passed: float

    @classmethod
    def now(cls) -> HostTime:
        """A moment, to count from."""
        return cls(time.process_time(), time.perf_counter())

    def since(self) -> HostTime:
        """What has been taken since this moment."""
        now = HostTime.now()
        return HostTime(now.processor - self.processor, now.passed - self.passed)


def import_training() -> HostTime:
    """Import what a training needs, as a new process does, from a disk that has it in memory."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), HostTime.now()
    subprocess.run([sys.executable, "-c", "import weathermixer.training.trainer"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return HostTime(used, began.since().passed)


def meet_ranks(num_ranks: int) -> HostTime:
    """Welcome all others at once, as rank 0 of another launcher's ranks."""
    info = RankInfo(0, num_ranks, 0, 8, None, MeetingAddress("localhost", 0), "n0")
    coordinator = Coordinator(info, remedy="")
    began = HostTime.now()
    others = []
    for rank in range(1, num_ranks):
        others.append(socket.create_connection(("localhost", coordinator.port)))
        hello = {"hello": rank, "world_size": num_ranks, "host": f"n{rank // 8}"}
        Connection(others[-1]).send(hello)
    coordinator.wait_for_all()
    taken = began.since()
    coordinator.close()
    for other in others:
        other.close()
    return taken


def connect_to_peers(layout: Layout) -> HostTime:
    """Make the groups of the mesh."""
    with fake_mesh(layout):
        began = HostTime.now()
        connect(layout)
        return began.since()


def beats(num_ranks: int) -> tuple[HostTime, HostTime]:
    """One beat of a rank that listens to the first alone, and one of the first, that hears all."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    taken = []
    for rank in (1, 0):
        heartbeat = Heartbeat(StoreBoard(store), rank, num_ranks, exit_with)
        heartbeat.stop()
        note = store.get(f"beat-{rank}").decode()
        for other in range(1, num_ranks):
            store.set(f"beat-{other}", note)
        heartbeat._beat()  # which finds out who has come
        began = HostTime.now()
        heartbeat._beat()
        taken.append(began.since())
    return taken[0], taken[1]


def agree(layout: Layout) -> HostTime:
    """Compare settings with the others, who have the same."""
    settings = settings_of(Config.model_validate({"data": {"store": "era5.zarr"}})) | versions()
    with fake_mesh(layout):
        began = HostTime.now()
        require_equal_settings(settings)
        return began.since()


def choose_mesh(num_ranks: int, data: int) -> HostTime:
    """Choose among all meshes with so many replicas of the largest network."""
    began = HostTime.now()
    config = Config.model_validate(
        {
            "data": {"store": "era5.zarr"},
            "parallel": {"data": data},
            "training": {"instance_batch": 1},
        }
    )
    choose_fastest_mesh(config, LARGEST, world_size=num_ranks, trains=False)
    return began.since()


def describe_network(layout: Layout) -> HostTime:
    """Make a rank's part of the largest network on the meta device."""
    began = HostTime.now()
    describe(LARGEST, Mesh.describe(layout))
    return began.since()


def plan_samples(layout: Layout) -> HostTime:
    """Find the samples of 40 years of hourly times, for rollouts of 40 steps, and the first few."""
    times = np.datetime64("1979-01-01", "s") + np.arange(350_640) * np.timedelta64(3600, "s")
    began = HostTime.now()
    found = windows(times, 1.0, 40, (times[0], times[-1]))
    found.states()
    found[sample_numbers(len(found), 0, 0, 1, layout)]
    return began.since()


def write_checkpoint(path: Path, layout: Layout) -> HostTime:
    """Write what all ranks would, the optimizer's state divided; what the first one's plan takes.

    That is what only the first rank does: it reads all plans and makes the index of them.
    """
    path.mkdir()
    plans: list[bytes] = []
    written: list[WriteResult] = []
    for rank in range(layout.world_size):
        with fake_mesh(layout.at(rank)) as mesh:
            planner = ShardSavePlanner()
            tensors = own_share(_state(mesh, seed=0).tensors())
            planner.set_up_planner(tensors, StorageMeta(), is_coordinator=rank == 0)
            plan = planner.create_local_plan()
            plans.append(pickle.dumps(plan))
            writer = ShardWriter(path, sync_files=False)
            writer.set_up_storage_writer(is_coordinator=rank == 0)
            *_, plan = writer.prepare_global_plan([*[SavePlan([])] * rank, plan])
            written += writer.write_data(plan, planner).wait()
    began = HostTime.now()
    planner = ShardSavePlanner()
    planner.set_up_planner({}, StorageMeta(), is_coordinator=True)
    plans_of_all, metadata = planner.create_global_plan([pickle.loads(plan) for plan in plans])
    pickle.dumps(plans_of_all)
    taken = began.since()
    writer.finish(metadata, [written])
    write_seal(path)
    return taken


def load_checkpoint(path: Path, layout: Layout) -> HostTime:
    """Load what ``write_checkpoint`` wrote, as the first rank, and see that it is what it was.

    What other replicas would read and pass on does not come.
    """
    with fake_mesh(layout) as mesh:
        state = _state(mesh, seed=None)
        began = HostTime.now()
        state.load(path, Notices(print))
        taken = began.since()
        expected = dict(_state(mesh, seed=0).model.named_parameters())
        elsewhere = {
            name
            for name, (axis, reader) in readers(state.tensors()).items()
            if axis.index != reader
        }
    for name, parameter in state.model.named_parameters():
        assert f"model.{name}" in elsewhere or torch.equal(parameter, expected[name]), name
    return taken


def _state(mesh: Mesh, *, seed: int | None) -> TrainingState:
    scale = torch.ones(0)  # which a network of this kind has no use for
    model = build(SMALL, mesh, seed=seed, increment_scale=scale)
    return TrainingState.initial(model, mesh, Training(), Parallel(shard_optimizer=True))

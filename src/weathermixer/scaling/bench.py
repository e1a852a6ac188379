"""A scaling experiment from beginning to end: what is measured, in rounds, and what is left of it.

In each round every case has its turn, in an order of that round's own, so that a machine that
changes meanwhile changes for all of them.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weathermixer.config import Config, read_config
from weathermixer.console import Progress
from weathermixer.data.channels import channels_of, names, predicted_channels
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.feeding.samples import training_period
from weathermixer.data.states import States
from weathermixer.errors import UserError
from weathermixer.jigsaw import mesh as meshes
from weathermixer.planning.choosing import configured_states, this_machine, threads_on
from weathermixer.planning.machine import Machine
from weathermixer.runs.run import Run
from weathermixer.scaling.cases import Case, Experiment, Kind
from weathermixer.scaling.contenders import Samples
from weathermixer.scaling.generated_states import GeneratedStates
from weathermixer.scaling.measuring import Connections, measure, measure_ceiling
from weathermixer.scaling.pictures import draw
from weathermixer.scaling.record import Ceiling, Record
from weathermixer.scaling.table import render
from weathermixer.scaling.throttle import throttled
from weathermixer.training.beginning import check_step
from weathermixer.training.feed import training_windows


@dataclass(frozen=True)
class Request:
    """What a user asks for: the network, the kind of scaling, the ranks, and where results go.

    Each contender has its turn in each of ``rounds``. Without a ``grid``, states are those of the
    configuration's store, else generated ones. Each rank reads ``read_rate`` bytes a second at the
    most, where it is given.
    """

    config_path: Path
    overrides: tuple[str, ...]
    kind: Kind
    counts: tuple[int, ...]
    out: Path
    rounds: int
    grid: tuple[int, int] | None = None
    read_rate: float | None = None


def run_scaling(request: Request, progress: Progress) -> str:
    """Measure what is asked for; the table as text. Every rank that was started calls this.

    ``progress`` is told of the rounds of cases that are left. Results are written after each of
    them, and a request whose results were begun goes on.

    Raises UserError where there are too few ranks, where a number of them has no mesh, where the
    network does not fit or no grid is known, and where the folder holds another experiment.
    """
    most, started = max(request.counts), meshes.world_size()
    if most > started:
        raise UserError(
            f"--ranks asks for {most} ranks, and {started} were started: start as many, or leave "
            f"out what is above {started}"
        )
    config = read_config(request.config_path, request.overrides)
    states = _states(request, config)
    record = meshes.from_first_rank(lambda: _begin(request, config, states))
    samples = _samples(record.cases[0].config, states, request)
    connections = Connections()
    if request.kind == "roofline":
        _measure_ceilings(record, connections)
    _measure_rounds(request.rounds, record, samples, connections, progress)
    if request.kind == "roofline":  # again: what disturbed the first measurement may have ended
        _measure_ceilings(record, connections)
    if meshes.is_first_rank():
        draw(record)
    return render(record)


def _states(request: Request, config: Config) -> States:
    """The states that samples are made of, at the rate at which they arrive."""
    states: States
    if request.grid is not None:
        states = GeneratedStates(config.data, request.grid)
    else:
        states = configured_states(config)
        check_step(config.data, states)
    return states if request.read_rate is None else throttled(states, request.read_rate)


def _begin(request: Request, config: Config, states: States) -> Record:
    machine = _machine(request)
    threads = threads_on(machine)
    experiment = Experiment(
        request.kind, request.counts, config, states.grid, machine, threads, states
    )
    cases, left_out = experiment.cases()
    device = meshes.local_device()
    settings: dict[str, Any] = {
        "kind": request.kind,
        "ranks": list(request.counts),
        "grid": list(states.grid),
        "generated_states": request.grid is not None,
        "read_rate": request.read_rate,
        "machine": {"name": machine.name, "source": machine.source},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "config": config.model_dump(mode="json"),
    }
    return Record.begin(request.out, settings, machine.name, cases, left_out)


def _machine(request: Request) -> Machine:
    """This machine, with the rate at which samples arrive."""
    machine, rate = this_machine(), request.read_rate
    if rate is None:
        return machine
    storage = machine.storage.model_copy(
        update={
            "rank_bytes_per_second": rate,
            "node_bytes_per_second": rate * machine.ranks_per_node,
            "source": "--read-rate",
        }
    )
    return machine.model_copy(update={"storage": storage})


def _samples(config: Config, states: States, request: Request) -> Samples:
    data = config.data
    if request.grid is not None:  # of whose times the configuration knows nothing
        data = data.model_copy(update={"train": None, "validation": None})

    def run() -> Run:
        channels = names(predicted_channels(data))
        period = training_period(data, states)
        normalisation = Normalisation.from_store(
            states,
            channels,
            data.static,
            period,
            diagnostic=names(channels_of(data.diagnostic, data.levels)),
        )
        with tempfile.TemporaryDirectory() as folder:
            return Run.create(Path(folder), config, normalisation, Path.touch).read()

    windows = training_windows(data, config.training, states)
    return Samples(states, meshes.from_first_rank(run), windows)


def _measure_ceilings(record: Record, connections: Connections) -> None:
    """Measure what the machine can do at most; what was measured higher before stays."""
    known = {(ceiling.dtype, ceiling.ranks): ceiling for ceiling in record.ceilings}
    places = dict.fromkeys((case.config.training.dtype, case.ranks) for case in record.cases)
    for dtype, ranks in places:
        found = Ceiling(dtype, ranks, *measure_ceiling(dtype, ranks, connections))
        known[dtype, ranks] = found.or_higher(known.get((dtype, ranks)))
    record.ceilings = list(known.values())
    if meshes.is_first_rank():
        record.save()


def _measure_rounds(
    rounds: int, record: Record, samples: Samples, connections: Connections, progress: Progress
) -> None:
    left = [
        case
        for number in range(rounds)
        for case in _in_turn(record.cases, number)
        if len(record.rounds.get(case.key, ())) <= number
    ]
    for done, case in enumerate(left):
        progress(done, len(left))
        record.add(case, measure(case, samples, connections))
        if meshes.is_first_rank():
            record.save()
    progress(len(left), len(left))


def _in_turn(cases: Sequence[Case], number: int) -> list[Case]:
    """The cases in the order of a round, the same on all ranks; none always follows another."""
    return random.Random(number).sample(list(cases), len(cases))

"""Training as the command line does it: a loop, what watches it, and when it is saved."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from weathermixer.config import Config
from weathermixer.model.other_network import NetworkBuilder
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.progress import notices_on
from weathermixer.training.result import TrainResult
from weathermixer.training.watching import Watch


def train(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    source: Path | None = None,
    device: torch.device | str | None = None,
    console: Console | None = None,
    network: NetworkBuilder | None = None,
) -> TrainResult:
    """Train as configured, into the run ``out``; the same configuration gives the same bits.

    Each rank that was started calls this; on another mesh the result is the same but for rounding.
    A new run begins with the weights of the run ``source``, where one is given, as far as they fit.
    ``device`` is the accelerator where there is one, by default; ``console`` is standard error, and
    only the first rank's is written to. ``network`` makes what is trained in WeatherMixer's place,
    if anything is. SIGTERM, SIGUSR1 and Ctrl-C end the training after the step in hand, with a
    checkpoint. A log, validation or progress that fails is said once and ends nothing.

    Raises UserError where store and configuration do not fit together, where ranks differ in them,
    where a run would be overwritten, where states to learn from are damaged or a checkpoint cannot
    be written, and at the first NaN or infinity; LayoutError where the mesh does not fit the ranks
    or the network.
    """
    console = console or Console(stderr=True)
    notices = notices_on(console)
    resume = resume or config.checkpoint.resume
    with TrainingLoop.begin(
        config,
        out,
        resume=resume,
        source=source,
        device=device,
        notices=notices,
        network=network,
    ) as loop:
        every, steps = config.checkpoint.every, config.training.steps
        if loop.state.step >= steps:
            loop.notices.say(f"all {steps} steps were taken before: raise training.steps to go on")
        if config.training.on_divergence == "skip" and loop.checkpoint is None:
            loop.save()  # to go back to from the first steps
        stopped_by = None
        with Watch(loop, console) as watch, loop.stop_request:
            for step in loop:
                watch.record(step)
                # A signal during the last step has nothing left to stop.
                stopped_by = step.stopped_by if step.number < steps else None
                if stopped_by or step.number == steps:
                    loop.save()
                elif step.number % every == 0:
                    loop.begin_save()
                watch.validate(step)
        if stopped_by is not None:
            loop.notices.say(
                f"stopped by {stopped_by} after step {loop.state.step} of {steps}: "
                f"continue from {loop.checkpoint} with --resume"
            )
        result = loop.result(stopped_by=stopped_by)
        watch.save_result(result)
        return result

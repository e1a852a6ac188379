"""Reading early what a training needs late, so that a hole in the data is known at the start.

An archive's axis of times may go on where its data have ended. The last states to learn from and
the first and last to validate on are read once, each rank its own part of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import Training
from weathermixer.data.feeding.samples import Windows, sample_numbers
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.job import Job
from weathermixer.training.notices import Notices


def require_last_sample(job: Job, windows: Windows) -> None:
    """Read the last sample that will be learned from; ``windows`` are all.

    Every rank calls this. Raises UserError, alike on all ranks, where any of them cannot read its
    part, so that a training does not end there after days.
    """
    training = job.config.training
    last = windows[_last_visited(len(windows), training, job.mesh.layout)]
    (problem,) = job.reading_problems([last])
    if problem is not None:
        first_time, *_, last_time = job.states.times[last]
        raise UserError(
            f"training needs the states from {first_time} to {last_time}, which cannot be read "
            f"({problem}): end data.train before them, or repair {job.states.path}"
        )


def readable_samples(
    job: Job, windows: NDArray[np.int64], scored: NDArray[np.int64], notices: Notices
) -> NDArray[np.int64]:
    """The validation samples that all ranks can read, of ``windows (sample, rollout + 1)``.

    ``scored (sample, lead time)`` are the states that further forecasts of each are compared with.
    Every rank calls this. The first and the last sample are read; where one of them cannot be, all
    are, and what cannot be read is left out and said.
    """
    if not len(windows):
        notices.say("the validation period holds no sample: there will be no validation")
        return windows
    needed = np.concatenate([windows, scored], axis=1)
    if not any(job.reading_problems(needed[[0, -1]])):
        return windows
    problems = job.reading_problems(needed)
    holes = [number for number, problem in enumerate(problems) if problem is not None]
    if holes:
        left = len(windows) - len(holes)
        remains = f"validations use the other {left}" if left else "there will be no validation"
        notices.say(
            f"{len(holes)} of the {len(windows)} validation samples cannot be read, the first of "
            f"them from {job.states.times[windows[holes[0], 0]]} ({problems[holes[0]]}): {remains}"
        )
    return np.delete(windows, holes, axis=0)


def _last_visited(num_windows: int, training: Training, layout: Layout) -> int:
    """The last window, in time, of those that the steps of a training will visit."""
    num_samples = training.steps * training.instance_batch * layout.data // training.pool
    if num_samples >= num_windows:
        return num_windows - 1
    return int(sample_numbers(num_windows, training.seed, 0, num_samples, Layout()).max())

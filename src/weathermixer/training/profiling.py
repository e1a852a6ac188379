"""Profiles of chosen steps, one file of each rank, which Perfetto and ``chrome://tracing`` open."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from weathermixer.errors import reason
from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.training.notices import Notices


class StepProfiler:
    """Takes a profile of each of ``ranges`` of steps, counted from 1, on this rank.

    While none is taken, nothing is named and nothing is slower. One that cannot be written is said
    once, and costs no step.
    """

    def __init__(
        self,
        ranges: Sequence[range],
        folder: Path,
        *,
        rank: int,
        device: torch.device,
        notices: Notices,
    ) -> None:
        self._waiting, self._folder, self._rank = list(ranges), folder, rank
        self._device, self._notices = device, notices
        self._taken: tuple[int, profile] | None = None  # with its first step

    def before(self, step: int) -> None:
        """Begin a profile, where ``step`` is about to be taken and one is to be taken of it."""
        self._waiting = [steps for steps in self._waiting if step < steps.stop]
        if self._taken is None and self._waiting and step in self._waiting[0]:
            # Kineto would say on standard error that it begins and ends, on every rank.
            os.environ.setdefault("KINETO_LOG_LEVEL", "6")
            activities = [ProfilerActivity.CPU]
            if self._device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._taken = step, profile(activities=activities)
            self._taken[1].start()
            ACTIVITY.is_profiled = True

    def after(self, step: int, *, is_last: bool = False) -> None:
        """Write the profile that ends with ``step``, or with the training, which ``is_last``."""
        if self._taken is None or not (is_last or step + 1 >= self._waiting[0].stop):
            return
        ACTIVITY.is_profiled = False
        (first, taken), self._taken = self._taken, None
        taken.stop()
        path = self._folder / f"steps-{first}-{step}-rank-{self._rank:05d}.json.gz"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            taken.export_chrome_trace(str(path))
        except (OSError, RuntimeError) as error:
            self._notices.say_once(
                "profile",
                f"the profile {path} cannot be written ({reason(error)}): training goes on; free "
                "some space or make the folder writable",
            )

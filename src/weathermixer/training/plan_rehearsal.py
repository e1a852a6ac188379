"""A step of a planned mesh, run by the real code on fake ranks, beside what was planned."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from weathermixer.console import size_text
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.planning.plan import (
    Candidate,
    Plan,
    Planner,
    layout_json,
    layout_text,
)
from weathermixer.planning.simulation.steps import SimulatedStep
from weathermixer.planning.step_kind import usual_lengths
from weathermixer.planning.step_phases import has_link
from weathermixer.planning.step_time import StepTimer
from weathermixer.training.rehearsal import Rehearsal, rehearse
from weathermixer.training.simulated_step import simulate_training_step


@dataclass(frozen=True)
class PlanRehearsal:
    """A step on the mesh of a candidate: the first rank's rehearsed, and all ranks' simulated."""

    candidate: Candidate
    rehearsal: Rehearsal
    simulated: SimulatedStep

    def to_json(self) -> dict[str, Any]:
        """What was counted, as an object of JSON."""
        counted = self.rehearsal.counted
        return {
            "layout": layout_json(self.candidate.layout),
            "bytes_sent": counted.bytes_sent,
            "messages": counted.messages,
            "exchanges": counted.calls,
            "flops": 2 * counted.multiply_adds,
            "peak_memory_bytes": self.rehearsal.peak_bytes,
            "simulated": self.simulated.to_json(),
        }

    def render(self) -> str:
        """What was counted, in a line, and what was simulated, in another."""
        counted = self.rehearsal.counted
        return (
            f"dry run of {layout_text(self.candidate.layout)}, first rank: "
            f"{2 * counted.multiply_adds / 1e12:.3g} T operations, {size_text(counted.bytes_sent)} "
            f"sent in {counted.calls} calls, {size_text(self.rehearsal.peak_bytes)} of tensors at "
            "the peak, without what is read ahead\n"
            f"simulated on all ranks, without reading: {self.simulated.render()}; by formula "
            f"{self.candidate.time.total - self.candidate.time.read_exposed:.3g}"
        )


def rehearse_plan(planner: Planner, plan: Plan) -> PlanRehearsal:
    """Rehearse a step of the best mesh of a plan, or of the first where none fits.

    Raises UserError for another scheme than Jigsaw, whose code there is none of.
    """
    if plan.scheme != "jigsaw":
        raise UserError(
            f"--dry-run runs this program's code, which the scheme {plan.scheme} is not"
        )
    candidate = plan.best or plan.candidates[0]
    layout, lengths = candidate.layout, usual_lengths(planner.config.training)
    training = planner.config.training.model_copy(update={"recompute": candidate.recompute})

    @cache
    def take(rank: Layout) -> Rehearsal:
        return rehearse(
            planner.architecture,
            rank,
            training,
            planner.config.parallel,
            lengths=lengths,
            has_link=has_link(planner.machine),
        )

    timer = StepTimer(planner.machine, layout.world_size, planner.threads)
    simulated = simulate_training_step(layout, take, timer, training.dtype)
    return PlanRehearsal(candidate, take(layout.at(0)), simulated)

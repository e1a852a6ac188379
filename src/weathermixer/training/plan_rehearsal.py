"""A step of a planned mesh, run by the real code on one fake rank, beside what was planned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from weathermixer.console import size_text
from weathermixer.errors import UserError
from weathermixer.planning.plan import (
    Candidate,
    Plan,
    Planner,
    layout_json,
    layout_text,
    usual_rollout,
)
from weathermixer.planning.step_phases import has_link
from weathermixer.training.rehearsal import Rehearsal, rehearse


@dataclass(frozen=True)
class PlanRehearsal:
    """The first rank's step on the mesh of a candidate, as it was rehearsed."""

    candidate: Candidate
    rehearsal: Rehearsal

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
        }

    def render(self) -> str:
        """What was counted, in a line."""
        counted = self.rehearsal.counted
        return (
            f"dry run of {layout_text(self.candidate.layout)}, first rank: "
            f"{2 * counted.multiply_adds / 1e12:.3g} T operations, {size_text(counted.bytes_sent)} "
            f"sent in {counted.calls} calls, {size_text(self.rehearsal.peak_bytes)} of tensors at "
            "the peak, without what is read ahead"
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
    rehearsal = rehearse(
        planner.architecture,
        candidate.layout,
        planner.config.training.model_copy(update={"recompute": candidate.recompute}),
        planner.config.parallel,
        rollout=usual_rollout(planner.config.training),
        has_link=has_link(planner.machine),
    )
    return PlanRehearsal(candidate, rehearsal)

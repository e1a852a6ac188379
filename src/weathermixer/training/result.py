"""What a training reports when it ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.training.validation import Validation


@dataclass(frozen=True)
class TrainResult:
    """Numbers of one training, from ``start_step`` on.

    ``layout`` is the mesh that was used, as it was asked for or chosen, ``dtype`` the arithmetic,
    and ``parameters`` their number. ``loss``, ``grad_norm`` (before clipping) and
    ``seconds_per_step`` (of the first rank) have one number per step; the lists after them one per
    rank: bytes sent and read, operations and exchanges in a step, the seconds of a step in which it
    waited for its samples and for other ranks, the most bytes held in all and those of parameters
    and of the optimizer's state, and the seconds in which steps were held up by saving.
    ``flops_per_step`` counts two operations for each multiply-add of a matrix product,
    ``exchanges_per_step`` calls of the backend. On an accelerator ``waited_for_ranks`` is None: the
    device waits, and no processor sees it. ``samples_seen`` are those of the whole run, over all
    replicas. ``checkpoint`` is the newest, and ``validation`` holds scores by step. ``stopped_by``
    names the signal that ended the training early.
    """

    layout: Layout
    dtype: str
    parameters: int
    start_step: int
    loss: list[float]
    grad_norm: list[float]
    seconds_per_step: list[float]
    bytes_sent_per_step: list[int]
    bytes_read_per_step: list[int]
    flops_per_step: list[int]
    exchanges_per_step: list[int]
    waited_for_data: list[float]
    waited_for_ranks: list[float | None]
    peak_memory_bytes: list[int]
    parameter_bytes: list[int]
    optimizer_bytes: list[int]
    samples_seen: int
    checkpoint: Path
    saving_seconds: list[float] = field(default_factory=list)
    validation: dict[int, Validation] = field(default_factory=dict)
    stopped_by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The result as an object of JSON, which ``from_json`` reads back equal."""
        return {
            **asdict(self),
            "layout": sizes_of(self.layout),
            "mesh": sizes_of(self.layout),
            "world_size": self.layout.world_size,
            "checkpoint": str(self.checkpoint),
            "validation": {str(step): scores.to_json() for step, scores in self.validation.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The result from the object of JSON that ``to_json`` made.

        Raises KeyError, TypeError or ValueError where it is something else.
        """
        typed = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        typed["layout"] = Layout(**values["layout"])
        typed["checkpoint"] = Path(values["checkpoint"])
        typed["validation"] = {
            int(step): Validation.from_json(scores) for step, scores in values["validation"].items()
        }
        return cls(**typed)

    def save(self, path: Path) -> None:
        """Write the result to a file of JSON; OSError, with a former one kept, where it cannot."""
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(self.to_json()) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a result that ``save`` wrote; UserError where the file is missing or damaged."""
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"the result of a training {path} cannot be read ({error}): copy the run again"
            ) from error


def sizes_of(layout: Layout) -> dict[str, int]:
    """The sizes of a mesh by the names of its axes: ``data``, ``domain`` and ``tensor``."""
    return {"data": layout.data, "domain": layout.domain, "tensor": layout.tensor}

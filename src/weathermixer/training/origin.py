"""What the order of a run's samples was made of, kept with the run, and compared when it goes on.

An epoch visits each sample once. A training that goes on with another seed or with other times
would see some of them again, and others not at all, without a sign of it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from weathermixer.config import Config
from weathermixer.data.feeding.samples import Windows, training_period, windows
from weathermixer.data.states import States
from weathermixer.errors import UserError
from weathermixer.launch.consistency import versions
from weathermixer.runs.export_file import SUFFIX


@dataclass(frozen=True)
class Origin:
    """Seed, times and software that a run was begun with.

    ``pairs`` of states one step apart are what there is to learn from, between the times ``first``
    and ``last``; ``times`` is a digest of when each begins. ``samples`` are as long as the longest
    rollout. ``store`` is a digest of what the store says of itself, its statistics too. ``source``
    is the checkpoint of another run, or the export, whose weights it began with, if it did.
    """

    seed: int
    first: str
    last: str
    pairs: int
    times: str
    samples: int
    store: str
    versions: dict[str, str]
    source: str | None = None

    @classmethod
    def of(cls, config: Config, store: States, samples: Windows) -> Origin:
        """The origin of a run that begins now."""
        period = training_period(config.data, store)
        pairs = windows(store.times, config.data.step_hours, 1, period)
        begins = store.times[pairs[:][:, 0]].astype("datetime64[s]").astype(np.int64)
        first, last = store.times[pairs[0][0]], store.times[pairs[len(pairs) - 1][-1]]
        return cls(
            seed=config.training.seed,
            first=str(first.astype("datetime64[s]")),
            last=str(last.astype("datetime64[s]")),
            pairs=len(pairs),
            times=hashlib.blake2b(begins.tobytes(), digest_size=16).hexdigest(),
            samples=len(samples),
            store=store.fingerprint(),
            versions=versions(),
        )

    @classmethod
    def read(cls, path: Path) -> Origin | None:
        """The origin that a run keeps; None where it was begun by a version that kept none.

        Raises UserError where the file is damaged.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): make it readable"
            ) from error
        try:
            values = json.loads(text)
            known = [field.name for field in fields(cls) if field.name != "source"]
            return cls(**{name: values[name] for name in known}, source=values.get("source"))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path} is damaged: remove it to go on without knowing whether seed and times are "
                "those that the run was begun with"
            ) from error

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def require_same_order(self, now: Origin, run: Path) -> None:
        """Raise UserError where a run that goes on as ``now`` would repeat or lose samples."""
        lost = "samples of the epoch in hand would be seen twice, or not at all"
        if now.seed != self.seed:
            raise UserError(
                f"the run {run} was begun with training.seed={self.seed}, and with {now.seed} "
                f"{lost}: continue it with that seed, or choose another --out"
            )
        if now.times != self.times:
            raise UserError(
                f"the run {run} learns from {self.pairs} pairs of states from {self.first} to "
                f"{self.last}, and the store now offers {now.pairs} from {now.first} to "
                f"{now.last}, so that {lost}: set data.train={self.first}/{self.last} where the "
                "store has grown, give it the store as it was, or choose another --out"
            )

    def require_source(self, source: Path | None, run: Path) -> None:
        """Raise UserError where a run that goes on is to have begun from one that it did not."""
        begun = None if self.source is None else Path(self.source)
        if begun is not None and begun.suffix != SUFFIX:
            begun = begun.parents[1]  # the run of a checkpoint
        if source is not None and source.absolute() != begun:
            raise UserError(
                f"the run {run} was begun from {begun or 'initial weights'}, not from {source}: "
                "leave out --from to continue it, or choose another --out"
            )

    def changes(self, now: Origin) -> list[str]:
        """What else has changed, a sentence each, where a run goes on as ``now``."""
        found = []
        if now.samples != self.samples:
            found.append(
                f"with the rollouts of now there are {now.samples} samples to learn from, and "
                f"there were {self.samples} when the run was begun: some of the epoch in hand may "
                "be seen twice, or not at all"
            )
        if now.store != self.store:
            found.append(
                "the store describes itself otherwise than when the run was begun: it goes on with "
                "the statistics that it was begun with"
            )
        for name, version in self.versions.items():
            current = now.versions.get(name, "unknown")
            if current != version:
                found.append(
                    f"{name} is {current}, and was {version} when the run was begun: numbers may "
                    "differ by rounding"
                )
        return found

"""Services that keep numbers of many runs side by side: MLflow, and Weights & Biases.

Records are handed to a thread, so that a service that is slow or away holds up no step; what it
refuses is said once. A run that is continued goes on as the same one there: the run's folder keeps
its name. No setting holds a password, and of what libraries say, none is passed on.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from weathermixer.config import Config
from weathermixer.errors import reason
from weathermixer.launch.consistency import settings_of
from weathermixer.training.notices import Notices

_MOST_WAITING = 1000  # records; a service that is so far behind is one that is away
_SECONDS_TO_END = 30.0
_PROJECT = "weathermixer"


class Tracker(Protocol):
    """A run at a service; every method may raise any error of the service's library."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add the numbers of a step."""

    def close(self) -> None:
        """Tell the service that the run has ended."""


class Trackers:
    """The services that a configuration names, each written to by a thread of its own.

    ``folder`` is that of the run, where the names that services gave it are kept.
    """

    def __init__(self, config: Config, folder: Path, notices: Notices) -> None:
        known, settings = _Names(folder / "trackers.json"), settings_of(config)
        logging, name = config.logging, folder.absolute().name
        self._writers: list[_Writer] = []
        mlflow, wandb = logging.mlflow, logging.wandb
        if mlflow is not None:
            begin = lambda: _MLflow(mlflow, name, settings, known)  # noqa: E731
            self._writers.append(_Writer("MLflow", "mlflow", begin, notices))
        if wandb is not None:
            begin_other = lambda: _WandB(wandb, name, settings, known, folder)  # noqa: E731
            self._writers.append(_Writer("Weights & Biases", "wandb", begin_other, notices))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Hand over the numbers of a step; returns at once."""
        for writer in self._writers:
            writer.put(step, numbers)

    def close(self) -> None:
        """Wait a little for what is on its way, and end the run there."""
        for writer in self._writers:
            writer.close()


class _Writer:
    """A thread that writes to one service, until that fails."""

    def __init__(
        self, service: str, setting: str, begin: Callable[[], Tracker], notices: Notices
    ) -> None:
        self._service, self._setting, self._begin = service, setting, begin
        self._notices = notices
        self._records: queue.Queue[tuple[int, Mapping[str, float]] | None] = queue.Queue(
            _MOST_WAITING
        )
        self._thread = threading.Thread(target=self._run, name=setting, daemon=True)
        self._thread.start()

    def put(self, step: int, numbers: Mapping[str, float]) -> None:
        if not self._thread.is_alive():
            return
        try:
            self._records.put_nowait((step, dict(numbers)))
        except queue.Full:
            self._say("it is too slow, and records are left out")

    def close(self) -> None:
        try:
            self._records.put(None, timeout=_SECONDS_TO_END)
        except queue.Full:
            return
        self._thread.join(_SECONDS_TO_END)
        if self._thread.is_alive():
            self._say(f"it has not taken the last records in {_SECONDS_TO_END:.0f} s")

    def _run(self) -> None:
        try:
            tracker = self._begin()
            while (record := self._records.get()) is not None:
                tracker.write(*record)
            tracker.close()
        except ImportError as error:
            self._say(f"{reason(error)}; install it with: pip install 'weathermixer[tracking]'")
        except BaseException as error:  # noqa: BLE001 - a library's own, of any kind, even SystemExit
            self._say(reason(error))

    def _say(self, trouble: str) -> None:
        self._notices.say_once(
            self._setting,
            f"{self._service} gets no more of this training ({' '.join(trouble.split())}): it goes "
            f"on, and log.jsonl has all numbers; mend it, or set logging.{self._setting}=null",
        )


class _MLflow:
    """A run at an MLflow server, or in a folder of MLflow's."""

    def __init__(self, place: str, name: str, settings: Mapping[str, str], known: _Names) -> None:
        if "://" not in place:
            # The library wants to hear that a folder is meant, rather than a database.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            place = Path(place).expanduser().absolute().as_uri()
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._client = MlflowClient(tracking_uri=place)
        run = known.get("mlflow")
        if run is None:
            experiment = self._client.get_experiment_by_name(_PROJECT)
            number = (
                self._client.create_experiment(_PROJECT)
                if experiment is None
                else experiment.experiment_id
            )
            run = self._client.create_run(number, run_name=name).info.run_id
            known.keep("mlflow", run)
            self._client.log_batch(run, params=[Param(*pair) for pair in settings.items()])
        else:
            self._client.update_run(run, status="RUNNING")
        self._run = run

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [self._metric(key, value, now, step) for key, value in numbers.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run)


class _WandB:
    """A run at Weights & Biases, or in the run's folder where WANDB_MODE is ``offline``."""

    def __init__(
        self, project: str, name: str, settings: Mapping[str, str], known: _Names, folder: Path
    ) -> None:
        import wandb

        run = known.get("wandb")
        if run is None:
            run = uuid.uuid4().hex[:12]
            known.keep("wandb", run)
        self._run = wandb.init(
            project=project,
            id=run,
            name=name,
            resume="allow",
            dir=folder,
            config=dict(settings),
            # It is to watch numbers, not the terminal, the program's text or the machine.
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True
            ),
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log({"step": step, **numbers})

    def close(self) -> None:
        self._run.finish()


class _Names:
    """What services call a run, in a file of its folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def get(self, service: str) -> str | None:
        return self._read().get(service)

    def keep(self, service: str, name: str) -> None:
        with self._lock:
            partial = self._path.with_name(self._path.name + ".partial")
            partial.write_text(json.dumps({**self._read(), service: name}) + "\n", encoding="utf-8")
            partial.replace(self._path)

    def _read(self) -> dict[str, str]:
        try:
            names: dict[str, str] = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return names

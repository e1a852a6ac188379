"""Runs and stores that another version of the program wrote: read, or refused with what reads them.

Later formats are made here by hand, since no version writes them yet.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zarr
from rich.console import Console

from support.waves import START, wave_config, write_waves
from weathermixer import __version__
from weathermixer.errors import UserError
from weathermixer.forecast.forecast import forecast
from weathermixer.report.make_report import make_report
from weathermixer.runs.checkpoint_index import DamagedCheckpoint
from weathermixer.runs.run import Run
from weathermixer.training.trainer import train

QUIET = Console(quiet=True)
LATER = "7.1"


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_waves(tmp_path_factory.mktemp("waves") / "w.zarr", times=20)


@pytest.fixture(scope="module")
def trained(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    training = {"steps": 3, "validate_every": 9}
    train(wave_config(waves, training=training, checkpoint={"every": 1}), run, console=QUIET)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def refusals(run: Path, waves: Path) -> list[UserError]:
    """What is said where a run is gone on with, forecast with, and begun from."""
    longer = wave_config(waves, training={"steps": 4})
    uses: list[Callable[[], Any]] = [
        lambda: train(longer, run, resume=True, console=QUIET),
        lambda: forecast(run, waves, str(START), 1, run.parent / "forecast.zarr"),
        lambda: train(longer, run.parent / "new", source=run, console=QUIET),
    ]
    found = []
    for use in uses:
        with pytest.raises(UserError) as caught:
            use()
        found.append(caught.value)
    return found


def later_seal(checkpoint: Path, **changes: Any) -> None:
    file = checkpoint / "checkpoint.json"
    seal = json.loads(file.read_text()) | {"format": 3, "program": LATER} | changes
    file.write_text(json.dumps(seal))


@pytest.mark.parametrize("has_index", [True, False])
def test_a_checkpoint_of_a_later_format_is_refused_and_left_as_it_is(
    run: Path, waves: Path, has_index: bool
) -> None:
    newest = Run.open(run).require_checkpoint()
    later_seal(newest, checksum=None, blocks=[1, 2])
    if not has_index:
        (newest / ".metadata").unlink()
    for error in refusals(run, waves):
        assert str(error) == (
            f"the checkpoint {newest} is of format 3, which WeatherMixer {LATER} wrote and this "
            f"version, {__version__}, does not read: install WeatherMixer {LATER} or a newer one "
            "to go on from it"
        )
        assert not isinstance(error, DamagedCheckpoint)
    assert newest.is_dir()  # and no older one was taken in its place


def test_settings_that_this_version_does_not_know_are_refused_with_the_one_that_wrote_them(
    run: Path, waves: Path
) -> None:
    config = run / "config.yaml"
    text = config.read_text(encoding="utf-8")
    assert text.startswith(f"# written by WeatherMixer {__version__}\n")
    unknown = text.replace("training:\n", "training:\n  lookahead: 3\n")
    config.write_text(unknown.replace(__version__, LATER, 1), encoding="utf-8")
    uses = refusals(run, waves)
    with pytest.raises(UserError) as caught:
        make_report(run)
    for error in [*uses, caught.value]:
        said = str(error)
        assert said.startswith(
            f"the run {run} was written by WeatherMixer {LATER}, and this version, {__version__}, "
            "does not understand it (training.lookahead: there is no such key"
        )
        assert said.endswith(f"install WeatherMixer {LATER} to go on with it")
    # Whoever wrote it with this version has mistyped it.
    config.write_text(unknown, encoding="utf-8")
    for error in refusals(run, waves):
        assert str(error).startswith("training.lookahead: there is no such key")


def test_a_normalisation_of_another_version_is_refused_with_the_one_that_wrote_it(
    run: Path, waves: Path
) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(__version__, LATER, 1), encoding="utf-8")
    (run / "normalisation.npz").write_bytes(b"of another kind")
    for error in refusals(run, waves):
        assert f"was written by WeatherMixer {LATER}" in str(error)


def test_a_run_of_another_version_that_is_understood_goes_on(run: Path, waves: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(__version__, LATER, 1), encoding="utf-8")
    longer = wave_config(waves, training={"steps": 4, "validate_every": 9})
    assert train(longer, run, resume=True, console=QUIET).start_step == 3


def test_a_store_of_a_later_format_is_refused_with_what_to_do(waves: Path, tmp_path: Path) -> None:
    store = shutil.copytree(waves, tmp_path / "later.zarr")
    zarr.open_group(store, mode="r+").attrs["weathermixer_store"] = 2
    with pytest.raises(UserError, match=r"later\.zarr is a store of format 2, which a later"):
        train(wave_config(store), tmp_path / "run", console=QUIET)

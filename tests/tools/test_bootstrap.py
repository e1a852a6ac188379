"""Which build of PyTorch is taken, given what pip says there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support.scripts import load_script


@pytest.fixture(scope="module")
def bootstrap() -> ModuleType:
    return load_script("bootstrap")


# What pip lists where indexes offer builds for GPUs under plain version numbers, and where a CPU
# build is offered as well.
GPU_ONLY = ["2.14.1", "2.13.0", "2.12.1", "2.12.0"]
WITH_CPU = ["2.14.1", "2.13.0+cpu", "2.13.0", "2.12.1", "2.12.0"]


@pytest.fixture
def setup(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., list[tuple[str, ...]]]:
    """Runs the stage that installs torch and returns its calls of pip."""
    pins = tmp_path / "constraints.txt"
    pins.write_text("numpy==2.4.6\ntorch==2.13.0\ntorchvision==1\n")
    monkeypatch.setattr(bootstrap, "CONSTRAINTS", pins)
    monkeypatch.delenv("TORCH_INDEX", raising=False)

    def install(
        *, usual: Sequence[str] = (), cpu: Sequence[str] = (), present: str | None = None
    ) -> list[tuple[str, ...]]:
        calls: list[tuple[str, ...]] = []
        indexes = {"": usual, bootstrap.CPU_INDEX: cpu}
        monkeypatch.setattr(bootstrap, "pip", lambda *arguments: calls.append(arguments))
        monkeypatch.setattr(bootstrap, "offered", lambda options: indexes["".join(options[1:])])
        monkeypatch.setattr(bootstrap, "torch_installed", lambda: present)
        bootstrap.install_torch()
        return calls

    return install


def test_a_cpu_build_is_taken_from_the_usual_index_where_it_has_one(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, setup: Callable[..., Any]
) -> None:
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    assert setup(usual=WITH_CPU) == [("install", "--no-deps", "torch==2.13.0+cpu")]


def test_a_build_that_may_be_for_gpus_is_left_for_the_index_of_cpu_builds(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, setup: Callable[..., Any]
) -> None:
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    (call,) = setup(usual=GPU_ONLY, cpu=["2.13.0+cpu"])
    assert call[2:] == ("torch==2.13.0+cpu", "--index-url", bootstrap.CPU_INDEX)


@pytest.mark.parametrize("cpu", [[], ["2.12.0+cpu"], ["2.13.0"]])
def test_nothing_is_installed_where_there_is_no_cpu_build(
    bootstrap: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    setup: Callable[..., Any],
    cpu: list[str],
) -> None:
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    with pytest.raises(SystemExit, match=r"no CPU build of torch 2\.13\.0 .* TORCH_INDEX=URL"):
        setup(usual=GPU_ONLY, cpu=cpu)


def test_the_plain_version_is_a_cpu_build_on_other_systems(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, setup: Callable[..., Any]
) -> None:
    monkeypatch.setattr(bootstrap.sys, "platform", "darwin")
    assert setup(usual=GPU_ONLY) == [("install", "--no-deps", "torch==2.13.0")]


def test_another_build_can_be_chosen(
    monkeypatch: pytest.MonkeyPatch, setup: Callable[..., Any]
) -> None:
    monkeypatch.setenv("TORCH_INDEX", "https://example.org/cu130")
    assert setup() == [("install", "torch==2.13.0", "--index-url", "https://example.org/cu130")]


def test_a_torch_that_is_there_is_kept(
    monkeypatch: pytest.MonkeyPatch, setup: Callable[..., Any]
) -> None:
    assert setup(present="2.13.0+cu130") == []
    assert setup(usual=WITH_CPU, present="2.12.1+cpu") != []
    monkeypatch.setenv("TORCH_INDEX", "keep")
    assert setup(present="2.14.1") == []
    with pytest.raises(SystemExit, match=r"\.venv has no torch"):
        setup(present=None)


def test_what_follows_cannot_replace_the_build_of_torch(bootstrap: ModuleType) -> None:
    pinned = bootstrap.constraints_with("2.14.1+cu130", "six==1\ntorch==2.13.0\ntorchvision==1\n")
    assert pinned == "six==1\ntorch==2.14.1+cu130\ntorchvision==1\n"


def test_every_pin_that_is_asked_for_is_in_the_constraints(bootstrap: ModuleType) -> None:
    assert bootstrap.pin("torch").startswith("2.")
    assert bootstrap.pin("pip")


def test_an_installation_serves_until_pins_change_and_for_fewer_extras(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text("torch==2.13.0\n")
    monkeypatch.setattr(bootstrap, "CONSTRAINTS", pins)
    monkeypatch.setattr(bootstrap, "VENV", tmp_path)
    monkeypatch.setattr(bootstrap, "PYTHON", pins)
    installed = bootstrap.fingerprint()
    bootstrap.stamp(["test", "planet"]).write_text(installed)
    assert bootstrap.is_installed(["planet", "test"], installed)
    assert bootstrap.is_installed(["planet"], installed)
    assert not bootstrap.is_installed(["planet", "grib"], installed)
    pins.write_text("torch==2.13.1\n")
    assert not bootstrap.is_installed(["planet"], bootstrap.fingerprint())


def test_a_failure_of_pip_is_told_by_its_errors(bootstrap: ModuleType) -> None:
    log = "Collecting six\nERROR: No matching distribution found for six==99\nWARNING: old\n"
    assert bootstrap.complaint(log) == "ERROR: No matching distribution found for six==99\n"
    assert bootstrap.complaint("one\ntwo\n") == "one\ntwo\n"

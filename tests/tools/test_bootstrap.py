"""What pip reports of PyTorch's builds, cut down to what the decision rests on."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "tools" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMMON = ["filelock", "typing-extensions>=4.10.0", "sympy>=1.13.3", "networkx>=2.5.1", "jinja2"]
GPU = [
    *COMMON,
    'cuda-bindings<14,>=13.0.3; platform_system == "Linux"',
    'nvidia-cudnn-cu13==9.15.1.9; platform_system == "Linux"',
    'triton==3.7.0; platform_system == "Linux"',
]


@pytest.mark.parametrize(
    ("metadata", "platform", "is_cpu"),
    [
        ({"version": "2.13.0+cpu", "requires_dist": COMMON}, "linux", True),
        ({"version": "2.13.0+cu130", "requires_dist": COMMON}, "linux", False),
        ({"version": "2.13.0", "requires_dist": GPU}, "linux", False),
        ({"version": "2.13.0", "requires_dist": COMMON}, "linux", True),
        ({"version": "2.13.0", "requires_dist": GPU}, "darwin", True),
        (None, "linux", False),
    ],
)
def test_a_build_for_gpus_is_told_from_one_for_the_processor(
    bootstrap: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    metadata: dict[str, Any] | None,
    platform: str,
    is_cpu: bool,
) -> None:
    monkeypatch.setattr(bootstrap.sys, "platform", platform)
    assert bootstrap.is_cpu_build(metadata) is is_cpu


def installed_with(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, builds: dict[str, Any]
) -> list[tuple[str, ...]]:
    """The calls of pip, where each index offers the build given for its address."""
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(bootstrap, "torch_installed", lambda pin: False)
    monkeypatch.setattr(bootstrap, "pip", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(bootstrap, "offered", lambda pin, options: builds.get("".join(options[1:])))
    bootstrap.install_torch()
    return calls


def test_a_cpu_build_is_installed_from_where_there_is_one(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_INDEX", raising=False)
    cpu, gpu = {"version": "2.13.0+cpu"}, {"version": "2.13.0", "requires_dist": GPU}
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    (call,) = installed_with(bootstrap, monkeypatch, {"": cpu})
    assert "--index-url" not in call
    (call,) = installed_with(bootstrap, monkeypatch, {"": gpu, bootstrap.CPU_INDEX: cpu})
    assert call[-2:] == ("--index-url", bootstrap.CPU_INDEX)
    with pytest.raises(SystemExit, match=r"no CPU build of torch .* TORCH_INDEX=URL"):
        installed_with(bootstrap, monkeypatch, {"": gpu})


def test_another_build_can_be_chosen(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_INDEX", "https://example.org/cu130")
    (call,) = installed_with(bootstrap, monkeypatch, {})
    assert call[-2:] == ("--index-url", "https://example.org/cu130")
    monkeypatch.setenv("TORCH_INDEX", "keep")
    assert installed_with(bootstrap, monkeypatch, {}) == []


def test_the_pin_is_read_from_the_constraints(bootstrap: ModuleType) -> None:
    assert bootstrap.torch_pin("numpy==2.4.6\ntorch==2.13.0\ntorchvision==1\n") == "2.13.0"
    assert bootstrap.torch_pin((ROOT / "constraints.txt").read_text())


def test_what_is_installed_is_looked_at_again_when_pins_change(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text("torch==2.13.0\n")
    monkeypatch.setattr(bootstrap, "CONSTRAINTS", pins)
    before = bootstrap.fingerprint()
    pins.write_text("torch==2.13.1\n")
    assert bootstrap.fingerprint() != before

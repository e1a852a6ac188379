"""The power that a training draws, where its machine reports it: of GPUs by NVML, else by RAPL.

RAPL is what Linux reads of the energy that processors have taken, in ``/sys/class/powercap``; many
systems show it to their administrator alone.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

_RAPL = Path("/sys/class/powercap")


class PowerMeter:
    """Watts that this rank answers for: its GPU, or the processors of the machine it is first on.

    ``answers`` tells whether it is the first rank of its machine, whose processors all share.
    """

    def __init__(self, device: torch.device, *, answers: bool, rapl: Path = _RAPL) -> None:
        self._device = device if device.type == "cuda" else None
        packages = sorted(rapl.glob("intel-rapl:[0-9]*")) if answers and not self._device else []
        # Those with another colon are parts of a package, whose energy is in it already.
        self._packages = [path for path in packages if path.name.count(":") == 1]
        self._last = self._energies(), time.monotonic()

    def watts(self) -> float | None:
        """Watts since the last call, of a GPU at this moment; None where nothing tells them."""
        if self._device is not None:
            return _gpu_watts(self._device)
        now = self._energies(), time.monotonic()
        (before, began), self._last = self._last, now
        seconds = now[1] - began
        if before is None or now[0] is None or seconds <= 0.0:
            return None
        joules = sum(
            after - earlier if after >= earlier else after - earlier + wraps
            for (earlier, wraps), (after, _) in zip(before, now[0], strict=True)
        )
        return joules / seconds

    def _energies(self) -> list[tuple[float, float]] | None:
        """Joules of each package so far, and those at which the count begins anew."""
        try:
            return [
                (_joules(path / "energy_uj"), _joules(path / "max_energy_range_uj"))
                for path in self._packages
            ] or None
        except (OSError, ValueError):
            return None


def _gpu_watts(device: torch.device) -> float | None:
    try:
        return torch.cuda.power_draw(device) / 1000.0
    except Exception:  # noqa: BLE001 - NVML's errors are those of a package that may be missing
        return None


def _joules(path: Path) -> float:
    return int(path.read_text(encoding="ascii")) / 1e6

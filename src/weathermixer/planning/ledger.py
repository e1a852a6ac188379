"""Bytes that come and go: what stands for tensors of which nothing but the size is known."""

from __future__ import annotations


class Ledger:
    """Counts what is held by part, and what each part held when all of it together was most."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}
        self._total = 0
        self.peak = 0
        self.at_peak: dict[str, int] = {}

    def new(self, num_bytes: int, part: str = "activations") -> Held:
        """Something that takes so many bytes for as long as it is referred to, as a tensor does."""
        return Held(self, num_bytes, part)

    def add(self, num_bytes: int, part: str) -> None:
        """Count more bytes, or fewer."""
        self._held[part] = self._held.get(part, 0) + num_bytes
        self._total += num_bytes
        if self._total > self.peak:
            self.peak, self.at_peak = self._total, dict(self._held)


class Held:
    """Bytes of one part that are given back when nothing refers to this any more."""

    __slots__ = ("_ledger", "_part", "num_bytes")

    def __init__(self, ledger: Ledger, num_bytes: int, part: str) -> None:
        self._ledger, self.num_bytes, self._part = ledger, num_bytes, part
        ledger.add(num_bytes, part)

    def __del__(self) -> None:
        self._ledger.add(-self.num_bytes, self._part)

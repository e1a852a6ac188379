"""What a rank sent and computed, counted where it happens."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass
class Counter:
    """What this rank sent and computed so far.

    ``calls`` are exchanges as they are handed to the backend, each with what it sends and receives,
    ``messages`` what of them goes to a peer, ``multiply_adds`` those of matrix products.
    """

    bytes_sent: int = 0
    messages: int = 0
    calls: int = 0
    multiply_adds: int = 0

    def since(self, earlier: Counter) -> Counter:
        """What was counted after ``earlier`` was copied from this counter."""
        return Counter(
            *(getattr(self, field.name) - getattr(earlier, field.name) for field in fields(self))
        )

    def copy(self) -> Counter:
        return replace(self)

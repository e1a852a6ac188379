"""What a rank sent and computed, counted where it happens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counter:
    """Bytes and messages that this rank sent, and multiply-adds of its matrix products, so far."""

    bytes_sent: int = 0
    messages: int = 0
    multiply_adds: int = 0

    def since(self, earlier: Counter) -> Counter:
        """What was counted after ``earlier`` was copied from this counter."""
        return Counter(
            self.bytes_sent - earlier.bytes_sent,
            self.messages - earlier.messages,
            self.multiply_adds - earlier.multiply_adds,
        )

    def copy(self) -> Counter:
        return Counter(self.bytes_sent, self.messages, self.multiply_adds)

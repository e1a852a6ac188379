"""Gradients averaged over replicas that each hold all weights: whole, or by a sharded optimizer.

A sharded optimizer (ZeRO-1, arXiv 1910.02054) has the averages of this replica's part of the
weights alone. Gradients are then reduce-scattered, and the weights gathered when they have been
updated, which sends as much as an all-reduce does; but the second half is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from weathermixer.planning.schemes.description import ring
from weathermixer.planning.schemes.plain_network import PlainNetwork
from weathermixer.planning.schemes.plain_tensors import WeightMemory
from weathermixer.planning.step_time import Phase, PlannedExchange


@dataclass(frozen=True)
class Averaging:
    """What ``replicas`` of a network's weights exchange, ``ranks_of_node`` of them on a node."""

    network: PlainNetwork
    replicas: int
    ranks_of_node: int

    @property
    def _is_sharded(self) -> bool:
        return self.network.kind.shards_optimizer

    @property
    def _share(self) -> float:
        """What a rank sends of what it has, in a reduce-scatter or a gather."""
        return (self.replicas - 1) / self.replicas

    def gradients(
        self, weights: float, *, calls: float = 1.0, is_beside: bool = False
    ) -> tuple[PlannedExchange, ...]:
        """The exchange of the gradients of so many weights."""
        element_bytes = self.network.kind.gradient_bytes or self.network.weight_bytes
        num_bytes = (1.0 if self._is_sharded else 2.0) * self._share * weights * element_bytes
        return ring(
            num_bytes,
            self.replicas,
            ranks_of_node=self.ranks_of_node,
            calls=calls,
            is_beside=is_beside,
        )

    def update(self, weights: float) -> Phase:
        """The optimizer on what a rank has of so many weights; of a sharded one, and its gather."""
        if not self._is_sharded:
            return self.network.update(weights)
        gathered = ring(
            self._share * weights * self.network.weight_bytes,
            self.replicas,
            ranks_of_node=self.ranks_of_node,
        )
        return replace(self.network.update(weights / self.replicas), exchanges=gathered)

    def memory(self, weights: float) -> WeightMemory:
        """How so many weights are held: gradients of several replicas lie in buckets."""
        num_bytes = weights * self.network.weight_bytes
        has_buckets = self.replicas > 1
        return WeightMemory(
            weights=num_bytes,
            averages=self.network.num_averages
            * num_bytes
            / (self.replicas if self._is_sharded else 1),
            buckets=num_bytes if has_buckets else 0.0,
            kept_share=0.0 if has_buckets else 1.0,
        )

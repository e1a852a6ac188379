"""The distributed products of the published implementation, on one, two or four ranks.

``X W``, ``X Wᵀ`` and ``Xᵀ W``, whose operands and results are cut in two along the last dimension
on two ranks and along both on four. On four, the latter two are uneven: two ranks make one of eight
blocks each, the other two three each, of which one is for a rank that waits for it. Described is
one of those that do most. A step waits for what it does not say travels beside a product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from weathermixer.planning.machine import ProductType
from weathermixer.planning.schemes.element_work import Elements
from weathermixer.planning.step_time import ElementWork, MatrixProduct, Phase, PlannedExchange

Ways = Literal[1, 2, 4]

_T = TypeVar("_T")


@dataclass(frozen=True)
class PublishedProducts:
    """Phases of products of whole matrices of given sizes, on a rank of so many ``ways``."""

    ways: Ways
    dtype: ProductType
    elements: Elements
    samples: int
    leaves_node: bool

    def plain(self, m: int, k: int, n: int) -> list[Phase]:
        """``X W`` with ``X (m, k)`` and ``W (k, n)``.

        Two ranks swap ``X``, beside their own half. Of four, those described wait for ``X``,
        multiply, wait for ``W``, and multiply.
        """
        if self.ways == 1:
            return [self._phase("X W", self._product(m, n, k))]
        if self.ways == 2:
            product = self._product(m, n // 2, k // 2)
            return [
                self._phase("X W", product, exchange=self.send(m * k / 2, is_beside=True)),
                self._phase("X W", product, work=self.elements.work(m * n / 2, 3.0)),
            ]
        product = self._product(m // 2, n // 2, k // 2)
        return [
            self._phase("X W", product, exchange=self.send(m * k / 4)),
            self._phase(
                "X W",
                product,
                work=self.elements.work(m * n / 4, 3.0),
                exchange=self.send(k * n / 4),
            ),
        ]

    def by_transpose(self, m: int, k: int, n: int) -> list[Phase]:
        """``X Wᵀ`` with ``X (m, k)`` and ``W (n, k)``.

        Two ranks first make what is the other's, and swap that beside their own part.
        """
        if self.ways == 1:
            return [self._phase("X Wᵀ", self._product(m, n, k))]
        if self.ways == 2:
            product = self._product(m, n // 2, k // 2)
            return [
                self._phase("X Wᵀ", product),
                self._phase(
                    "X Wᵀ",
                    product,
                    work=self.elements.work(m * n / 2, 3.0),
                    exchange=self.send(m * n / 2, is_beside=True),
                ),
            ]
        return self._uneven("X Wᵀ", self._product(m // 2, n // 2, k // 2), n * k / 4, m * n / 4)

    def transposed(self, k: int, m: int, n: int) -> list[Phase]:
        """``Xᵀ W`` with ``X (k, m)`` and ``W (k, n)``.

        Two ranks swap ``X``, beside their own half, and join both halves.
        """
        if self.ways == 1:
            return [self._phase("Xᵀ W", self._product(m, n, k))]
        if self.ways == 2:
            product = self._product(m // 2, n // 2, k)
            return [
                self._phase("Xᵀ W", product, exchange=self.send(k * m / 2, is_beside=True)),
                self._phase("Xᵀ W", product, work=self.elements.work(m * n / 2, 2.0)),
            ]
        return self._uneven("Xᵀ W", self._product(m // 2, n // 2, k // 2), k * m / 4, m * n / 4)

    def exchanged_transpose(self, rows: int, columns: int) -> list[Phase]:
        """The transpose of an activation, for half of which two ranks change places."""
        if self.ways == 1:
            return []
        size = rows * columns
        work = self.elements.work(size / 2, 2.0, kernels=3) if self.ways == 2 else None
        return [self._phase("transpose", work=work, exchange=self.send(size / 4))]

    def send(self, elements: float, *, is_beside: bool = False) -> PlannedExchange:
        """Send so many elements of a sample to a peer, and receive as many at the same time."""
        num_bytes = elements * self.samples * self.elements.element_bytes
        return PlannedExchange(num_bytes, 1, self.leaves_node, is_beside, ranks_sharing=1.0)

    def _uneven(
        self, name: str, product: MatrixProduct, operand: float, result: float
    ) -> list[Phase]:
        """Three of eight blocks: one for another rank, sent when it is done, and two of its own."""
        return [
            self._phase(name, product, exchange=self.send(operand, is_beside=True)),
            self._phase(
                name,
                product,
                product,
                work=self.elements.work(result, 3.0),
                exchange=self.send(result),
            ),
        ]

    def _product(self, m: int, n: int, k: int) -> MatrixProduct:
        return MatrixProduct(m, n, k, self.dtype, self.samples)

    def _phase(
        self,
        name: str,
        *products: MatrixProduct,
        work: ElementWork | None = None,
        exchange: PlannedExchange | None = None,
    ) -> Phase:
        return Phase(name, products, _given(work), _given(exchange))


def element_phase(name: str, *work: ElementWork | Sequence[ElementWork]) -> Phase:
    """A phase of work on single elements alone."""
    flat = [each for part in work for each in ([part] if isinstance(part, ElementWork) else part)]
    return Phase(name, elementwise=tuple(flat))


def _given(value: _T | None) -> tuple[_T, ...]:
    return () if value is None else (value,)

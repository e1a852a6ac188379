from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from weathermixer.model.arithmetic import Arithmetic

matmul = torch.backends.cuda.matmul


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = matmul.allow_tf32
    yield
    matmul.allow_tf32 = before


@pytest.mark.parametrize("before", [True, False])
def test_products_are_rounded_where_that_was_asked_for_and_as_before_afterwards(
    before: bool,
) -> None:
    matmul.allow_tf32 = before
    with Arithmetic.of("tf32").in_force():
        assert matmul.allow_tf32
        with Arithmetic.of("float32").in_force():
            assert not matmul.allow_tf32
        assert matmul.allow_tf32
        # What the compiler asks for, of which other switches make an error.
        assert torch.get_float32_matmul_precision() == "high"
        # Those of the processor are another matter.
        assert torch._C._get_fp32_precision_getter("mkldnn", "matmul") == "none"
    assert matmul.allow_tf32 == before


def test_an_error_leaves_products_as_they_were() -> None:
    with pytest.raises(ZeroDivisionError), Arithmetic.of("tf32").in_force():
        raise ZeroDivisionError
    assert not matmul.allow_tf32


def test_a_processor_says_that_it_has_no_tf32() -> None:
    remark = Arithmetic.of("tf32").remark(torch.device("cpu"))
    assert remark is not None and "products are computed in float32" in remark
    for dtype in ("float64", "float32", "bfloat16"):
        assert Arithmetic.of(dtype).remark(torch.device("cpu")) is None

"""The norm of the gradients: as exact as in double precision, however large tensors are and wherever they are cut."""

from __future__ import annotations

import pytest
import torch

from parsit.train.strategies.base import sums_of_squares


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_of_squares_are_those_in_double_precision(dtype):
    """A mean that is not zero, so that errors of rounding do not cancel: single precision is off by a thousandth."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(), (0,), (5,), (300, 7), (1000, 999), (4099, 1031)]
    tensors = [(torch.randn(shape, generator=generator) * 1e-4 + 1e-4).to(dtype) for shape in shapes]
    tensors.append(torch.randn(1031, 513, generator=generator).to(dtype).t())
    expected = torch.stack([tensor.double().square().sum() for tensor in tensors])
    found = sums_of_squares(tensors)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=0)


def test_a_tensor_that_is_cut_has_the_same_sum():
    tensor = torch.randn(1_000_003, generator=torch.Generator().manual_seed(1))
    whole = sums_of_squares([tensor]).sum()
    for place in (1, 70_001, 500_000):
        parts = list(tensor.split([place, len(tensor) - place]))
        torch.testing.assert_close(sums_of_squares(parts).sum(), whole, rtol=1e-8, atol=0)


def test_what_is_not_finite_shows():
    for value in (float("nan"), float("inf")):
        tensor = torch.zeros(2**17)
        tensor[-7] = value
        assert not sums_of_squares([tensor]).isfinite().any()

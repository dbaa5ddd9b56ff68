"""How the GPU's tests compare what two devices, or two ways, have computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_products() -> Iterator[None]:
    """fp32 products in fp32, whatever a test before it has set."""
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed


def difference(found: torch.Tensor, expected: torch.Tensor, floor: float = 0.0) -> float:
    """‖found - expected‖ / (‖expected‖ + floor), in double precision."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / (expected.norm() + floor).clamp_min(1e-30))


def worst_difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> tuple[float, str]:
    """The largest `difference` of tensors by name, and whose it is.

    Some gradients are zero but for rounding (a bias of keys moves all scores of a query alike), so that each is held
    against a thousandth of all together as well.
    """
    assert found.keys() == expected.keys()
    floor = 1e-3 * float(sum(tensor.double().square().sum().cpu() for tensor in expected.values())) ** 0.5
    return max((difference(found[name], expected[name], floor), name) for name in expected)


def total_difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """`difference` of all tensors taken as one."""
    assert found.keys() == expected.keys()
    one, other = (
        torch.cat([some[name].detach().double().cpu().flatten() for name in expected]) for some in (found, expected)
    )
    return difference(one, other)

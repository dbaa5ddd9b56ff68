"""What several processes hold whole must stay the same in each, or they compute different models.

Each process of a group of tensor parallelism updates its own copy of tower, projector and norms with a gradient that it
computed itself. On a CPU the copies are equal to the bit; on a GPU sums in another order let them drift apart, slowly.
Whether they are equal is asked by two numbers a parameter; only of those that are not, how far they are apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from parsit.types import ParsitError

# As a share of a parameter's largest number. Rounding leaves far less; more is another update, not another rounding.
TOLERANCE = 1e-2
_PERIOD = 8191  # places are weighted by their remainder: numbers that only changed places are not equal


@torch.no_grad()
def drift(replicas: Mapping[str, torch.Tensor], group: ProcessGroup) -> dict[str, float]:
    """How far copies are apart in a group, as a share of the largest number, by name; only of those that differ.

    Called by all processes of the group at once.

    Args:
        replicas: what should be the same in each process, in the same order.
        group: the processes.
    """
    if not replicas:
        return {}
    mine = torch.stack([checksum(tensor) for tensor in replicas.values()])
    first, last = mine.clone(), mine.clone()
    dist.all_reduce(first, dist.ReduceOp.MIN, group)
    dist.all_reduce(last, dist.ReduceOp.MAX, group)
    differ = (first != last).any(1).tolist()
    return {
        name: _apart(tensor, group) for (name, tensor), found in zip(replicas.items(), differ, strict=True) if found
    }


def checksum(tensor: torch.Tensor) -> torch.Tensor:
    """`int64[2]` of a tensor's bits: their sum, and their sum weighted by place."""
    kind = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}[tensor.element_size()]
    bits = tensor.detach().contiguous().view(kind).flatten().long()
    places = torch.arange(len(bits), device=bits.device) % _PERIOD + 1
    return torch.stack([bits.sum(), (bits * places).sum()])


def _apart(tensor: torch.Tensor, group: ProcessGroup) -> float:
    low, high = tensor.detach().float().clone(), tensor.detach().float().clone()
    dist.all_reduce(low, dist.ReduceOp.MIN, group)
    dist.all_reduce(high, dist.ReduceOp.MAX, group)
    return float((high - low).max() / torch.maximum(high.abs(), low.abs()).max().clamp(min=1e-30))


def judge(found: Mapping[str, float], say: Callable[[str], None]) -> None:
    """Tell of copies that drifted a little, and refuse to save those that are no copies any more.

    Raises:
        ParsitError: they are further apart than rounding explains; the parameter is named.
    """
    if not found:
        return
    name, apart = max(found.items(), key=lambda item: item[1])
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    what = f"--tp: the processes' copies of {name}{more} are apart, by {apart:.1e} of its largest number"
    if not apart <= TOLERANCE:  # NaN is more, too
        raise ParsitError(f"{what}: they train different models; nothing was saved: go on from the last checkpoint "
                          "with the same command, and report this if it comes again")  # fmt: skip
    say(f"{what}; the first process's is saved")

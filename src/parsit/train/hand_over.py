"""One process reads or draws a model's weights, and the others receive them.

Else each of eight processes would draw all random weights, read every file and convert it, on the same cores and from
the same disk, holding several copies at once. The model travels without its numbers, as a pickle from a process of this
very run: the others have the same modules, settings and tied weights with room for the numbers, which follow tensor by
tensor. So what the processes hold is equal to the bit, whatever the first one did to get it.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from parsit.train.world import World

Result = TypeVar("Result")
# Numbers that travel at once: through a GPU with NCCL, where so many bytes, fourfold in fp32, must find room.
_CHUNK = 2**25


def read_once(world: World, work: Callable[[], Result]) -> Result:
    """What `work` gives on the first process, tensors and all, on every process; called by all at once.

    Raises:
        InputError, ParsitError: as `work` raised it on the first process.
    """
    if world.size == 1:
        return work()
    made: list[tuple[Result, list[torch.Tensor]]] = []

    def without_numbers() -> bytes:
        result = work()
        file = io.BytesIO()
        pickler = _Pickler(file)
        pickler.dump(result)
        made.append((result, pickler.tensors))
        return file.getvalue()

    packed = world.on_first(without_numbers)
    if made:
        result, tensors = made[0]
    else:
        unpickler = _Unpickler(io.BytesIO(packed))
        result = unpickler.load()
        tensors = list(unpickler.tensors.values())
    for tensor in tensors:
        _broadcast(tensor, world)
    return result


class _Pickler(pickle.Pickler):
    """Pickles all but tensors; of those it notes what they are."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[torch.Tensor] = []
        self._numbers: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> Any:
        """A tensor's number, and how to make one like it."""
        if not isinstance(obj, torch.Tensor):
            return None
        assert type(obj) in (torch.Tensor, nn.Parameter), f"a plain tensor, not {type(obj).__name__}"
        assert obj.device.type == "cpu", "weights are moved to a device later"
        if id(obj) not in self._numbers:
            self._numbers[id(obj)] = len(self.tensors)
            self.tensors.append(obj)
        trained = obj.requires_grad if isinstance(obj, nn.Parameter) else None
        return self._numbers[id(obj)], tuple(obj.shape), obj.dtype, trained


class _Unpickler(pickle.Unpickler):
    """Makes an empty tensor for each that `_Pickler` noted, the same one for the same number."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: dict[int, torch.Tensor] = {}

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """The tensor of that number."""
        number, shape, dtype, trained = pid
        if number not in self.tensors:
            empty = torch.empty(shape, dtype=dtype)
            self.tensors[number] = empty if trained is None else nn.Parameter(empty, requires_grad=trained)
        return self.tensors[number]


@torch.no_grad()
def _broadcast(tensor: torch.Tensor, world: World) -> None:
    """The first process's numbers into the tensor of each."""
    flat = tensor.detach().contiguous().view(-1)
    for part in flat.split(_CHUNK):
        travels = part.to(world.device)
        dist.broadcast(travels, src=0)
        if not world.is_first:
            part.copy_(travels)
    if flat.data_ptr() != tensor.data_ptr():  # a copy, where the tensor's numbers do not lie in order
        tensor.copy_(flat.view_as(tensor))

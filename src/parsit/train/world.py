"""The processes of a run: who this one is, and what it says to the others.

torchrun, `accelerate launch`, srun and `parsit train` itself say who a process is in its environment; the first three
words of each are looked for here. Without any, a process is alone, and every function here is free.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from parsit.types import InputError, ParsitError, UsageError

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class World:
    """One process among all: `rank` of `size`, the `local_rank` on its machine, and its device."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = torch.device("cpu")  # noqa: RUF009  (never changed)

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all and writes the files."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each number summed over all processes, the same in each."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, value: Result) -> list[Result]:
        """What each process has, in the order of ranks."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value)
        return gathered

    def on_first(self, work: Callable[[], Result]) -> Result:
        """What `work` gives on the first process, handed to all; its error is raised on all, so that none waits.

        Raises:
            InputError, ParsitError: as the first process raised it.
        """
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = work()
            except (ParsitError, OSError) as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def barrier(self) -> None:
        """Wait until all processes have come here."""
        if self.size > 1:
            dist.barrier(device_ids=[self.local_rank] if self.device.type == "cuda" else None)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The shard of a tensor that this process holds, or the tensor itself where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def data_size(processes: int, tp: int) -> int:
    """In how many ways the data is dealt out: `tp` neighbouring processes each read the same batches.

    Raises:
        UsageError: the last of the groups would not be whole.
    """
    if processes % tp:
        raise UsageError(
            f"--tp {tp} with {processes} process{'es' * (processes > 1)}: each matrix is cut over {tp} of them; "
            f"start {tp}, or a multiple of it (--num_processes)"
        )
    return processes // tp


def place_in_environment() -> tuple[int, int, int] | None:
    """(rank, size, local rank) that a launcher set; None: nobody did.

    Under srun, `MASTER_ADDR` and `MASTER_PORT` are filled in where they are missing: the job's first host, and a port
    from the job's number.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        return rank, size, int(os.environ.get("LOCAL_RANK", rank))
    # An interactive shell inside an allocation has SLURM_PROCID as well; a step of one task is simply alone.
    if (
        int(os.environ.get("SLURM_STEP_NUM_TASKS", os.environ.get("SLURM_NTASKS", 1))) > 1
        and "SLURM_PROCID" in os.environ
    ):
        rank = int(os.environ["SLURM_PROCID"])
        size = int(os.environ.get("SLURM_STEP_NUM_TASKS", os.environ["SLURM_NTASKS"]))
        if "MASTER_ADDR" not in os.environ:
            names = subprocess.run(
                ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            os.environ["MASTER_ADDR"] = names.stdout.split()[0]
        os.environ.setdefault("MASTER_PORT", str(20_000 + int(os.environ.get("SLURM_JOB_ID", 0)) % 20_000))
        return rank, size, int(os.environ.get("SLURM_LOCALID", 0))
    return None


def join(timeout_s: float = 1800) -> World:
    """Join the other processes, if there are any.

    Args:
        timeout_s: how long processes wait for each other, now and in each exchange (`--ddp_timeout`).

    Raises:
        InputError: more processes on this machine than GPUs.
        ParsitError: the others did not come in time, or another program has the port where they are to meet.
    """
    cuda = torch.cuda.is_available()
    place = place_in_environment()
    if place is None:
        return World(device=torch.device("cuda", 0) if cuda else torch.device("cpu"))
    rank, size, local_rank = place
    if cuda and local_rank >= torch.cuda.device_count():
        raise InputError(
            f"process {local_rank} of this machine has no GPU, there are {torch.cuda.device_count()}: "
            "start one process for each"
        )
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        os.environ.setdefault("RANK", str(rank))
        os.environ.setdefault("WORLD_SIZE", str(size))
        os.environ.setdefault("LOCAL_RANK", str(local_rank))
        _meet("nccl" if cuda else "gloo", rank, size, timedelta(seconds=timeout_s))
    return World(rank, size, local_rank, device)


def _meet(backend: str, rank: int, size: int, timeout: timedelta) -> None:
    """Make the group of all processes.

    Groups of some of them are made later, by tensor parallelism and DeepSpeed, who do not say how long to wait: they
    take torch's defaults, which are set here.
    """
    for default in ("default_pg_timeout", "default_pg_nccl_timeout"):
        setattr(dist.distributed_c10d, default, timeout)
    try:
        dist.init_process_group(backend, timeout=timeout)
    except (dist.DistStoreError, dist.DistNetworkError) as error:  # a missing second process; a missing first one
        if "EADDRINUSE" in str(error):
            raise ParsitError(
                f"process {rank} of {size}: port {os.environ['MASTER_PORT']} is taken by another program, perhaps a "
                "run on this machine: set MASTER_PORT to another one for all processes"
            ) from error
        if isinstance(error, dist.DistNetworkError) and "timed out" not in str(error):
            raise  # one that was there is gone
        raise ParsitError(
            f"process {rank} of {size}: the others did not come within {timeout.total_seconds():g} s: was each of them "
            "started, and can they reach MASTER_ADDR and MASTER_PORT? (--ddp_timeout)"
        ) from error


def leave() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()

"""Runs a training job, kills it at random moments, starts it again, and lets it end at last.

    job_server.py JOB.json

A job is {"flags", "processes", "kills", "seed"}. Lives are forked from here, which has imported everything and computes
nothing: each costs what its own steps cost. A life is killed when its record has grown by some steps and a moment more,
or within its start; alternately the process alone and its whole group, data workers and all. Of two processes one is
killed, and the other must end by itself. Prints how many lives there were and the longest that a process outlived the
other, as JSON; without those whose first process was killed before it could be met: who starts processes ends the
second then (`parsit.cli.launch`), and here nobody does.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from transformers.utils.logging import disable_progress_bar

from parsit.cli.launch import is_peer_lost
from parsit.config import TrainConfig
from parsit.train.fit import run
from parsit.train.world import join
from parsit.types import ParsitError

DEADLINE_S = 600
NEVER_MET = 4  # exit code


def begin(job: dict, rank: int, port: int) -> int:
    """Fork a process of a life."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    if job["processes"] > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["processes"], "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"})
    code = 1
    try:
        torch.set_num_threads(1)
        run(TrainConfig(**job["flags"]), join(timeout_s=120))
        code = 0
    except RuntimeError as error:
        if not is_peer_lost(error):
            traceback.print_exc()
            code = 3
    except ParsitError:
        traceback.print_exc()
        code = 3 if dist.is_initialized() else NEVER_MET
    except BaseException:
        traceback.print_exc()
        code = 3
    os._exit(code)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def wait_for_moment(chance: random.Random, metrics: Path, pid: int) -> bool:
    """Wait until the life is to be killed; False: it ended before."""
    if chance.random() < 0.2:
        time.sleep(chance.random())
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    wanted = size_of(metrics) + chance.randrange(1, 9) * 300
    while size_of(metrics) < wanted:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    time.sleep(chance.random() * 0.1)
    return os.waitpid(pid, os.WNOHANG)[0] == 0


def ended(pid: int) -> int:
    """The exit code of a process that ends by itself."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    raise SystemExit(f"process {pid} did not end in {DEADLINE_S} s")


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    disable_progress_bar()
    chance = random.Random(job["seed"])
    metrics = Path(job["flags"]["output_dir"]) / "metrics.jsonl"
    kills, longest_s = 0, 0.0
    while kills < job["kills"]:
        port = free_port()
        life = [begin(job, rank, port) for rank in range(job["processes"])]
        victim = life.pop(chance.randrange(len(life)))
        if not wait_for_moment(chance, metrics, victim):
            raise SystemExit(f"the job ended after {kills} kills: more steps are needed, or it failed")
        (os.killpg if kills % 2 else os.kill)(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        kills += 1
        killed_at = time.monotonic()
        for other in life:
            code = ended(other)
            if code == NEVER_MET:
                continue
            if code not in (1, -signal.SIGABRT):
                raise SystemExit("the process that was left did not end because of the other")
            longest_s = max(longest_s, time.monotonic() - killed_at)
    port = free_port()
    last = [begin(job, rank, port) for rank in range(job["processes"])]
    codes = [ended(pid) for pid in last]
    print(json.dumps({"kills": kills, "codes": codes, "longest_s": longest_s}))


if __name__ == "__main__":
    main()

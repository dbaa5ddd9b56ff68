"""Start the processes of a distributed test, and stop them all where one hangs or fails."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

WORKER = Path(__file__).with_name("dist_worker.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_job(job: dict, folder: Path, world_size: int, timeout_s: float) -> dict[str, list[dict]]:
    """What each run's ranks saw, by run name. Fails with the processes' output where one fails or time runs out."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"job-{world_size}.json"
    path.write_text(json.dumps(job))
    port = str(free_port())
    processes = []
    for rank in range(world_size):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if world_size > 1:
            environment |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank),
                            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
        log = (folder / f"log-{world_size}-{rank}.txt").open("wb")
        command = [sys.executable, str(WORKER), str(path)]
        processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    deadline = time.monotonic() + timeout_s
    try:
        while any(process.poll() is None for process in processes):
            failed = [process for process in processes if process.poll() not in (None, 0)]
            if failed or time.monotonic() > deadline:
                break
            time.sleep(0.1)
    finally:
        codes = [process.poll() for process in processes]
        for process in processes:
            process.kill()
            process.wait()
    logs = "\n".join((folder / f"log-{world_size}-{rank}.txt").read_text()[-3000:] for rank in range(world_size))
    assert codes == [0] * world_size, f"codes {codes} (None: hung for {timeout_s} s)\n{logs}"
    out = Path(job["out"])
    return {
        run["name"]: [json.loads((out / f"{run['name']}-{rank}.json").read_text()) for rank in range(world_size)]
        for run in job["runs"]
    }

"""The pile of benchmarks/pile.py on a local Ray cluster of three nodes, one of them killed, against one process.

    python benchmarks/pile.py --pdfs FOLDER --model MODEL
    python benchmarks/pile_cluster.py --model MODEL

The head has one processor, which is Ray's; the two others have an actor's worth each. When the given share of the
records is there, one of these is killed without warning.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from pile import BUILD

OUT = BUILD / "out-cluster"
# Beside other programs a node takes minutes to start; Ray gives it one.
PATIENCE = {"raylet_start_wait_time_s": 900, "gcs_server_request_timeout_seconds": 600}
PATIENCE |= {"worker_register_timeout_seconds": 600, "health_check_timeout_ms": 60_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--max_new_tokens", type=int, default=8)
    parser.add_argument("--kill_at", type=float, default=0.3, help="share of the records at which a node is killed")
    arguments = parser.parse_args()
    os.environ |= {f"RAY_{name}": str(value) for name, value in PATIENCE.items()} | {"RAY_USAGE_STATS_ENABLED": "0"}
    from ray.cluster_utils import Cluster

    local = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    victim, _ = [local.add_node(num_cpus=2) for _ in range(2)]
    shutil.rmtree(OUT, ignore_errors=True)
    pile = BUILD / f"files-{arguments.files}"
    command = [sys.executable, "-m", "parsit.cli", "parse", str(pile), "--model", arguments.model, "--out", str(OUT)]
    command += ["--pages", "1", "--dpi", "72", "--max_new_tokens", str(arguments.max_new_tokens)]
    command += ["--ray", local.address, "--actors", "2"]
    started, is_killed = time.monotonic(), False
    process = subprocess.Popen(command)
    while process.poll() is None:
        time.sleep(2)
        if not is_killed and OUT.exists() and len(records_of(OUT)) >= arguments.kill_at * arguments.files:
            print(f"a node is killed with {len(records_of(OUT))} records there", flush=True)
            local.remove_node(victim, allow_graceful=False)
            is_killed = True
    print(f"exit code {process.returncode}, {time.monotonic() - started:.0f} s, killed: {is_killed}")
    compare(records_of(BUILD / "out"), records_of(OUT))
    local.shutdown()


def records_of(out: Path) -> list[dict]:
    """The records of the only set below a folder."""
    (found,) = out.iterdir()
    parts = sorted((found / "readings").glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text(encoding="utf-8").splitlines()[1:]]


def compare(one: list[dict], many: list[dict]) -> None:
    """Whether both have the same keys, each once, and the same texts and failures."""
    first, second = ({record["key"]: record for record in records} for records in (one, many))
    print(f"one process: {len(one)} records, {len(first)} keys; cluster: {len(many)} records, {len(second)} keys")
    print(f"keys in one of them alone: {len(first.keys() ^ second.keys())}")
    for field in ("text", "error", "flags"):
        differ = sum(first[key][field] != second[key][field] for key in first.keys() & second.keys())
        print(f"records that differ in {field}: {differ}")


if __name__ == "__main__":
    main()

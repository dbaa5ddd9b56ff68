"""How long a run takes to get its weights, and how much memory, with one process and with several.

    python benchmarks/read_weights.py [--processes 1,2] [--size base]

Parts of the true kinds are written with random weights: a whole SigLIP2 with its text tower (fp32, as it is published)
and a SmolLM2-135M (bf16). Then each number of processes prepares the same run. Prints a table and writes
benchmarks/results/read_weights.json. Seconds are the slowest process's, from its start to a model that can be trained;
CPU seconds are all processes' together, and hold on a busy machine too; memory is each process's own peak (VmHWM).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "read_weights.json"
VISION = {"base": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
                   "image_size": 384, "patch_size": 16},
          "mini": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
                   "image_size": 32, "patch_size": 8}}  # fmt: skip
TEXT = {"base": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
                 "vocab_size": 256_000},
        "mini": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "vocab_size": 1000}}  # fmt: skip


def make_parts(folder: Path, size: str) -> None:
    """A SigLIP2 in `tower`, a decoder with a tokenizer in `decoder`, and a data file."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, SiglipConfig, SiglipModel

    from parsit import hf
    from parsit.config import load_architecture

    torch.manual_seed(0)
    SiglipModel(SiglipConfig(vision_config=VISION[size], text_config=TEXT[size])).save_pretrained(folder / "tower")
    shape = load_architecture("smol" if size == "base" else "tiny").text_config
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape)).bfloat16().save_pretrained(folder / "decoder")
    hf.shipped_tokenizer("tiny").save_pretrained(folder / "decoder")
    turns = [{"from": "human", "value": "What is one?"}, {"from": "gpt", "value": "one"}]
    (folder / "d.jsonl").write_text(json.dumps({"id": "1", "conversations": turns}) + "\n")


def one_process(folder: Path) -> None:
    """Prepare the run as one of its processes; a line of JSON for the parent."""
    import hashlib

    import torch

    from parsit.config import TrainConfig
    from parsit.train.prepare import prepare
    from parsit.train.world import join, leave

    torch.set_num_threads(1)
    world = join()
    config = TrainConfig(architecture="smol", vision_tower=str(folder / "tower"), output_dir=str(folder / "run"),
                         model_name_or_path=str(folder / "decoder"), data=[str(folder / "d.jsonl")])  # fmt: skip
    world.barrier()
    used, started = time.process_time(), time.perf_counter()
    model = prepare(config, world, dry=True).model
    seconds, used = time.perf_counter() - started, time.process_time() - used
    digest = hashlib.sha256()
    for _, parameter in sorted(model.named_parameters()):
        digest.update(parameter.detach().numpy().tobytes())
    for _, buffer in sorted(model.named_buffers()):
        digest.update(buffer.numpy().tobytes())
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "cpu_seconds": used, "peak_bytes": int(peak.split()[1]) * 1024,
                      "digest": digest.hexdigest()}), flush=True)  # fmt: skip
    leave()


def run(folder: Path, processes: int) -> dict[str, object]:
    """Prepare the run in so many processes at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, __file__, "--process", str(folder)]
    place = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"}
    running = [
        subprocess.Popen(command, env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                         stdout=subprocess.PIPE, text=True)
        for rank in range(processes)
    ]  # fmt: skip
    told = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
    assert len({one["digest"] for one in told}) == 1, "all processes hold the same weights"
    return {
        "processes": processes,
        "seconds": max(one["seconds"] for one in told),
        "cpu_seconds": sum(one["cpu_seconds"] for one in told),
        "peak_bytes": max(one["peak_bytes"] for one in told),
        "all_peaks_bytes": sum(one["peak_bytes"] for one in told),
        "digest": told[0]["digest"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", default="1,2", help="numbers of processes, by commas")
    parser.add_argument("--size", choices=list(VISION), default="base", help="mini: to see that it works")
    parser.add_argument("--process", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        one_process(options.process)
        return
    with tempfile.TemporaryDirectory() as folder:
        make_parts(Path(folder), options.size)
        rows = [run(Path(folder), int(count)) for count in options.processes.split(",")]
    print("| processes | seconds | CPU seconds | fullest process | together | weights |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        times = f"{row['seconds']:.1f} | {row['cpu_seconds']:.1f}"
        sizes = " | ".join(f"{row[name] / 1e9:.2f} GB" for name in ("peak_bytes", "all_peaks_bytes"))
        print(f"| {row['processes']} | {times} | {sizes} | {row['digest'][:12]} |")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

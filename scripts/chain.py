"""All stages on `tiny`, on a laptop: from scratch, pretrain, finetune, LoRA, export, each scored; by two processes with
ZeRO-3.

    make chain              (python scripts/chain.py [--out DIR] [--processes 2] [--deepspeed scripts/zero3.json])

Makes line crops, runs the stages with few steps, and scores every stage with `parsit eval` on held-out crops. So few
steps do not teach letters: what falls from stage to stage is the nats per token of the true answers. Prints the table,
and exits with 1 where a stage did not lower them, or the exported model scores otherwise than its adapters.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Stage, steps, flags. AdamW, because Muon's whole matrices do not go with ZeRO. A few steps from scratch stand for
# pretrained towers, so the third stage gets the glyph loss and the learning rate of training from scratch as well.
STAGES = (
    ("scratch", 40, ["--optim", "adamw"]),
    ("pretrain", 40, []),
    ("finetune", 100, ["--optim", "adamw", "--learning_rate", "3e-3", "--glyph_loss_weight", "1.0"]),
    ("lora", 200, ["--lora_r", "32", "--lora_alpha", "32", "--lora_targets_vision", "all-linear"]),
)


def parsit(*arguments: object) -> None:
    command = [sys.executable, "-m", "parsit.cli", *map(str, arguments)]
    print("$ parsit " + " ".join(map(str, arguments)), flush=True)
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def score(model: Path, data: Path, out: Path) -> dict[str, float]:
    parsit("eval", model, "--data", data / "test.jsonl", "--out", out, "--nats", "--max_new_tokens", 24)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return {"cer": results["summary"]["normalized"]["cer"]["value"], "nats": results["about"]["nats_per_token"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "chain")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--deepspeed", type=Path, default=ROOT / "scripts" / "zero3.json")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    data = options.out / "data"
    parsit("data", "synth", "--out", data, "--unit", "line", "--pages", 200, "--seed", 11, "--test_fraction", 0.05)
    scores, start = {}, None
    for stage, steps, flags in STAGES:
        run = options.out / stage
        command = ["train", f"tiny/{stage}", "--data", data / "train.jsonl", "--output_dir", run, "--max_steps", steps]
        command += ["--num_processes", options.processes, "--deepspeed", options.deepspeed, *flags]
        command += ["--per_device_train_batch_size", 16 // options.processes, "--save_steps", steps]
        command += ["--logging_steps", 20]
        parsit(*command, *(["--model_name_or_path", start] if start else []))
        scores[stage] = score(run, data, run / "eval")
        start = run
    parsit("export", start, "--out", options.out / "exported")
    scores["exported"] = score(options.out / "exported", data, options.out / "exported-eval")
    print(f"\n{'stage':<10}{'nats per token':>16}{'CER':>8}")
    for name, values in scores.items():
        print(f"{name:<10}{values['nats']:>16.3f}{values['cer']:>8.3f}")
    nats = [scores[stage]["nats"] for stage, _, _ in STAGES[1:]]  # the first makes what the others begin with
    improved = all(later < earlier for earlier, later in pairwise(nats))
    same = abs(scores["exported"]["nats"] - scores["lora"]["nats"]) < 1e-4
    print("each stage is better than the one before" if improved else "a stage is NOT better than the one before")
    print("the exported model scores as its adapters do" if same else "the exported model scores OTHERWISE")
    return 0 if improved and same else 1


if __name__ == "__main__":
    sys.exit(main())

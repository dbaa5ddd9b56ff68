"""How fast a small model learns to read, under changes of its architecture and of the training flags.

    python benchmarks/from_scratch.py --data DIR --samples 14000 \
        vision_config.patch_size=16 text_config.num_hidden_layers=4 train.optim=adamw

DIR holds train.jsonl and validation.jsonl of `parsit data synth --unit line`. Starts from the `tiny` preset; each
KEY=VALUE changes one value of its architecture (`vision_config.`, `text_config.`, `multimodal.`) or of its training
preset (`train.`). Prints a line every 100 steps: mean losses since the last line, samples per second of processor
time, and every 500 steps the CER on 256 held-out crops.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import yaml

from parsit import hf
from parsit.config import Architecture, TrainConfig, load_architecture, load_preset
from parsit.data.dataset import in_memory
from parsit.data.files import read_files
from parsit.data.loader import Loader
from parsit.data.plan import Padded, Plan
from parsit.parse.engine import ModelEngine
from parsit.processing.processor import ParsitProcessor
from parsit.scores import corpus_cer
from parsit.train.objective import Objective, StepCounts
from parsit.train.optimizer import learning_rate_factor
from parsit.train.strategies.base import Strategy
from parsit.train.world import World
from parsit.types import Sample

EVALUATED = 256


def changed(changes: list[str]) -> tuple[Architecture, dict]:
    """The tiny preset's architecture and training values with the changes made."""
    architecture, values = load_architecture("tiny"), load_preset("tiny/scratch")
    parts = {name: dict(getattr(architecture, name)) for name in ("vision_config", "text_config", "multimodal")}
    parts["train"] = values
    for change in changes:
        key, value = change.split("=", 1)
        part, name = key.split(".")
        parts[part][name] = yaml.safe_load(value) if name != "bf16" else value
    values = parts.pop("train")
    return replace(architecture, **parts), values


def cer(engine: ModelEngine, samples: list[Sample]) -> float:
    """Corpus CER of greedy readings."""
    readings = engine.generate([sample.turns[:-1] for sample in samples], max_new_tokens=24)
    return corpus_cer([sample.turns[-1].text for sample in samples], [reading.text for reading in readings])


def run(data: Path, count: int, architecture: Architecture, values: dict) -> None:
    """Train on the first `count` samples once and print what is learnt."""
    processor: ParsitProcessor = hf.new_processor(architecture)
    samples = read_files([data / "train.jsonl"])[:count]
    held_out = read_files([data / "validation.jsonl"])[:EVALUATED]
    config = TrainConfig(**values)
    data_set = in_memory(samples, processor, config.model_max_length)
    batch_size = config.per_device_train_batch_size
    plan = Plan(Padded(data_set.num_tokens, data_set.num_tiles, batch_size, config.seed), 1)
    model = hf.new_model(architecture, processor, config.seed)
    objective = Objective(model, config.glyph_loss_weight).train()
    strategy = Strategy(objective, config, World())
    engine = ModelEngine(model, processor, batch_size=64)
    total = plan.steps_per_epoch
    print(f"{model.num_parameters():,} parameters, {data_set.num_tokens.mean():.1f} tokens a sample, {total} steps")
    seen, busy, language, glyph = 0, 0.0, [], []
    objective.train()
    for step, (loaded,) in enumerate(Loader(data_set, processor, plan, total, with_glyphs=True)):
        batch = loaded.batch
        started = time.process_time()
        losses = strategy.backward(batch, StepCounts.of([batch]), last=True)
        strategy.update(learning_rate_factor(step, total, config), lambda norm: None)
        busy += time.process_time() - started
        seen += batch.num_samples
        language.append(float(losses.language))
        glyph.append(float(losses.glyph) if losses.glyph is not None else 0.0)
        if (step + 1) % 100 == 0 or step + 1 == total:
            line = f"step {step + 1}  samples {seen}  loss {sum(language) / len(language):.3f}"
            line += f"  glyph {sum(glyph) / len(glyph):.3f}  {seen / busy:.0f} samples per processor second"
            language, glyph = [], []
            if (step + 1) % 500 == 0 or step + 1 == total:
                objective.eval()
                line += f"  CER {cer(engine, held_out):.3f}"
                objective.train()
            print(line, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=14000)
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    run(arguments.data, arguments.samples, *changed(arguments.changes))

"""How fast a small model learns to read, under changes of its architecture and of the training flags.

    python benchmarks/from_scratch.py --data DIR --samples 14000 \
        vision_config.patch_size=16 text_config.num_hidden_layers=4 train.optim=adamw
    python benchmarks/from_scratch.py --data DIR --peer ctc --processor_seconds 300 --save ctc.safetensors

Each DIR holds train.jsonl and validation.jsonl of `parsit data synth --unit line`. Starts from the `tiny` preset; each
KEY=VALUE changes one value of its architecture (`vision_config.`, `text_config.`, `multimodal.`) or of its training
preset (`train.`). Prints a line every 100 steps: mean losses since the last line, samples per second of processor
time, and every 500 steps the CER on 256 held-out crops and how many of them are right to the character. With
`--peer ctc` a classical reader (benchmarks/ctc_peer.py) learns from the same crops, over and over until as many seconds
of the processor are spent as the line before the last says that `tiny` took; benchmarks/quality.py reads with what
`--save` keeps of it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import yaml
from ctc_peer import Peer, batch_of, shuffled, source_of

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


class Progress:
    """Prints what is learnt.

    Args:
        held_out: samples that are read now and then.
        read: their texts as the model reads them now.
    """

    def __init__(self, held_out: list[Sample], read: Callable[[list[Sample]], list[str]]) -> None:
        self.busy_s = 0.0
        self._held_out, self._read = held_out, read
        self._step, self._seen = 0, 0
        self._losses: dict[str, list[float]] = {}

    def add(self, num_samples: int, seconds: float, is_last: bool, **losses: float) -> None:
        """Count a step; a line every 100, with a reading every 500 and at the end."""
        self._step, self._seen, self.busy_s = self._step + 1, self._seen + num_samples, self.busy_s + seconds
        for name, loss in losses.items():
            self._losses.setdefault(name, []).append(loss)
        if self._step % 100 and not is_last:
            return
        parts = [f"step {self._step}", f"samples {self._seen}"]
        parts += [f"{name} {sum(values) / len(values):.3f}" for name, values in self._losses.items()]
        parts.append(f"{self._seen / self.busy_s:.0f} samples per processor second")
        self._losses = {}
        if self._step % 500 == 0 or is_last:
            parts.append(self._score())
        print("  ".join(parts), flush=True)
        if is_last:
            print(f"{self.busy_s:.0f} processor seconds of training", flush=True)

    def _score(self) -> str:
        texts, found = [sample.turns[-1].text for sample in self._held_out], self._read(self._held_out)
        exact = sum(text == read for text, read in zip(texts, found, strict=True))
        return f"CER {corpus_cer(texts, found):.3f}  exact {exact / len(texts):.3f}"


def run(samples: list[Sample], held_out: list[Sample], architecture: Architecture, values: dict) -> None:
    """Train on the samples once and print what is learnt."""
    processor: ParsitProcessor = hf.new_processor(architecture)
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

    def read(asked: list[Sample]) -> list[str]:
        objective.eval()
        answers = engine.generate([sample.turns[:-1] for sample in asked], max_new_tokens=24)
        objective.train()
        return [answer.text for answer in answers]

    progress = Progress(held_out, read)
    objective.train()
    for step, (loaded,) in enumerate(Loader(data_set, processor, plan, total, with_glyphs=True)):
        batch = loaded.batch
        started = time.process_time()
        losses = strategy.backward(batch, StepCounts.of([batch]), last=True)
        strategy.update(learning_rate_factor(step, total, config), lambda norm: None)
        seconds = time.process_time() - started
        glyph = float(losses.glyph) if losses.glyph is not None else 0.0
        progress.add(batch.num_samples, seconds, step + 1 == total, loss=float(losses.language), glyph=glyph)


def run_ctc(samples: list[Sample], held_out: list[Sample], config: TrainConfig, processor_s: float) -> Peer:
    """The same for the classical reader, which learns until its time is spent."""
    peer = Peer.for_samples(samples, config.seed)
    print(f"{peer.num_parameters:,} parameters, {len(peer.characters)} characters")
    progress = Progress(held_out, lambda asked: peer.read([source_of(sample) for sample in asked]))
    for batch in shuffled(samples, config.seed):
        lines = batch_of([source_of(sample) for sample in batch])
        started = time.process_time()
        share = round(1000 * progress.busy_s / processor_s)
        loss = peer.step(batch, lines, learning_rate_factor(share, 1000, config))
        seconds = time.process_time() - started
        is_last = progress.busy_s + seconds >= processor_s
        progress.add(len(batch), seconds, is_last, loss=loss)
        if is_last:
            break
    return peer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--samples", type=int, default=14000, help="of each DIR; 0: all")
    parser.add_argument("--peer", choices=["ctc"], help="train this instead of a model of ours")
    parser.add_argument("--processor_seconds", type=float, default=300.0, help="of the peer's training")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the peer (safetensors)")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    samples = [
        sample for data in options.data for sample in read_files([data / "train.jsonl"])[: options.samples or None]
    ]
    share = -(-EVALUATED // len(options.data))
    held_out = [sample for data in options.data for sample in read_files([data / "validation.jsonl"])[:share]]
    architecture, values = changed(options.changes)
    if options.peer:
        peer = run_ctc(samples, held_out, TrainConfig(**values), options.processor_seconds)
        if options.save:
            peer.save(options.save)
    else:
        run(samples, held_out, architecture, values)


if __name__ == "__main__":
    main()

"""Train parsit-tiny's tokenizer: byte-level BPE of 4,096 tokens with ChatML's, on synthetic documents.

    parsit data synth --out corpus --pages 2000 --seed 1000 --tasks read,fields,qa
    python scripts/train_tokenizer.py corpus/train.jsonl src/parsit/processing/tokenizers/tiny.json

Digits stay single, as in Qwen's tokenizer, so that a number is read digit by digit. The result is a
pure function of the corpus.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 4096
SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
]
# Words with a leading space or punctuation mark, single digits, runs of punctuation, white space.
PIECES = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def texts(path: Path) -> Iterator[str]:
    """Every turn's text of a file in the native format."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            for turn in json.loads(line)["conversations"]:
                yield turn["value"]


def train(path: Path) -> Tokenizer:
    """The tokenizer for the texts of a file."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(path), trainer)
    return tokenizer


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    trained = train(Path(sys.argv[1]))
    trained.save(sys.argv[2])
    print(f"{sys.argv[2]}: {trained.get_vocab_size()} tokens")

"""Train a small model's tokenizer: byte-level BPE with ChatML's tokens.

    parsit data synth --out corpus --pages 2000 --seed 1000 --tasks read,fields,qa
    python scripts/train_tokenizer.py corpus/train.jsonl src/parsit/processing/tokenizers/words.json
    python scripts/train_tokenizer.py --characters src/parsit/processing/tokenizers/characters.json

Of a file of records come 4,096 tokens, words for the most part; digits stay single, as in Qwen's tokenizer, so that a
number is read digit by digit. With `--characters` every character that the glyph loss knows is one token, whatever
stands beside it, any other one its bytes, and so are the words that every conversation has. A model that reads then
writes down what it sees, letter by letter, instead of the words that it has met. The result is a pure function of the
corpus.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from parsit.processing.glyphs import GLYPHS
from parsit.synth.records import LINE_PROMPT

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


# What a conversation about one image always says, as the processor hands it over; each is one token.
FIXED = ("user\n", "assistant\n", f"\n{LINE_PROMPT}")
FIXED_PIECES = "|".join(text.replace("\n", "\\n").replace(".", "\\.") for text in FIXED)
CHARACTERS = rf"\A(?:{FIXED_PIECES})\z|[\s\S]"


def train(corpus: Iterable[str], pieces: str, vocabulary: int) -> Tokenizer:
    """The tokenizer for some texts, no token of which goes beyond one of the `pieces`."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pieces), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    if sys.argv[1] == "--characters":
        trained = train([*FIXED, *GLYPHS], CHARACTERS, 512)
    else:
        trained = train(texts(Path(sys.argv[1])), PIECES, VOCABULARY)
    trained.save(sys.argv[2])
    print(f"{sys.argv[2]}: {trained.get_vocab_size()} tokens")

"""Pretrained parts for tests: small random weights of the true architectures, in folders, with a tokenizer each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

TEXT = [f"Invoice {number}, total {number * 37 % 1000}.{number:02} EUR\nassistant user Read." for number in range(200)]
SMALL_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "max_position_embeddings": 1024}  # fmt: skip
SMALL_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
                "image_size": 32, "patch_size": 8}  # fmt: skip


def bpe_tokenizer(special: list[str], bos: str | None = None, **roles: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, trained here, as Llama 3's and SmolLM2's are.

    Args:
        special: its special tokens.
        bos: the one that it puts before every text.
        roles: `eos_token`, `pad_token`, ….
    """
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    if bos:
        pair = (bos, raw.token_to_id(bos))
        raw.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[pair])
        roles["bos_token"] = bos
    return PreTrainedTokenizerFast(tokenizer_object=raw, **roles)


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer as Llama 2's: spaces are letters, unknown letters bytes; `<s>` before every text, `</s>` behind."""
    raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    raw.decoder = decoders.Sequence(steps)
    special = ["<unk>", "<s>", "</s>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    raw.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=700, special_tokens=tokens))
    values = json.loads(raw.to_str())
    values["added_tokens"] = values["added_tokens"][: len(special)]  # bytes are no special tokens
    raw = Tokenizer.from_str(json.dumps(values))
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def save_decoder(folder: Path, kind: str, tokenizer: PreTrainedTokenizerFast, **changes: Any) -> Any:
    """A decoder of a model type with random weights, saved in `folder` with its tokenizer."""
    values = SMALL_TEXT | {"vocab_size": len(tokenizer)} | changes
    config = AutoConfig.for_model(kind, **values)
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config).eval()
    _spread(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def save_tower(folder: Path, whole: bool = False, **changes: Any) -> None:
    """A SigLIP tower with random weights, saved in `folder`; `whole`: with its text tower, as most on the Hub."""
    vision = SMALL_VISION | changes
    torch.manual_seed(4)
    if whole:
        text = {key: SMALL_TEXT[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")}
        text |= {"num_attention_heads": 4, "vocab_size": 50}
        model: Any = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    else:
        model = SiglipVisionModel(SiglipVisionConfig(**vision))
    _spread(model)
    model.save_pretrained(folder)


def _spread(model: torch.nn.Module) -> None:
    """Weights far from where they are drawn: biases are no zeros, and attention is no mean."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
            elif parameter.ndim > 1:
                parameter.mul_(4)

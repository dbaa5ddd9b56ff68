"""A training step of nanoVLM on the shapes of train_step.py, from a checkout that is named and never copied.

Its model, loss, optimizer and clipping as its own train.py has them. Its `data` package, which is there for tokenizer
and images, and needs torchvision, is stood in for: the model asks it for the id of the image token alone.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F


def nanovlm_step(
    checkout: Path,
    vision: dict[str, Any],
    text: dict[str, Any],
    shuffle: int,
    image_token: int,
    bf16: bool,
) -> Callable[..., None]:
    """A function that takes one step on `(input_ids, labels, pixel_values)`; whole model compiled (torch.compile).

    Args:
        checkout: a clone of github.com/huggingface/nanoVLM.
        vision: SigLIP's shapes, as its configuration names them.
        text: Llama's shapes.
        shuffle: the factor of the pixel shuffle.
        image_token: its id.
        bf16: compute under autocast.
    """
    _stand_in_for_data(image_token)
    sys.path.insert(0, str(checkout))
    from models.config import VLMConfig  # type: ignore[import-not-found]  (of the checkout)
    from models.vision_language_model import VisionLanguageModel  # type: ignore[import-not-found]

    side = vision["image_size"] // vision["patch_size"] // shuffle
    config = VLMConfig(
        vit_hidden_dim=vision["hidden_size"], vit_inter_dim=vision["intermediate_size"],
        vit_patch_size=vision["patch_size"], vit_img_size=vision["image_size"],
        vit_n_heads=vision["num_attention_heads"], vit_n_blocks=vision["num_hidden_layers"],
        lm_hidden_dim=text["hidden_size"], lm_inter_dim=text["intermediate_size"], lm_vocab_size=text["vocab_size"],
        lm_n_heads=text["num_attention_heads"], lm_n_kv_heads=text["num_key_value_heads"],
        lm_n_blocks=text["num_hidden_layers"], lm_max_position_embeddings=text["max_position_embeddings"],
        mp_pixel_shuffle_factor=shuffle, mp_image_token_length=side**2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = VisionLanguageModel(config, load_backbone=False).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    compiled = torch.compile(model)

    def step(input_ids: torch.Tensor, labels: torch.Tensor, pixel_values: torch.Tensor) -> None:
        targets = F.pad(labels[:, 1:], (0, 1), value=-100)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            _, loss = compiled(input_ids, pixel_values, attention_mask=torch.ones_like(input_ids), targets=targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _stand_in_for_data(image_token: int) -> None:
    data, processors = types.ModuleType("data"), types.ModuleType("data.processors")
    tokenizer = types.SimpleNamespace(image_token_id=image_token)
    processors.get_tokenizer = lambda *_: tokenizer  # type: ignore[attr-defined]  (a module is any namespace)
    sys.modules |= {"data": data, "data.processors": processors}

"""`lm_head` in chunks: the loss and gradients of a plain cross-entropy, without its memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from parsit import hf
from parsit.model import head as head_module
from parsit.model.head import SupervisedHead
from parsit.processing.collate import Batch, collate
from parsit.processing.processor import ParsitProcessor
from parsit.types import ImageRef, Turn

POSITIONS, WIDTH, VOCABULARY = 23, 16, 97


def parts(bias: bool) -> tuple[SupervisedHead, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(POSITIONS, WIDTH, requires_grad=True)
    return SupervisedHead(WIDTH, VOCABULARY, bias=bias), hidden, torch.randint(VOCABULARY, (POSITIONS,))


@pytest.fixture(scope="module")
def processor(mini) -> ParsitProcessor:
    return hf.new_processor(mini)


def batch_of(processor: ParsitProcessor, picture) -> Batch:
    turns = [Turn("user", (ImageRef(Image.open(picture(50, 30))), "Read.")), Turn("assistant", ("An answer",))]
    return collate([processor.encode(turns)], processor.chat_tokens.pad)


def gradients(loss: torch.Tensor, head: nn.Linear, hidden: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [hidden, *head.parameters()]))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 5, POSITIONS, 1000])
def test_any_chunks_give_the_loss_and_gradients_of_plain_cross_entropy(monkeypatch, bias, rows):
    monkeypatch.setattr(head_module, "CHUNK_BYTES", 4 * VOCABULARY * rows)
    head, hidden, targets = parts(bias)
    plain = F.cross_entropy(head(hidden), targets, reduction="sum") / 7
    chunked = head(hidden, targets=targets) / 7
    assert chunked.item() == pytest.approx(plain.item(), rel=1e-6)
    for ours, theirs in zip(gradients(chunked, head, hidden), gradients(plain, head, hidden), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_scores_that_would_overflow_without_a_shift_are_summed_right():
    head, hidden, targets = parts(bias=False)
    with torch.no_grad():
        head.weight.mul_(1e3)
    plain = F.cross_entropy(head(hidden), targets, reduction="sum")
    assert head(hidden, targets=targets).item() == pytest.approx(plain.item(), rel=1e-6)


def test_bfloat16_products_sum_over_chunks_in_single_precision(monkeypatch):
    """The gradient of the weight is off by no more than the products of one chunk are."""
    head, hidden, targets = parts(bias=False)
    hidden, targets = hidden.repeat(200, 1).detach(), targets.repeat(200)
    with torch.autocast("cpu", torch.bfloat16):
        plain = F.cross_entropy(head(hidden).float(), targets, reduction="sum")
    (expected,) = torch.autograd.grad(plain, [head.weight])
    monkeypatch.setattr(head_module, "CHUNK_BYTES", 4 * VOCABULARY * 8)
    with torch.autocast("cpu", torch.bfloat16):
        loss = head(hidden, targets=targets)
    (found,) = torch.autograd.grad(loss, [head.weight])
    assert found.dtype == torch.float32
    assert loss.item() == pytest.approx(plain.item(), rel=1e-4)
    assert ((found - expected).norm() / expected.norm()).item() < 5e-3


def test_without_positions_the_loss_is_zero_and_every_gradient_is_there():
    head, hidden, _ = parts(bias=True)
    loss = head(hidden[:0], targets=torch.zeros(0, dtype=torch.long))
    assert loss.item() == 0
    assert all(not gradient.any() for gradient in gradients(loss, head, hidden))


def test_a_frozen_head_gets_no_gradient_and_hands_one_on():
    head, hidden, targets = parts(bias=False)
    head.requires_grad_(False)
    plain = F.cross_entropy(head(hidden), targets, reduction="sum")
    (expected,) = torch.autograd.grad(plain, [hidden])
    head(hidden, targets=targets).backward()
    torch.testing.assert_close(hidden.grad, expected)
    assert head.weight.grad is None


class Rows(TorchDispatchMode):
    """The most rows that any tensor as wide as the vocabulary had."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        is_weight = isinstance(made, torch.Tensor) and made.shape == (WIDTH, VOCABULARY)
        if isinstance(made, torch.Tensor) and made.shape[-1:] == (VOCABULARY,) and not is_weight:
            self.most = max(self.most, made.numel() // VOCABULARY)
        return made


def test_scores_are_never_there_for_more_than_one_chunk(monkeypatch):
    monkeypatch.setattr(head_module, "CHUNK_BYTES", 4 * VOCABULARY * 5)
    head, hidden, targets = parts(bias=False)
    with Rows() as rows:
        head(hidden, targets=targets).backward()
    assert rows.most == 5
    with Rows() as rows:
        F.cross_entropy(head(hidden), targets, reduction="sum").backward()
    assert rows.most == POSITIONS


@pytest.mark.parametrize("supervised", [True, False])
def test_the_model_calls_its_head_once_whatever_is_supervised(mini, processor, picture, supervised):
    model = hf.new_model(mini, processor, seed=1).train()
    batch = batch_of(processor, picture)
    if not supervised:
        batch = replace(batch, labels=torch.full_like(batch.labels, -100), label_positions=batch.label_positions[:0])
    calls = []
    model.get_output_embeddings().register_forward_hook(lambda *_: calls.append(1))
    model(**batch.model_inputs()).loss.backward()
    assert calls == [1]
    gradient = model.get_output_embeddings().weight.grad
    assert gradient is not None
    assert gradient.any() == supervised


def test_the_model_keeps_its_head_and_tie_through_resizing_and_saving(mini, processor, tmp_path):
    model = hf.new_model(mini, processor, seed=1)
    model.resize_token_embeddings(4200)
    head = model.get_output_embeddings()
    assert isinstance(head, SupervisedHead)
    assert head.weight is model.get_input_embeddings().weight
    assert head.weight.shape[0] == head.out_features == 4200
    model.save_pretrained(tmp_path)
    again = hf.load_model(tmp_path)
    assert isinstance(again.get_output_embeddings(), SupervisedHead)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert torch.equal(again.get_output_embeddings().weight, head.weight)

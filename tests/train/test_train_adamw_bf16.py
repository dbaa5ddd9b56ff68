"""AdamW with bfloat16 moments and split weights: nothing of a weight is lost, and no moment stands still."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from parsit import hf
from parsit.config import TrainConfig
from parsit.train import adamw_bf16
from parsit.train.adamw_bf16 import AdamWBF16, halve, join, round_stochastically, split
from parsit.train.objective import Objective
from parsit.train.strategies.base import Strategy
from parsit.train.world import World


def some_weights() -> torch.Tensor:
    torch.manual_seed(0)
    spread = torch.randn(100_000) * 10.0 ** torch.randint(-30, 30, (100_000,))
    edges = torch.tensor([0.0, -0.0, 1.0, -1.0, 1.00390625, 1.001953125, -1.001953125, 3e38, -3e38, 1e-42, 65504.0])
    return torch.cat([spread, edges])


def test_a_split_weight_comes_together_to_the_bit():
    weights = some_weights()
    upper, lower = split(weights)
    assert (upper.dtype, lower.dtype) == (torch.bfloat16, torch.int16)
    assert torch.equal(join(upper, lower).view(torch.int32), weights.view(torch.int32))


def test_the_upper_half_is_the_nearest_bfloat16():
    weights = some_weights()[:-11]
    upper, _ = split(weights)
    # Only where the weight lies half-way may it differ from torch's rounding, to the even one.
    off = (upper != weights.bfloat16()).nonzero().flatten()
    halfway = (weights[off].view(torch.int32) & 0xFFFF) == 0x8000
    assert halfway.all()


def test_rounding_keeps_the_mean_where_rounding_to_nearest_would_not():
    value = torch.full((200_000,), 1.0 + 0.1 * 2**-7)  # a tenth of the way to the next bfloat16
    noise = torch.randint(0, 2**16, value.shape, dtype=torch.int32, generator=torch.Generator().manual_seed(1))
    rounded = round_stochastically(value, noise).float()
    assert set(rounded.tolist()) == {1.0, 1.0 + 2**-7}
    assert rounded.mean().item() == pytest.approx(value[0].item(), abs=2**-7 * 0.003)
    assert value.bfloat16().float().mean().item() == 1.0


def trained(optimizer_of, halved: bool, steps: int = 300) -> tuple[torch.Tensor, list[float]]:
    """A least-squares problem; the weights it ends with, and its losses."""
    torch.manual_seed(2)
    inputs, target = torch.randn(256, 16), torch.randn(16, 8)
    weight = nn.Parameter(torch.zeros(16, 8))
    lower = halve([weight]) if halved else {}
    optimizer = optimizer_of([{"params": [weight]}], lower)
    losses = []
    for _ in range(steps):
        # The products are in fp32, so that what differs is the optimizer alone.
        loss = (inputs @ weight.float() - inputs @ target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    whole = join(weight.data, lower[weight]) if halved else weight.data
    return whole, losses


@pytest.mark.parametrize("halved", [False, True])
def test_it_learns_what_adamw_learns(halved):
    def plain(groups, lower):
        return torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.01)

    def ours(groups, lower):
        return AdamWBF16(groups, lr=1e-2, weight_decay=0.01, lower_halves=lower)

    expected, losses = trained(plain, halved=False)
    found, our_losses = trained(ours, halved)
    assert our_losses[0] == losses[0]
    assert our_losses[100] == pytest.approx(losses[100], rel=0.03)
    assert (found - expected).abs().max().item() < 0.02


def test_the_first_step_is_adamws_but_for_the_last_bit():
    """Moments are rounded after they were used."""
    torch.manual_seed(3)
    start, gradient = torch.randn(1000), torch.randn(1000)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    ours.grad = theirs.grad = gradient
    AdamWBF16([{"params": [ours]}], lr=0.1, weight_decay=0.1).step()
    torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.1).step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_small_updates_and_a_slow_second_moment_do_not_stand_still():
    """Each update is a hundredth of the weight's bfloat16 spacing, each change of the moment a quarter of its own."""
    weight = nn.Parameter(torch.ones(64))
    lower = halve([weight])
    optimizer = AdamWBF16([{"params": [weight]}], lr=2**-7 / 100, lower_halves=lower)
    for _ in range(400):
        weight.grad = torch.ones(64, dtype=torch.bfloat16)
        optimizer.step()
    assert join(weight.data, lower[weight]).mean().item() == pytest.approx(1 - 400 * 2**-7 / 100, rel=1e-4)
    second = optimizer.state[weight]["exp_avg_sq"].float().mean().item()
    assert second == pytest.approx(1 - 0.999**400, rel=0.02)


def test_slices_change_nothing_but_the_noise_and_a_seed_repeats(monkeypatch):
    def run() -> torch.Tensor:
        torch.manual_seed(4)
        weight = nn.Parameter(torch.randn(50, 7))
        lower = halve([weight])
        # A seed as large as people give: what is made of it must still be one.
        optimizer = AdamWBF16([{"params": [weight]}], lr=1e-2, lower_halves=lower, seed=2**40 + 5)
        for _ in range(3):
            weight.grad = torch.randn(50, 7).bfloat16()
            optimizer.step()
        return join(weight.data, lower[weight])

    whole = run()
    assert torch.equal(run(), whole)
    monkeypatch.setattr(adamw_bf16, "SLICE", 64)
    torch.testing.assert_close(run(), whole, rtol=1e-3, atol=1e-4)


def test_a_resumed_run_counts_steps_where_they_are_read(mini):
    """On the CPU, wherever the weights are: a device without numbers would fail where one of them is asked for."""
    untied = replace(mini, text_config=mini.text_config | {"tie_word_embeddings": False})  # moving would untie them
    model = hf.new_model(untied, hf.new_processor(untied), 0)
    config = TrainConfig(optim="adamw_bf16", bf16="false")
    first = Strategy(Objective(model, 0.0), config, World())
    for _, parameter in first.named_trained():
        parameter.grad = torch.zeros_like(parameter)
    first.update(1.0, lambda norm: None)
    tensors = first.optimizer_tensors()
    resumed = Strategy(Objective(model, 0.0), config, World(device=torch.device("meta")))
    resumed.load_optimizer_tensors(tensors)
    (optimizer,) = resumed.optimizers
    assert all(state["step"].device.type == "cpu" and state["step"] == 1 for state in optimizer.state.values())
    assert all(state["exp_avg"].device.type == "meta" for state in optimizer.state.values())

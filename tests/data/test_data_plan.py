"""Packs and plan: every sample once, a position is a number, ranks share a step's work."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsit.data.pack import best_fit
from parsit.data.plan import Packed, Padded, Plan, Work

RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(10, 400, 1003)
TILES = RNG.integers(0, 5, 1003)
KINDS = ["padded", "packed"]


def plan(kind, per_step=1, seed=1, work=None):
    if kind == "padded":
        return Plan(Padded(LENGTHS, TILES, 8, seed, work), per_step)
    return Plan(Packed(LENGTHS, TILES, 1024, 12, seed, work), per_step)


@pytest.mark.parametrize("kind", KINDS)
def test_each_epoch_has_every_sample_once_in_another_order(kind):
    made = plan(kind, per_step=3)
    steps = made.steps_per_epoch
    epochs = [np.concatenate(list(made.shares(e * steps, (e + 1) * steps))) for e in (0, 1)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(len(LENGTHS)))
    assert not np.array_equal(*epochs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_is_a_function_of_its_arguments_alone(kind):
    one, same, other = (list(plan(kind, seed=seed).shares(0, 50)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_far_ahead_is_found_without_those_before_it(kind):
    walked = plan(kind, per_step=2)
    steps = [walked.step(number) for number in range(400)]
    fresh = plan(kind, per_step=2)
    assert all(np.array_equal(a, b) for a, b in zip(fresh.step(399), steps[399], strict=True))


def test_batches_hold_samples_of_like_length_and_modality():
    made = plan("padded")
    batches = list(made.shares(0, made.steps_per_epoch))
    padded = sum(len(batch) * LENGTHS[batch].max() for batch in batches)
    chance = sum(LENGTHS[i : i + 8].max() * len(LENGTHS[i : i + 8]) for i in range(0, len(LENGTHS), 8))
    assert LENGTHS.sum() / padded > 0.9
    assert LENGTHS.sum() / chance < 0.65  # what it is without grouping
    mixed = sum(0 < (TILES[batch] == 0).sum() < len(batch) for batch in batches)
    assert mixed <= 2  # one boundary in each random group


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_share_a_step_and_change_nothing_else(kind, world_size):
    made = plan(kind, per_step=12)
    for number in range(made.steps_per_epoch):
        whole = made.step(number)
        shares = [made.share(number, rank, world_size) for rank in range(world_size)]
        assert len({len(share) for share in shares}) == 1, "a rank with fewer micro-batches would hang the others"
        dealt = [tuple(unit) for share in shares for unit in share if len(unit)]
        assert sorted(dealt) == sorted(tuple(unit) for unit in whole)


def test_ranks_get_equal_work_by_flops_and_not_by_tokens():
    work = Work(per_token=1.0, per_token_squared=0.02, per_tile=300.0)
    made = plan("packed", per_step=16, work=work)
    costs = work.of(LENGTHS, TILES)
    shared, in_turn = [], []
    for number in range(made.steps_per_epoch - 1):
        whole = made.step(number)
        for ratios, deal in ((shared, lambda r, n=number: made.share(n, r, 2)), (in_turn, lambda r, w=whole: w[r::2])):
            loads = [sum(costs[unit].sum() for unit in deal(rank)) for rank in range(2)]
            ratios.append(max(loads) / min(loads))
    assert np.mean(shared) < 1.03
    assert np.mean(shared) - 1 < (np.mean(in_turn) - 1) / 2


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 6)), min_size=1, max_size=60),
    st.sampled_from([0, 6, 9]),
    st.integers(0, 3),
)
def test_no_pack_is_ever_too_full_and_no_sample_lost(items, max_tiles, seed):
    tokens, tiles = np.array(items).T
    packs = best_fit(tokens, tiles, 50, max_tiles, np.random.default_rng(seed).permutation(len(items)))
    members = [packs[number] for number in range(len(packs))]
    assert sorted(np.concatenate(members)) == list(range(len(items)))
    for pack in members:
        assert len(pack)
        assert tokens[pack].sum() <= 50
        assert not max_tiles or tiles[pack].sum() <= max_tiles
    # No two packs could be one: best-fit leaves at most one pack less than half full.
    if not max_tiles:
        assert sum(tokens[pack].sum() * 2 <= 50 for pack in members) <= 1


def test_packs_are_full_on_documents():
    rng = np.random.default_rng(3)
    tokens = np.clip(np.exp(rng.normal(6.6, 0.9, 20_000)).astype(int) + 100, 120, 4096)
    tiles = np.clip(tokens // 250, 0, 13)
    order = rng.permutation(len(tokens))
    packs = best_fit(tokens, tiles, 4096, 16, order)
    assert tokens.sum() / (len(packs) * 4096) > 0.97


def test_a_tile_limit_that_binds_leaves_packs_as_full_of_tiles():
    tokens, tiles = np.full(1000, 10), np.tile([5, 3], 500)
    packs = best_fit(tokens, tiles, 1000, 8, np.arange(1000))
    assert len(packs) == 500  # a five and a three in each


def test_a_sample_larger_than_a_pack_is_refused():
    with pytest.raises(ValueError, match="sample 1 is larger"):
        best_fit(np.array([5, 11]), np.array([0, 0]), 10, 0, np.arange(2))
    with pytest.raises(ValueError, match="sample 0 is larger"):
        best_fit(np.array([5, 9]), np.array([3, 0]), 10, 2, np.arange(2))

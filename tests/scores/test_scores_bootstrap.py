import math

import numpy as np
import pytest

from parsit.scores import bootstrap, difference_interval, mean_interval, mean_of_means_interval, ratio_interval


def test_value_is_the_plain_ratio():
    interval = ratio_interval([1, 1], [2, 8])
    assert interval.value == pytest.approx(0.2)
    assert interval.low <= 0.2 <= interval.high


def test_interval_of_a_mean_is_near_the_normal_one():
    # Standard normal numbers: the 95 % interval of the mean is ± 1.96 / sqrt(n).
    values = np.random.default_rng(3).normal(size=2000)
    interval = mean_interval(values, resamples=4000)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_coin_interval_is_the_binomial_one():
    # 100 tosses, 30 heads: 2.5 % and 97.5 % of Binomial(100, 0.3) are 21 and 39.
    interval = mean_interval([1.0] * 30 + [0.0] * 70, resamples=20000)
    assert interval.low == pytest.approx(0.21, abs=0.011)
    assert interval.high == pytest.approx(0.39, abs=0.011)


def test_edits_and_length_are_drawn_together():
    # Every sample has the rate 0.1, so every draw has it too, however the lengths differ.
    lengths = np.array([10.0, 1000.0, 30.0, 7.0])
    interval = ratio_interval(lengths / 10, lengths)
    assert interval.low == pytest.approx(0.1)
    assert interval.high == pytest.approx(0.1)


def test_pairing_makes_a_constant_difference_exact():
    second = np.random.default_rng(0).uniform(0, 9, 50)
    interval = difference_interval(second - 1, second, np.ones(50))
    assert interval.value == pytest.approx(-1)
    assert interval.low == pytest.approx(-1)
    assert interval.high == pytest.approx(-1)


def test_equal_systems_differ_by_nothing():
    interval = difference_interval([1, 2, 3], [1, 2, 3], [4, 4, 4])
    assert (interval.value, interval.low, interval.high) == (0, 0, 0)


def test_same_seed_same_interval_and_other_seed_another():
    values = np.random.default_rng(0).uniform(size=40)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


def test_memory_chunks_do_not_change_the_result(monkeypatch):
    values = np.random.default_rng(1).uniform(size=40)
    whole = mean_interval(values, resamples=300)
    monkeypatch.setattr(bootstrap, "_CHUNK", 200)
    assert mean_interval(values, resamples=300) == whole


def test_wider_confidence_is_a_wider_interval():
    values = np.random.default_rng(1).uniform(size=40)
    narrow, wide = mean_interval(values, confidence=0.5), mean_interval(values, confidence=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_empty_references_alone_follow_the_rule():
    assert ratio_interval([0], [0]).value == 0
    assert ratio_interval([3], [0]).value == 1


@pytest.mark.parametrize(("tops", "bottoms"), [([], []), ([1.0], [1.0, 2.0])])
def test_no_or_unequal_numbers_are_refused(tops, bottoms):
    with pytest.raises(ValueError):
        ratio_interval(tops, bottoms)


def test_a_mean_of_means_weighs_groups_alike_and_draws_within_them():
    small, large = [0.0, 1.0], [1.0] * 98
    found = mean_of_means_interval([small, large])
    assert found.value == pytest.approx(0.75)
    assert (found.low, found.high) == (0.5, 1.0), "the large group does not move, the small one takes three values"
    assert found == mean_of_means_interval([small, large]) != mean_of_means_interval([small, large, [0.0]])
    with pytest.raises(ValueError):
        mean_of_means_interval([])
    with pytest.raises(ValueError):
        mean_of_means_interval([small, []])

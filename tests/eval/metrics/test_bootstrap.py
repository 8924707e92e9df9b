from __future__ import annotations

import numpy as np
import pytest

from ziya_visual.eval.metrics.bootstrap import interval


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(0).random(300)
    assert interval(values, seed=1) == interval(values, seed=1)
    assert interval(values, seed=1) != interval(values, seed=2)


def test_width_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=2000)
    low, high = interval(values)
    assert (high - low) / 2 == pytest.approx(1.96 / np.sqrt(2000), rel=0.15)


def test_questions_of_one_picture_are_drawn_together() -> None:
    values = np.repeat(np.random.default_rng(0).random(200) > 0.5, 10).astype(float)
    alone = interval(values)
    together = interval(values, clusters=np.repeat(np.arange(200), 10).tolist())
    assert together[1] - together[0] > 2.5 * (alone[1] - alone[0])


def test_groups_weigh_the_same() -> None:
    low, high = interval([1.0] * 990 + [0.0] * 10, groups=["a"] * 990 + ["b"] * 10)
    assert (low, high) == (0.5, 0.5)


def test_covers_as_it_says() -> None:
    hits = 0
    for seed in range(200):
        values = (np.random.default_rng(seed).random(300) < 0.8).astype(float)
        low, high = interval(values, seed=seed, resamples=400)
        hits += low <= 0.8 <= high
    assert 182 <= hits <= 199, f"{hits} of 200 intervals cover"


def test_nothing() -> None:
    assert interval([]) == (0.0, 0.0)

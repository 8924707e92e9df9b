"""The controls: judges with a known fault are found out, a fair one is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ziya_visual.eval.judge.diagnostics import (
    agreement,
    controls,
    kappa,
    length_adjusted,
    share,
    spearman,
    unbelievable,
    warnings,
)
from ziya_visual.eval.judge.verdicts import Review, battles, turned

Scores = Callable[[int, bool], tuple[float, float]]  # question, swapped -> as shown


def reviews(scores: Scores, count: int = 40, repeats: int = 1, judge: str = "j") -> list[Review]:
    """A pairwise run over two models in both orders."""
    found = []
    for question in range(count):
        for swapped in (False, True):
            for repeat in range(repeats):
                shown = ("y", "x") if swapped else ("x", "y")
                answers = tuple(name * (5 if name == "x" else 9) for name in shown)
                pair = scores(question, swapped)
                review = Review(
                    str(question), "", pair, pair, shown, answers, swapped, repeat, "pairwise", judge
                )
                found.append(turned(review) if swapped else review)
    return found


def fair(question: int, swapped: bool) -> tuple[float, float]:
    """x is better in three of four questions, wherever it stands."""
    pair = (9.0, 6.0) if question % 4 else (5.0, 8.0)
    return pair[::-1] if swapped else pair


def test_a_fair_judge_is_left_alone() -> None:
    found = controls(reviews(fair))
    assert found["order_agreement"]["value"] == 100
    assert found["first_preferred"]["value"] == 50
    assert found["failures"] == 0
    assert warnings(found, "pairwise") == []
    assert not unbelievable(found)


def test_a_judge_that_prefers_the_first_answer() -> None:
    found = controls(reviews(lambda question, swapped: (9, 5)))
    assert found["first_preferred"] == pytest.approx(
        {"value": 100, "low": 95.4, "high": 100, "n": 80}, abs=0.1
    )
    assert found["order_agreement"]["value"] == 0
    said = " ".join(warnings(found, "pairwise"))
    assert "prefers the answer shown first in 100 % of 80" in said
    assert "In 100 % of 40 questions its verdict changes with the order" in said
    assert unbelievable(found)


def test_a_judge_that_leans_to_the_first_answer_is_warned_of() -> None:
    """Fair in half of the questions; the verdicts stand, with the warning beside them."""
    found = controls(reviews(lambda q, swapped: fair(q, swapped) if q % 2 else (8, 7)))
    assert found["order_agreement"]["value"] == 50
    assert any("shown first" in sentence for sentence in warnings(found, "pairwise"))
    assert not unbelievable(found)


def test_a_judge_that_says_the_same_of_everything() -> None:
    found = controls(reviews(lambda question, swapped: (8, 8)))
    assert found["verdicts"] == {"different_scores": 1, "ties": 100, "n": 80}
    assert warnings(found, "pairwise")[0].startswith("It gave the same scores in all of its 80 reviews")
    assert unbelievable(found)


def test_a_judge_that_says_something_else_each_time() -> None:
    rng = np.random.default_rng(0)
    found = controls(reviews(lambda question, swapped: tuple(rng.permutation([5.0, 8.0])), repeats=3))
    assert found["self_agreement"]["n"] == 40 * 2 * 3
    assert 35 < found["self_agreement"]["value"] < 65
    assert any("Asked the same again" in sentence for sentence in warnings(found, "pairwise"))
    assert controls(reviews(fair))["self_agreement"] is None


def test_relative_reviews_cannot_tell_place_from_quality() -> None:
    rows = [replace(review, protocol="relative") for review in reviews(fair) if not review.swapped]
    found = controls(rows)
    assert found["first_preferred"] is None
    assert found["order_agreement"] is None
    assert any("never swapped" in sentence for sentence in warnings(found, "relative"))


def test_two_judges() -> None:
    ours = battles(reviews(fair))
    same = agreement(ours, battles(reviews(fair, judge="k")))
    assert same is not None
    assert (same["kappa"], same["spearman"], same["found_better"]["value"]) == pytest.approx((1, 1, 100))
    opposite = agreement(ours, battles(reviews(lambda q, swapped: fair(q, not swapped))))
    assert opposite is not None
    assert opposite["kappa"] < 0
    assert opposite["spearman"] == pytest.approx(-1)
    constant = agreement(ours, battles(reviews(lambda q, swapped: (8, 8))))
    assert constant is not None
    assert (constant["kappa"], constant["spearman"]) == (0, None)
    assert agreement(ours, battles(reviews(fair, count=0))) is None


def test_preferring_one_of_two_equal_answers_is_counted() -> None:
    truth = battles(reviews(lambda q, swapped: (10, 10) if q < 10 else fair(q, swapped)))
    found = agreement(truth, battles(reviews(fair)))
    assert found is not None
    assert (found["false_preference"]["value"], found["false_preference"]["n"]) == (100, 10)
    assert (found["found_better"]["value"], found["found_better"]["n"]) == (100, 30)


def test_statistics() -> None:
    assert kappa(np.array([1.0, 1, 0, 0]), np.array([1.0, 0, 0, 0])) == pytest.approx(0.5)
    assert kappa(np.array([1.0, 1]), np.array([1.0, 1])) is None
    assert spearman(np.array([1.0, 2, 2, 4]), np.array([1.0, 3, 2, 4])) == pytest.approx(0.9487, abs=1e-4)
    wilson = share(8, 10)
    assert wilson is not None
    assert (wilson["low"], wilson["high"]) == pytest.approx((49.0, 94.3), abs=0.1)
    assert share(0, 0) is None


def test_length_adjusted_takes_off_what_length_is_worth() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number, doublings in enumerate(rng.uniform(0, 2, 200)):
        scores = (6.0, 6.0 + doublings)  # equal answers, but every doubling is worth a point
        answers = ("x" * 99, "x" * (round(100 * 2**doublings) - 1))
        rows.append(Review(str(number), "", scores, scores, ("ref", "ours"), answers))
    assert length_adjusted(rows) == pytest.approx(100, abs=0.5)
    assert length_adjusted([replace(row, answers=()) for row in rows]) is None
    always_longer = [replace(row, answers=("x", row.answers[1] * 9)) for row in rows]
    assert length_adjusted(always_longer) is None

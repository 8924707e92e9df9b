"""The controls: judges with a known fault are found out, a fair one is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ziya_visual.eval.judge.diagnostics import (
    compare_judges,
    compute_controls,
    is_unreliable,
    kappa,
    length_adjusted_score,
    list_warnings,
    percent_of,
    spearman,
)
from ziya_visual.eval.judge.judgments import Judgment, decide_battles, reverse_order

Scores = Callable[[int, bool], tuple[float, float]]  # question, swapped -> as shown


def judgments(scores: Scores, count: int = 40, repeats: int = 1, judge: str = "j") -> list[Judgment]:
    """A pairwise run over two models in both orders."""
    found = []
    for question in range(count):
        for swapped in (False, True):
            for repeat in range(repeats):
                shown = ("y", "x") if swapped else ("x", "y")
                answers = tuple(name * (5 if name == "x" else 9) for name in shown)
                pair = scores(question, swapped)
                judgment = Judgment(
                    str(question), "", pair, pair, shown, answers, swapped, repeat, "pairwise", judge
                )
                found.append(reverse_order(judgment) if swapped else judgment)
    return found


def fair(question: int, swapped: bool) -> tuple[float, float]:
    """x is better in three of four questions, wherever it stands."""
    pair = (9.0, 6.0) if question % 4 else (5.0, 8.0)
    return pair[::-1] if swapped else pair


def test_a_fair_judge_is_left_alone() -> None:
    found = compute_controls(judgments(fair))
    assert found["order_agreement"]["value"] == 100
    assert found["first_preferred"]["value"] == 50
    assert found["failures"] == 0
    assert list_warnings(found, "pairwise") == []
    assert not is_unreliable(found)


def test_a_judge_that_prefers_the_first_answer() -> None:
    found = compute_controls(judgments(lambda question, swapped: (9, 5)))
    assert found["first_preferred"] == pytest.approx(
        {"value": 100, "low": 95.4, "high": 100, "n": 80}, abs=0.1
    )
    assert found["order_agreement"]["value"] == 0
    said = " ".join(list_warnings(found, "pairwise"))
    assert "prefers the answer shown first in 100 % of 80" in said
    assert "Its verdict changes with the order in 100 % of 40 questions" in said
    assert is_unreliable(found)


def test_a_judge_that_leans_to_the_first_answer_is_warned_of() -> None:
    """Fair in half of the questions; the verdicts stand, with the warning beside them."""
    found = compute_controls(judgments(lambda q, swapped: fair(q, swapped) if q % 2 else (8, 7)))
    assert found["order_agreement"]["value"] == 50
    assert any("shown first" in sentence for sentence in list_warnings(found, "pairwise"))
    assert not is_unreliable(found)


def test_a_judge_that_says_the_same_of_everything() -> None:
    found = compute_controls(judgments(lambda question, swapped: (8, 8)))
    assert found["verdicts"] == {"different_scores": 1, "ties": 100, "n": 80}
    assert list_warnings(found, "pairwise")[0].startswith("It gave the same scores in all of its 80 reviews")
    assert is_unreliable(found)


def test_a_judge_that_says_something_else_each_time() -> None:
    rng = np.random.default_rng(0)
    found = compute_controls(
        judgments(lambda question, swapped: tuple(rng.permutation([5.0, 8.0])), repeats=3)
    )
    assert found["self_agreement"]["n"] == 40 * 2 * 3
    assert 35 < found["self_agreement"]["value"] < 65
    assert any("repeated requests" in sentence for sentence in list_warnings(found, "pairwise"))
    assert compute_controls(judgments(fair))["self_agreement"] is None


def test_relative_reviews_cannot_tell_place_from_quality() -> None:
    rows = [replace(judgment, protocol="relative") for judgment in judgments(fair) if not judgment.swapped]
    found = compute_controls(rows)
    assert found["first_preferred"] is None
    assert found["order_agreement"] is None
    assert any("never swapped" in sentence for sentence in list_warnings(found, "relative"))


def test_two_judges() -> None:
    ours = decide_battles(judgments(fair))
    same = compare_judges(ours, decide_battles(judgments(fair, judge="k")))
    assert same is not None
    assert (same["kappa"], same["spearman"], same["found_better"]["value"]) == pytest.approx((1, 1, 100))
    opposite = compare_judges(ours, decide_battles(judgments(lambda q, swapped: fair(q, not swapped))))
    assert opposite is not None
    assert opposite["kappa"] < 0
    assert opposite["spearman"] == pytest.approx(-1)
    constant = compare_judges(ours, decide_battles(judgments(lambda q, swapped: (8, 8))))
    assert constant is not None
    assert (constant["kappa"], constant["spearman"]) == (0, None)
    assert compare_judges(ours, decide_battles(judgments(fair, count=0))) is None


def test_preferring_one_of_two_equal_answers_is_counted() -> None:
    truth = decide_battles(judgments(lambda q, swapped: (10, 10) if q < 10 else fair(q, swapped)))
    found = compare_judges(truth, decide_battles(judgments(fair)))
    assert found is not None
    assert (found["false_preference"]["value"], found["false_preference"]["n"]) == (100, 10)
    assert (found["found_better"]["value"], found["found_better"]["n"]) == (100, 30)


def test_statistics() -> None:
    assert kappa(np.array([1.0, 1, 0, 0]), np.array([1.0, 0, 0, 0])) == pytest.approx(0.5)
    assert kappa(np.array([1.0, 1]), np.array([1.0, 1])) is None
    assert spearman(np.array([1.0, 2, 2, 4]), np.array([1.0, 3, 2, 4])) == pytest.approx(0.9487, abs=1e-4)
    wilson = percent_of(8, 10)
    assert wilson is not None
    assert (wilson["low"], wilson["high"]) == pytest.approx((49.0, 94.3), abs=0.1)
    assert percent_of(0, 0) is None


def test_length_adjusted_takes_off_what_length_is_worth() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number, doublings in enumerate(rng.uniform(0, 2, 200)):
        scores = (6.0, 6.0 + doublings)  # equal answers, but every doubling is worth a point
        answers = ("x" * 99, "x" * (round(100 * 2**doublings) - 1))
        rows.append(Judgment(str(number), "", scores, scores, ("ref", "ours"), answers))
    assert length_adjusted_score(rows) == pytest.approx(100, abs=0.5)
    assert length_adjusted_score([replace(row, answers=()) for row in rows]) is None
    always_longer = [replace(row, answers=("x", row.answers[1] * 9)) for row in rows]
    assert length_adjusted_score(always_longer) is None

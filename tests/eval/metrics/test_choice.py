from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ziya_visual.core.errors import DataError
from ziya_visual.eval import score
from ziya_visual.eval.metrics import choice

Save = Callable[[str, Any], Path]


@pytest.mark.parametrize("rule", choice.GQA_RULES)
@pytest.mark.parametrize("model", ["llava15_13b", "blip2moe"])
def test_gqa(shared: Path, expected: Callable[[str], Any], model: str, rule: str) -> None:
    result = score.compute(
        "gqa",
        annotations=shared / "gqa" / "questions.json",
        predictions=shared / "gqa" / f"results_{model}.json",
        rule=rule,
    )
    assert result["scores"]["accuracy"] == pytest.approx(expected("gqa")[model][rule], abs=1e-9)


def test_pope_pairs_by_id(shared: Path, expected: Callable[[str], Any]) -> None:
    result = score.compute("pope", predictions=shared / "pope" / "predictions.jsonl")
    for category, truth in expected("pope").items():
        for name, value in truth.items():
            assert result["scores"][f"{category}/{name}"] == pytest.approx(value, abs=1e-9)


def test_scienceqa(shared: Path, expected: Callable[[str], Any]) -> None:
    folder = shared / "scienceqa"
    result = score.compute(
        "scienceqa", problems=folder / "problems.jsonl", predictions=folder / "predictions.jsonl"
    )
    for name, value in expected("scienceqa").items():
        assert result["scores"][name] == pytest.approx(value, abs=1e-9)


def test_mcq(shared: Path, expected: Callable[[str], Any]) -> None:
    result = score.compute("mcq", predictions=shared / "mcq" / "predictions.jsonl")
    for name, value in expected("mcq").items():
        assert result["scores"][name] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "yes"),
    [("Yes, there is.", True), ("No", False), ("There is no dog.", False), ("Yes. It is not red.", True)],
)
def test_pope_reading(text: str, yes: bool) -> None:
    assert choice.pope_yes(text) is yes


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("C\n", "C"),
        ("C ", "C"),
        ("B. because", "B"),
        ("So. The answer is D.", "D"),
        ("The answer is Z.", "Z"),
        ("The answer is A or B.", None),
        ("B.", None),
        ("The answer is A. The answer is B.", None),
        ("I think B", None),
        ("", None),
        ("是的。", None),
    ],
)
def test_scienceqa_reading(text: str, letter: str | None) -> None:
    assert choice.scienceqa_letter(text) == letter


OPTIONS = {"A": "up", "B": "down", "C": "to the left", "D": "right"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        ("(B)", "B"),
        ("The answer is: C.", "C"),
        ("to the left", "C"),
        ("A or B", None),
        ("Cannot determine the answer", "Z"),
        ("", None),
        ("B is what I would choose after looking at it", None),
    ],
)
def test_mcq_reading(text: str, letter: str | None) -> None:
    assert choice.infer_option(text, OPTIONS) == letter


def test_mcq_counts_what_it_cannot_read_and_circular_needs_every_rotation(save: Save) -> None:
    rows = [
        {
            "index": i,
            "question": "?",
            "A": "up",
            "B": "down",
            "answer": "A",
            "prediction": said,
            "category": "x",
        }
        for i, said in ((1, "A"), (1000001, "hm"), (2, "A"), (1000002, "A"), (3, None))
    ]
    result = score.compute("mcq", predictions=save("p.jsonl", rows))
    assert result["scores"]["circular"] == pytest.approx(100 / 3)
    assert result["scores"]["first_pass"] == pytest.approx(200 / 3)
    assert result["scores"]["accuracy"] == 60.0
    assert result["scores"]["category/x"] == pytest.approx(100 / 3)
    assert result["failures"] == {"unread": 1, "missing": 1}


def test_silence_is_never_right(save: Save) -> None:
    rows = [
        {"question_id": i, "category": "random", "label": label, "prediction": said}
        for i, (label, said) in enumerate([("yes", ""), ("yes", None), ("no", ""), ("yes", "Yes")])
    ]
    result = score.compute("pope", predictions=save("p.jsonl", rows))
    assert result["scores"]["random/accuracy"] == 25.0
    assert result["failures"] == {"empty": 2, "missing": 1}


def test_pope_counts_ids_in_each_category_and_says_what_it_read_as_yes(save: Save) -> None:
    rows = [
        {"question_id": 1, "category": category, "label": "no", "prediction": said}
        for category, said in (("random", "No."), ("popular", "不是"))
    ]
    result = score.compute("pope", predictions=save("p.jsonl", rows))
    assert result["scores"]["random/accuracy"] == 100.0
    assert result["scores"]["popular/yes_ratio"] == 100.0
    assert result["failures"] == {"neither_yes_nor_no": 1}
    with pytest.raises(DataError, match="duplicate question_id random/1"):
        score.compute("pope", predictions=save("p.jsonl", [rows[0], rows[0]]))


def test_pope_f1_has_an_interval(shared: Path) -> None:
    result = score.compute("pope", predictions=shared / "pope" / "predictions.jsonl")
    for name in ("random/f1", "mean/f1"):
        low, high = result["card"]["intervals"][name]
        assert low < result["scores"][name] < high


def test_mcq_gap_in_the_rotations_is_a_missing_prediction(save: Save) -> None:
    def row(index: int) -> dict[str, Any]:
        return {"index": index, "question": "?", "A": "up", "B": "down", "answer": "A", "prediction": "A"}

    rows = [row(1), row(2000001), row(1000002), row(3), row(1000003)]
    result = score.compute("mcq", predictions=save("p.jsonl", rows))
    assert result["failures"] == {"missing": 2}
    assert result["scores"]["accuracy"] == 100.0
    assert result["scores"]["circular"] == pytest.approx(100 / 3)
    assert result["scores"]["first_pass"] == pytest.approx(200 / 3)


def test_gqa_counts_balanced_questions_only(save: Save) -> None:
    truths = {"1": {"answer": "dog", "isBalanced": True}, "2": {"answer": "cat", "isBalanced": False}}
    said = [{"questionId": "1", "prediction": "dog"}, {"questionId": "2", "prediction": "dog"}]
    result = score.compute("gqa", annotations=save("a.json", truths), predictions=save("p.json", said))
    assert result["scores"] == {"accuracy": 100.0}
    assert result["failures"] == {}
    assert result["card"]["notes"] == {"unbalanced_left_out": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 1}, "'answer' is '1', expected one of A, B"),
        ({"answer": "C"}, "'answer' is 'C', expected one of A, B"),
        ({"n_choices": "2"}, "'n_choices' is '2', expected a number"),
    ],
)
def test_scienceqa_refuses_problems_of_another_form(save: Save, change: dict[str, Any], message: str) -> None:
    problem = {"question_id": "a", "n_choices": 2, "answer": "A", "has_image": False} | change
    files = {
        "problems": save("q.jsonl", [problem]),
        "predictions": save("p.jsonl", [{"question_id": "a", "text": "A"}]),
    }
    with pytest.raises(DataError, match=message):
        score.compute("scienceqa", **files)


def test_scienceqa_letter_beyond_the_options_is_parsed_and_wrong(save: Save) -> None:
    problems = [{"question_id": i, "n_choices": 2, "answer": "A", "has_image": False} for i in "ab"]
    said = [{"question_id": "a", "text": "E"}, {"question_id": "b", "text": "perhaps A"}]
    result = score.compute("scienceqa", problems=save("q.jsonl", problems), predictions=save("p.jsonl", said))
    assert result["scores"] == {"accuracy": 0.0, "unparsed": 1.0}
    assert result["failures"] == {"letter_beyond_options": 1, "unparsed": 1}

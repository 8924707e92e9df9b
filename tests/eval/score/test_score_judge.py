"""``score judge``: LLaVA's summary, from the texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ziya_visual.cli.app import app
from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_jsonl
from ziya_visual.eval import score
from ziya_visual.eval.judge.score_parsing import parse_scores

Save = Callable[[str, Any], Path]


@pytest.mark.parametrize("stored", [False, True])
def test_equals_llava_summary(shared: Path, expected: Callable[[str], Any], stored: bool) -> None:
    name = "llava-v1.5-7b-eval1"
    result = score.compute("judge", reviews=shared / "judge" / f"{name}.jsonl", stored=stored)
    for category, row in expected("judge")[name].items():
        keys = (category, f"{category}/reference", f"{category}/candidate")
        ours = [result["scores"][key] for key in keys]
        assert ours == pytest.approx(row, abs=0.05)
    assert result["scores"]["failures"] == 0


def test_stored_scores_that_disagree_are_listed(shared: Path, expected: Callable[[str], Any]) -> None:
    name = "review_bard_vicuna-13b"
    path = shared / "judge" / f"{name}.jsonl"
    stored = score.compute("judge", reviews=path, stored=True)
    row = expected("judge")[name]["all"]
    ours = [stored["scores"][key] for key in ("all", "all/reference", "all/candidate")]
    assert ours == pytest.approx(row, abs=0.05)
    read = score.compute("judge", reviews=path)
    assert read["scores"]["failures"] == 0
    assert read["card"]["notes"]["stored_disagrees"] == [
        {"question_id": "70", "text": [10.0, 4.0], "stored": [10.0, 2.0]}
    ]


def test_stored_scores_are_asked_for_on_the_command_line(save: Save) -> None:
    path = save("r.jsonl", [{"question_id": 1, "content": "8 4\nx", "tuple": [8, 6]}] * 2)
    for more, value in (([], "50.0"), (["--stored"], "75.0")):
        done = CliRunner().invoke(app, ["score", "judge", "--reviews", str(path), *more])
        assert done.exit_code == 0, done.output
        assert re.search(rf"^all +{value}", done.output, re.MULTILINE)


def test_reads_the_real_reviews(shared: Path) -> None:
    texts, right = 0, 0
    for name, text, scores in (
        ("llava-v1.5-7b-eval1", "content", "tuple"),
        ("review_bard_vicuna-13b", "text", "score"),
    ):
        for _, row in read_jsonl(shared / "judge" / f"{name}.jsonl"):
            texts += 1
            # One stored pair is not what its text says.
            right += row["question_id"] == 70 or parse_scores(row[text]) == tuple(row[scores])
    assert right >= 0.995 * texts, f"{right} of {texts}"


def test_by_category_and_pooled(save: Save) -> None:
    rows = [
        {"question_id": 1, "category": "conv", "content": "8 4\nx"},
        {"question_id": 2, "category": "conv", "content": "10 8\nx"},
        {"question_id": 3, "category": "complex", "content": "6 9\nx"},
    ]
    scores = score.compute("judge", reviews=save("r.jsonl", rows))["scores"]
    assert scores == {
        "all": 87.5, "all/reference": 80.0, "all/candidate": 70.0,
        "conv": 66.7, "conv/reference": 90.0, "conv/candidate": 60.0,
        "complex": 150.0, "complex/reference": 60.0, "complex/candidate": 90.0,
        "failures": 0.0,
    }  # fmt: skip


def test_both_orders_count_and_the_swapped_one_is_turned(save: Save) -> None:
    row = {"question_id": 1, "protocol": "pairwise", "models": ["ref", "ours"], "content": "8 6"}
    swapped = {**row, "models": ["ours", "ref"], "swapped": True, "content": "7 10"}
    result = score.compute("judge", reviews=save("r.jsonl", [row, swapped]))
    assert result["scores"]["all/reference"] == 90
    assert result["scores"]["all/candidate"] == 65
    other = {**row, "models": ["ref", "third"]}
    with pytest.raises(DataError, match=r"2 pairings .*leaderboard"):
        score.compute("judge", reviews=save("r.jsonl", [row, other]))
    with pytest.raises(DataError, match="pairwise and relative"):
        score.compute("judge", reviews=save("r.jsonl", [row, {"question_id": 2, "content": "8 6"}]))


def test_rubric_grades_are_percent_by_capability(save: Save) -> None:
    row = {"protocol": "rubric", "models": ["ours"]}
    rows = [
        {**row, "question_id": "v1_0", "category": ["ocr", "math"], "content": "0.5\nhalf"},
        {**row, "question_id": "v1_1", "category": ["ocr"], "content": "Correctness: 1.0"},
    ]
    scores = score.compute("judge", reviews=save("r.jsonl", rows))["scores"]
    assert scores == {"all": 75.0, "ocr": 75.0, "math": 50.0, "failures": 0.0}


def test_above_five_percent_failures_the_table_is_withheld(save: Save) -> None:
    rows = [{"question_id": i, "content": "8 9" if i else "I refuse."} for i in range(30)]
    kept = score.compute("judge", reviews=save("r.jsonl", rows))
    assert kept["scores"]["failures"] == 1
    assert kept["scores"]["all"] == 112.5
    assert kept["card"]["notes"]["unread_questions"] == ["0"]
    withheld = score.compute("judge", reviews=save("r.jsonl", rows[:10]))
    assert withheld["scores"] == {"failures": 1.0}
    assert "1 of 10" in withheld["card"]["notes"]["withheld"]


def test_what_speaks_against_the_judge_stands_beside(save: Save) -> None:
    rows = [
        {"question_id": i, "models": ["ref", "ours"], "content": f"8 {3 + i % 5}",
         "answers": ["x" * 40, "y" * (10 * 2 ** (i % 5))]}
        for i in range(20)
    ]  # fmt: skip
    notes = score.compute("judge", reviews=save("r.jsonl", rows))["card"]["notes"]
    assert notes["controls"]["length"]["spearman"] == pytest.approx(1)
    assert any("longer answers" in warning for warning in notes["warnings"])
    # Doubling is worth about a point here; the answers are as long as the reference on average.
    assert notes["length_adjusted"] == pytest.approx(62.5, abs=1)
    assert notes["interval"][0] < 62.5 < notes["interval"][1]


def test_rows_that_cannot_be_scored(save: Save) -> None:
    with pytest.raises(DataError, match="no review in 'content' or 'text'"):
        score.compute("judge", reviews=save("r.jsonl", [{"question_id": 1}]))
    rows = [{"question_id": 1, "tuple": [8, 9]}]
    with pytest.raises(DataError, match="--stored"):
        score.compute("judge", reviews=save("r.jsonl", rows))
    assert score.compute("judge", reviews=save("r.jsonl", rows), stored=True)["scores"]["all"] == 112.5
    # LLaVA's mark for a review that it could not read is no score.
    rows = [{"question_id": i, "tuple": [-1, -1] if i == 0 else [8, 8]} for i in range(30)]
    assert score.compute("judge", reviews=save("r.jsonl", rows), stored=True)["scores"]["all"] == 100

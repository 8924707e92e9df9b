from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ziya_visual.core.errors import DataError
from ziya_visual.eval import score
from ziya_visual.eval.judge import parse_scores

Save = Callable[[str, Any], Path]


@pytest.mark.parametrize("stored", [False, True])
def test_equals_llava_summary(shared: Path, expected: Callable[[str], Any], stored: bool) -> None:
    name = "llava-v1.5-7b-eval1"
    result = score.run("judge", reviews=shared / "judge" / f"{name}.jsonl", stored=stored)
    for category, row in expected("judge")[name].items():
        keys = (category, f"{category}/reference", f"{category}/candidate")
        ours = [result["scores"][key] for key in keys]
        assert ours == pytest.approx(row, abs=0.05)
    assert result["scores"]["failures"] == 0


def test_stored_scores_that_disagree_are_listed(shared: Path, expected: Callable[[str], Any]) -> None:
    name = "review_bard_vicuna-13b"
    path = shared / "judge" / f"{name}.jsonl"
    stored = score.run("judge", reviews=path, stored=True)
    row = expected("judge")[name]["all"]
    ours = [stored["scores"][key] for key in ("all", "all/reference", "all/candidate")]
    assert ours == pytest.approx(row, abs=0.05)
    read = score.run("judge", reviews=path)
    assert read["scores"]["failures"] == 0
    assert read["card"]["notes"]["stored_disagrees"] == [
        {"question_id": 70, "text": [10.0, 4.0], "stored": [10.0, 2.0]}
    ]


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("8 10\nBoth are good.", (8, 10)),
        ("8.5, 9", (8.5, 9)),
        ("8/10 9/10", (8, 9)),
        ("８　９\n两个回答都很好。", (8, 9)),
        ("评分：8 9", (8, 9)),
        ("助手1：8分，助手2：9分。", (8, 9)),
        ("I solved it.\n\nScores:\nAssistant 1: 10\nAssistant 2: 4\n\nAssistant 1 was better.", (10, 4)),
        ("**Assistant 1: 8/10**\n\n**Assistant 2: 9/10**", (8, 9)),
        ("Assistant 1 receives a score of 8, and Assistant 2 receives a score of 9.", (8, 9)),
        ("The distance of (2, -2) and (10, 4) is 10.\n\n(1, 8)", (1, 8)),
        ("I would give the tuple of scores (10, 4).", (10, 4)),
    ],
)
def test_finds_the_scores(text: str, pair: tuple[float, float]) -> None:
    assert parse_scores(text) == pair


@pytest.mark.parametrize(
    "text",
    [
        "",
        "In 2021, 8 of 10 users agreed.",
        "Assistant 1: 10 tips. Assistant 2: 5 tips.",
        "1. First\n2. Second",
        "50% 30%",
        "12 15",
        "2021-03-04",
        "The endpoint is (10, 4).",
        "Assistant 1: 8\nAssistant 2: 9\nOn reflection, Assistant 1: 6, Assistant 2: 9.",
        "Assistant 1: 8",
        "-3 5",
        "对不起，我无法评分。",
    ],
)
def test_refuses_what_is_no_pair_of_scores(text: str) -> None:
    assert parse_scores(text) is None


@given(
    st.lists(
        st.sampled_from(
            ["In 1998", "on 3/4/2021", "about 7 of 10", "95%", "1. one", "2) two",
             "it has 3 dogs, 4 cats",
             "at 5:30", "Assistant 1 lists 6 items", "Assistant 2 gives 8 tips",
             "图中有3只狗和4只猫", "2.5 km"]
        ),
        min_size=1, max_size=8,
    ),
    st.sampled_from([" ", ". ", "\n", ", "]),
)  # fmt: skip
def test_never_invents_a_score(parts: list[str], joint: str) -> None:
    assert parse_scores(joint.join(parts)) is None


def test_above_five_percent_failures_the_table_is_withheld(save: Save) -> None:
    rows = [{"question_id": i, "content": "8 9" if i else "I refuse."} for i in range(30)]
    kept = score.run("judge", reviews=save("r.jsonl", rows))
    assert kept["scores"]["failures"] == 1
    assert kept["scores"]["all"] == 112.5
    withheld = score.run("judge", reviews=save("r.jsonl", rows[:10]))
    assert withheld["scores"] == {"failures": 1.0}
    assert "1 of 10" in withheld["card"]["notes"]["withheld"]


def test_rows_without_a_review(save: Save) -> None:
    with pytest.raises(DataError, match="no review in 'content' or 'text'"):
        score.run("judge", reviews=save("r.jsonl", [{"question_id": 1}]))

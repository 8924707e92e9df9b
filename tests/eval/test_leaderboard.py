from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Prediction
from ziya_visual.eval.leaderboard import Verdict, anchors, by_group, leaderboard, read_verdicts
from ziya_visual.eval.rule_judge import judge_pair

TRUE = {"e": 1200.0, "d": 1100.0, "c": 1000.0, "b": 900.0, "a": 800.0}


def battles(seed: int, number: int = 2000) -> list[Verdict]:
    rng = np.random.default_rng(seed)
    names = list(TRUE)
    found = []
    for i in range(number):
        a, b = rng.choice(5, 2, replace=False)
        chance = 1 / (1 + 10 ** ((TRUE[names[b]] - TRUE[names[a]]) / 400))
        found.append(Verdict(str(i), names[a], names[b], "a" if rng.random() < chance else "b"))
    return found


def test_ranks_simulated_models_and_covers_their_strength() -> None:
    exact = covered = 0
    for seed in range(40):
        rows = leaderboard(battles(seed), seed=seed, resamples=200)
        exact += [row.model for row in rows] == list(TRUE)
        covered += sum(row.low <= TRUE[row.model] <= row.high for row in rows)
    assert exact >= 39, f"{exact} of 40 rankings exact"
    assert 0.88 <= covered / 200 <= 0.99, f"{covered} of 200 intervals cover"


def test_a_model_that_never_lost_has_a_finite_rating() -> None:
    rows = leaderboard([Verdict(str(i), "x", "y", "a") for i in range(20)])
    assert rows[0].model == "x"
    assert np.isfinite([rows[0].rating, rows[0].low, rows[1].high]).all()
    assert rows[0].wins == 20


def test_ties_are_half_a_win_each() -> None:
    first, second = leaderboard([Verdict(str(i), "x", "y", "tie") for i in range(10)])
    assert first.rating == pytest.approx(second.rating) == pytest.approx(1000)
    assert first.wins == 5


def test_reads_verdicts(save: Callable[[str, Any], Path]) -> None:
    row = {"question": 1, "a": "x", "b": "y", "winner": "tie", "lang": "zh"}
    verdicts = read_verdicts(save("v.jsonl", [row]))
    assert by_group(verdicts, "lang") == {"zh": verdicts}
    with pytest.raises(DataError, match="winner 'first'"):
        read_verdicts(save("v.jsonl", [{**row, "winner": "first"}]))
    with pytest.raises(DataError, match="line 1 is no verdict"):
        read_verdicts(save("v.jsonl", [{"a": "x"}]))


def prediction(i: str, text: str, task: str = "vqa", lang: str = "en") -> Prediction:
    return Prediction(i, "p", lang, task, "?", text, ("two",) if lang == "en" else ("两个",))


def test_the_rule_judge_knows_the_truth() -> None:
    first = [prediction("1", "2"), prediction("2", "red"), prediction("3", "２只", lang="zh")]
    second = [prediction("1", "three"), prediction("2", "blue"), prediction("3", "两个", lang="zh")]
    verdicts = judge_pair(first, second, ("base", "chat"), lambda text, lang: text.split())
    assert [verdict.winner for verdict in verdicts] == ["a", "tie", "tie"]
    with pytest.raises(DataError, match="no question in common"):
        judge_pair(first, [prediction("9", "x")], ("base", "chat"), lambda text, lang: [])


def test_published_numbers_name_their_source_and_fill_their_columns() -> None:
    tables = anchors()
    assert {table["lang"] for table in tables} == {"en", "zh"}
    for table in tables:
        assert table["source"]
        assert all(len(row) == len(table["columns"]) for row in table["rows"].values())

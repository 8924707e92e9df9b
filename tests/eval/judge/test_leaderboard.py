"""The leaderboard: what is ranked, what is not, and a page in which every verdict opens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_json, write_jsonl, write_records
from ziya_visual.core.records import Prediction
from ziya_visual.eval.judge.judgments import Battle, decide_battles, read_judgments
from ziya_visual.eval.judge.leaderboard import PUBLISHED, leaderboard, rank_models
from ziya_visual.eval.judge.run import judge_predictions
from ziya_visual.eval.results import published_results

Scores = Callable[[int, str, str], tuple[int, int]]  # question, first shown, second shown


def row(question: int, shown: tuple[str, str], scores: tuple[int, int], **more: Any) -> dict[str, Any]:
    text = f"{scores[0]} {scores[1]}\nReason {question} <b>{shown[0]}</b>."
    answers = [f"{name} says {question}" for name in shown]
    common = {"protocol": "pairwise", "judge": "j", "sees": "text", "lang": "en", "category": "conv"}
    common |= {"question": f"What is {question}?", "context": f"Caption {question}"}
    return (
        common | {"question_id": question, "models": list(shown), "content": text, "answers": answers} | more
    )


def folder(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    write_jsonl(path / "reviews.jsonl", rows)
    return path


def both_orders(a: str, b: str, scores: Scores, count: int = 30, **more: Any) -> list[dict[str, Any]]:
    first = [row(n, (a, b), scores(n, a, b), **more) for n in range(count)]
    return first + [row(n, (b, a), scores(n, b, a), swapped=True, **more) for n in range(count)]


def better(*names: str) -> Scores:
    """The first of the names is the best; every fifth question goes the other way."""

    def scores(question: int, first: str, second: str) -> tuple[int, int]:
        ahead = names.index(first) < names.index(second)
        return (8, 6) if ahead == (question % 5 != 0) else (6, 8)

    return scores


def test_ranks_by_language_and_category(tmp_path: Path) -> None:
    rows = both_orders("x", "y", better("x", "y"))
    rows += both_orders("x", "y", better("y", "x"), lang="zh", category="detail")
    content = leaderboard([folder(tmp_path / "j", rows)], out=tmp_path / "board")
    (judged,) = content["judges"]
    first = {(t["lang"], t["category"]): t["rows"][0]["model"] for t in judged["tables"]}
    assert first.keys() == {("", ""), ("en", ""), ("en", "conv"), ("zh", ""), ("zh", "detail")}
    assert (first["en", ""], first["zh", ""]) == ("x", "y")
    english = next(t for t in judged["tables"] if t["lang"] == "en" and not t["category"])
    assert [(r["rank"], r["share"], r["battles"]) for r in english["rows"]] == [(1, 80, 30), (2, 20, 30)]
    assert read_json(tmp_path / "board" / "leaderboard.json") == content


def test_every_verdict_can_be_opened(tmp_path: Path) -> None:
    rows = both_orders("x", "y", better("x", "y"), count=12)
    leaderboard([folder(tmp_path / "j", rows)], out=tmp_path)
    page = (tmp_path / "leaderboard.html").read_text("utf-8")
    assert page.count("<details>") == 12
    for n in range(12):
        (opened,) = re.findall(rf"<details><summary>{n} · .*?</details>", page, re.DOTALL)
        for text in (
            f"Caption {n}",
            f"What is {n}?",
            f"x says {n}",
            f"y says {n}",
            "shown first: x",
            "shown first: y",
        ):
            assert text in opened
        assert opened.count(f"Reason {n} &lt;b&gt;") == 2
    assert "://" not in page, "the page must need nothing from elsewhere"
    assert "did not see the picture" in page


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ((9, 5), "prefers the answer shown first in 100 % of 60 verdicts"),
        ((8, 8), "gave the same scores in all of its 60 reviews"),
    ],
)
def test_a_worthless_judge_ranks_nobody(tmp_path: Path, scores: tuple[int, int], said: str) -> None:
    rows = both_orders("x", "y", lambda *shown: scores)
    (judged,) = leaderboard([folder(tmp_path / "j", rows)], out=tmp_path)["judges"]
    assert judged["tables"] == []
    assert "does not tell these answers apart" in judged["withheld"]
    assert any(said in warning for warning in judged["warnings"])
    page = (tmp_path / "leaderboard.html").read_text("utf-8")
    assert said in page
    assert "No ranking" in page


def test_published_numbers_stand_apart(tmp_path: Path) -> None:
    rows = both_orders("Ziya-Visual", "y", better("Ziya-Visual", "y"))
    content = leaderboard([folder(tmp_path / "j", rows)], out=tmp_path)
    ranked = {r["model"] for t in content["judges"][0]["tables"] for r in t["rows"]}
    assert ranked == {"Ziya-Visual", "y"}
    english, chinese = published_results(PUBLISHED)
    assert (english["lang"], chinese["lang"]) == ("en", "zh")
    assert english["rows"]["Ziya-Visual"] == [82.7, 69.9, 92.1, 81.7]
    assert chinese["rows"]["Ziya-Visual"] == [85.0, 74.7, 82.4, 80.8]
    for name, pair in {"VisCPM-Chat v1.1": (81.5, 92.5), "Qwen-VL-Chat": (83.8, 88.2)}.items():
        assert (english["rows"][name][-1], chinese["rows"][name][-1]) == pair
    page = (tmp_path / "leaderboard.html").read_text("utf-8")
    for table in (english, chinese):
        assert table["source"] in page
        assert "GPT-4" in table["judge"]
        for values in table["rows"].values():
            assert len(values) == len(table["columns"])
            # The average is of the questions' scores, so that it need not be the mean of the columns.
            assert min(values[:-1]) <= values[-1] <= max(values[:-1])


def test_judges_are_not_mixed_and_are_compared(tmp_path: Path) -> None:
    one = folder(tmp_path / "1", both_orders("x", "y", better("x", "y")))
    other = folder(tmp_path / "2", both_orders("x", "y", better("y", "x"), judge="k"))
    content = leaderboard([one, other], out=tmp_path)
    assert [judged["judge"] for judged in content["judges"]] == ["j", "k"]
    (between,) = content["agreement"]
    assert between["n"] == 30
    assert between["kappa"] < 0
    assert between["spearman"] == pytest.approx(-1)


def test_rubric_grades_of_two_folders_make_battles(tmp_path: Path) -> None:
    rows = {
        name: [
            {
                "question_id": n,
                "protocol": "rubric",
                "judge": "j",
                "models": [name],
                "content": f"{(n + add) % 4 / 4}",
            }
            for n in range(20)
        ]
        for name, add in (("x", 1), ("y", 0))
    }
    folders = [folder(tmp_path / name, found) for name, found in rows.items()]
    (judged,) = leaderboard(folders, out=tmp_path)["judges"]
    assert [(r["model"], r["battles"], r["share"]) for r in judged["tables"][0]["rows"]] == [
        ("x", 20, 75), ("y", 20, 25),
    ]  # fmt: skip
    with pytest.raises(DataError, match="no battle of two models"):
        leaderboard(folders[:1], out=tmp_path)


def test_models_that_never_met_are_not_ranked() -> None:
    table = rank_models([Battle("1", "a", "b", 1), Battle("2", "b", "a", 1), Battle("3", "c", "d", 0)])
    assert {r["rating"] for r in table["rows"]} == {None}
    assert "between a, b and c, d" in table["apart"]


def test_who_never_lost_has_no_bound() -> None:
    table = rank_models([Battle(str(n), "x", "y", 2) for n in range(20)])
    assert "no bound" in table["apart"]
    assert [(r["model"], r["share"], r["rating"]) for r in table["rows"]] == [
        ("x", 100, None),
        ("y", 0, None),
    ]


def test_equal_models_share_a_rank() -> None:
    table = rank_models([Battle(str(n), "x", "y", (-1) ** (n // 3)) for n in range(31)])
    assert [r["rank"] for r in table["rows"]] == [1, 1]
    ties = rank_models([Battle(str(n), "x", "y", 0) for n in range(9)])
    assert [(r["wins"], r["rating"]) for r in ties["rows"]] == [(4.5, None), (4.5, None)]
    assert "every battle is a tie" in ties["apart"]


def test_equal_length_only_where_lengths_overlap() -> None:
    """The longer answer wins; x is longer more often in one table, always in the other."""

    def fought(shift: int) -> list[Battle]:
        lengths = [(100 + shift + 7 * (n % 9), 100 + 5 * (n * 5 % 11)) for n in range(200)]
        wins = [x > y if n % 6 else x < y for n, (x, y) in enumerate(lengths)]
        return [
            Battle(str(n), "x", "y", 1.0 if won else -1.0, lengths=pair)
            for n, (won, pair) in enumerate(zip(wins, lengths, strict=True))
        ]

    table = rank_models(fought(10))
    x = next(r for r in table["rows"] if r["model"] == "x")
    assert abs(x["equal_length"] - 1000) < abs(x["rating"] - 1000) / 2
    assert table["per_doubling"] > 100
    always = rank_models(fought(500))
    assert always["per_doubling"] is None
    assert {r["equal_length"] for r in always["rows"]} == {None}


def test_a_pairwise_battle_needs_both_orders_and_place_cancels_out(tmp_path: Path) -> None:
    rows = [
        row(1, ("x", "y"), (9, 5)), row(1, ("y", "x"), (8, 6), swapped=True),  # x ahead by 4 - 2
        row(2, ("x", "y"), (9, 5)), row(2, ("y", "x"), (9, 5), swapped=True),
        row(3, ("x", "y"), (9, 5)), row(3, ("y", "x"), (9, 5), swapped=True, content="none"),
    ]  # fmt: skip
    found = decide_battles(read_judgments(folder(tmp_path, rows) / "reviews.jsonl"))
    assert [(b.question_id, b.winner, b.margin) for b in found] == [("1", "a", 1), ("2", "tie", 0)]


def test_ids_of_other_questions_do_not_mix(tmp_path: Path) -> None:
    rows = [row(1, ("x", "y"), (9, 5), protocol="relative") | {"question": text} for text in ("Who?", "Why?")]
    assert len(decide_battles(read_judgments(folder(tmp_path, rows) / "reviews.jsonl"))) == 2


def test_base_and_chat_by_the_truth_of_the_scenes(tmp_path: Path) -> None:
    """As the quickstart calls it: all prediction files of two models."""
    answers = {"base": ("two", "a big red circle"), "chat": ("2", "a big red circle and a small blue star")}
    truth = "There is a big red circle and a small blue star."
    for name, (count, caption) in answers.items():
        for lang, word in (("en", "2"), ("zh", "两个")):
            said = count if lang == "en" else ("三个" if name == "base" else "2个")
            rows = [
                Prediction(
                    f"v-{lang}", "p", lang, "vqa", "How many?", said, (word,), {"question_type": "count"}
                )
            ]
            write_records(tmp_path / "predictions" / f"{name}.new.{lang}.vqa.jsonl", rows)
        rows = [Prediction("c", "p", "en", "caption", "Describe.", caption, (truth,))]
        write_records(tmp_path / "predictions" / f"{name}.new.en.caption.jsonl", rows)
    write_records(tmp_path / "predictions" / "blank.new.en.vqa.jsonl", [])
    card = judge_predictions(tmp_path / "predictions", ("base", "chat"), out=tmp_path / "judge")
    assert (card["judge"], card["reviews"], card["warnings"]) == ("rule", 3, [])
    found = {
        b.question_id: (b.winner, b.margin)
        for b in decide_battles(read_judgments(tmp_path / "judge" / "reviews.jsonl"))
    }
    assert found["v-en"] == ("tie", 0)
    assert found["v-zh"] == ("b", -10)
    assert found["c"][0] == "b"
    assert -5 < found["c"][1] < -2, "keyword F1 of half the things"
    board = leaderboard([tmp_path / "judge"], out=tmp_path)["judges"][0]
    assert "knows nothing of style" in board["cannot_know"]
    with pytest.raises(DataError, match="that both base and other answered"):
        judge_predictions(tmp_path / "predictions", ("base", "other"), out=tmp_path / "x")


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"reviews\.jsonl: absent; give the --out folder of a finished"):
        leaderboard([tmp_path], out=tmp_path)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ziya_visual.core.errors import ConfigError
from ziya_visual.eval import score
from ziya_visual.eval.metrics import vqa
from ziya_visual.eval.metrics.zh_answers import normalize_zh, read_numeral

CASES = [("vqav2", "base"), ("vqav2", "moe"), ("okvqa", "model"), ("textvqa", "llava15_13b")]


@pytest.mark.parametrize("rule", ["vqav2", "lavis", "evalai"])
@pytest.mark.parametrize(("folder", "model"), CASES)
def test_equals_the_official_tools(
    shared: Path, expected: Callable[[str], Any], folder: str, model: str, rule: str
) -> None:
    path = shared / folder
    result = score.run(
        "vqa",
        questions=path / "questions.json",
        annotations=path / "annotations.json",
        predictions=path / f"results_{model}.json",
        rule=rule,
    )
    truth = expected(folder)[model][rule]
    assert result["scores"]["overall"] == pytest.approx(truth["overall"], abs=1e-9)
    for kind, value in truth.get("per_answer_type", {}).items():
        assert result["scores"][f"answer_type/{kind}"] == value


def test_normalisation_is_skipped_when_all_ten_agree() -> None:
    assert vqa.accuracy("none", ["none"] * 10, "vqav2") == 1.0
    assert vqa.accuracy("none", ["none"] * 10, "lavis") == 0.0
    assert vqa.accuracy("Two.", ["two"] * 10, "vqav2") == 0.0
    assert vqa.accuracy("Two.", ["two"] * 10, "evalai") == 1.0


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The two dogs.", "2 dogs"),
        ("dont", "don't"),
        ("1,000", "1000"),
        ("red/white", "red white"),
        ("red, white", "red white"),
        ("3.5", "3.5"),
        ("somebody'd", "somebodyd"),
        ("couldnt've", "couldn't've"),
    ],
)
def test_vqav2_normalisation(text: str, normal: str) -> None:
    assert vqa.normalize_vqav2(text) == normal


def test_three_of_ten_are_enough_and_the_annotator_is_left_out() -> None:
    assert vqa.accuracy("a b", ["a b"] * 4 + ["x"] * 6, "vqav2") == 1.0
    assert vqa.accuracy("dog", ["dog"] * 3 + ["x"] * 7, "vqav2") == pytest.approx((3 * 2 / 3 + 7) / 10)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("两只", "2"),
        ("２个。", "二"),
        ("红色的", "红"),
        ("没有", "不是"),
        ("是的！", "对"),
        ("Ｙｅｓ", "是"),
        ("十二个", "12"),
        ("答案是三辆", "3"),
        ("左 边", "左边"),
    ],
)
def test_chinese_answers_that_are_the_same(one: str, other: str) -> None:
    assert normalize_zh(one) == normalize_zh(other)


@pytest.mark.parametrize(
    ("one", "other"), [("三角形", "3角形"), ("红", "蓝"), ("两个", "三个"), ("", "没有")]
)
def test_chinese_answers_that_differ(one: str, other: str) -> None:
    assert normalize_zh(one) != normalize_zh(other)


def test_reads_numerals() -> None:
    assert [read_numeral(t) for t in ("十", "二十一", "一百零三", "两千", "三万五千", "零")] == [
        10, 21, 103, 2000, 35000, 0,
    ]  # fmt: skip
    assert [read_numeral(t) for t in ("", "十十", "万", "百百")] == [None] * 4


QUESTIONS = {"questions": [{"question_id": i, "image_id": 1, "question": "?"} for i in range(3)]}


def annotation(i: int, **extra: Any) -> dict[str, Any]:
    answers = [{"answer": "dog", **extra} for _ in range(9)] + [{"answer": "cat", **extra}]
    return {"question_id": i, "answers": answers, "answer_type": "other", "question_type": "what"}


def test_missing_answers_are_wrong_and_lost_answer_ids_are_repaired(save: Callable[[str, Any], Path]) -> None:
    result = score.run(
        "vqa",
        questions=save("q.json", QUESTIONS),
        annotations=save("a.json", {"annotations": [annotation(i) for i in range(3)]}),
        predictions=save("p.json", [{"question_id": "0", "answer": "dog"}, {"question_id": 1, "answer": ""}]),
    )
    assert result["scores"]["overall"] == 33.33
    assert result["failures"] == {"missing": 1, "empty": 1, "answer_ids_repaired": 3}


def test_unknown_rule(save: Callable[[str, Any], Path]) -> None:
    file = save("q.json", QUESTIONS)
    with pytest.raises(ConfigError, match="did you mean 'vqav2'"):
        score.run("vqa", questions=file, annotations=file, predictions=file, rule="vqa2")

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.eval import score
from ziya_visual.eval.metrics import vqa
from ziya_visual.eval.metrics.vqa import normalize_zh, read_numeral

CASES = [("vqav2", "base"), ("vqav2", "moe"), ("okvqa", "model"), ("textvqa", "llava15_13b")]


@pytest.mark.parametrize("rule", ["vqav2", "lavis", "evalai"])
@pytest.mark.parametrize(("folder", "model"), CASES)
def test_equals_the_official_tools(
    shared: Path, expected: Callable[[str], Any], folder: str, model: str, rule: str
) -> None:
    path = shared / folder
    result = score.compute(
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
        ("兩隻", "2"),
        ("３．５", "3.5"),
        ("1,000", "一千"),
        ("左 边", "左边"),
    ],
)
def test_chinese_answers_that_are_the_same(one: str, other: str) -> None:
    assert normalize_zh(one) == normalize_zh(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("三角形", "3角形"), ("红", "蓝"), ("两个", "三个"), ("", "没有"), ("3.5", "35"), ("1/2", "12")],
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
    result = score.compute(
        "vqa",
        questions=save("q.json", QUESTIONS),
        annotations=save("a.json", {"annotations": [annotation(i) for i in range(3)]}),
        predictions=save("p.json", [{"question_id": "0", "answer": "dog"}, {"question_id": 1, "answer": ""}]),
    )
    assert result["scores"]["overall"] == 33.33
    assert result["failures"] == {"missing": 1, "empty": 1, "answer_ids_repaired": 3}


def three(save: Callable[[str, Any], Path], said: list[Any]) -> dict[str, Path]:
    return {
        "questions": save("q.json", QUESTIONS),
        "annotations": save("a.json", {"annotations": [annotation(i) for i in range(3)]}),
        "predictions": save("p.json", said),
    }


def test_null_is_missing_and_a_list_is_refused(save: Callable[[str, Any], Path]) -> None:
    said = [{"question_id": i, "answer": answer} for i, answer in enumerate(["dog", None, float("nan")])]
    result = score.compute("vqa", **three(save, said))
    assert result["scores"]["overall"] == 33.33
    assert result["failures"] == {"missing": 2, "answer_ids_repaired": 3}
    with pytest.raises(DataError, match="'answer' is list, expected text"):
        score.compute("vqa", **three(save, [{"question_id": 0, "answer": ["dog"]}]))


def test_says_where_there_are_not_ten_annotators(save: Callable[[str, Any], Path]) -> None:
    row = {"question_id": 0, "answers": [{"answer": "dog", "answer_id": i} for i in range(3)]}
    result = score.compute(
        "vqa",
        questions=save("q.json", QUESTIONS),
        annotations=save("a.json", {"annotations": [row]}),
        predictions=save(
            "p.json", [{"question_id": 0, "answer": "dog"}, {"question_id": 7, "answer": "dog"}]
        ),
    )
    assert result["failures"] == {"unknown_id": 1, "not_ten_annotators": 1}
    assert result["scores"]["overall"] == 66.67


def test_the_second_decimal_is_rounded_as_officially(save: Callable[[str, Any], Path]) -> None:
    """The official tool rounds 100 * sum / n, once."""
    # Two answers that all gave, one that two of ten gave, and nothing else right.
    right = [10, 10, 2] + [0] * 397
    truths = [
        {
            "question_id": i,
            "answers": [{"answer": "dog" if a < count else f"x{a}", "answer_id": a} for a in range(10)],
        }
        for i, count in enumerate(right)
    ]
    files = {
        "questions": save("q.json", {"questions": [{"question_id": i} for i in range(400)]}),
        "annotations": save("a.json", {"annotations": truths}),
        "predictions": save("p.json", [{"question_id": i, "answer": "dog"} for i in range(400)]),
    }
    third = vqa.accuracy("dog", ["dog"] * 2 + [f"x{a}" for a in range(2, 10)], "vqav2")
    assert score.compute("vqa", **files)["scores"]["overall"] == round(100 * float(2 + third) / 400, 2)


def test_submission_for_vqav2_answers_every_question(
    save: Callable[[str, Any], Path], tmp_path: Path
) -> None:
    files = three(
        save, [{"question_id": "2", "answer": "The two dogs, outside."}, {"question_id": 0, "answer": "Yes."}]
    )
    del files["annotations"]
    out = tmp_path / "up" / "load.json"
    result = score.compute("vqa", **files, submission=("vqav2", out))
    assert json.loads(out.read_text()) == [
        {"question_id": 0, "answer": "yes"},
        {"question_id": 1, "answer": ""},
        {"question_id": 2, "answer": "2 dogs outside"},
    ]
    assert result["scores"] == {"answers": 3.0}
    assert result["failures"] == {"missing": 1}


@pytest.mark.parametrize("key", ["question_id", "image"])
def test_submission_for_vizwiz_names_pictures(
    save: Callable[[str, Any], Path], tmp_path: Path, key: str
) -> None:
    asked = [{"question_id": i, "image": f"VizWiz_test_{i:08}.jpg", "question": "?"} for i in range(2)]
    said = [
        {key: row[key], "answer": answer}
        for row, answer in zip(asked, ["Un answerable?", "A dog"], strict=True)
    ]
    files = {"questions": save("q.jsonl", asked), "predictions": save("p.jsonl", said)}
    score.compute("vqa", **files, submission=("vizwiz", tmp_path / "up.json"))
    assert json.loads((tmp_path / "up.json").read_text()) == [
        {"image": "VizWiz_test_00000000.jpg", "answer": "un answerable"},
        {"image": "VizWiz_test_00000001.jpg", "answer": "dog"},
    ]
    with pytest.raises(DataError, match="has no 'image'"):
        score.compute(
            "vqa",
            questions=save("v.json", QUESTIONS),
            predictions=save("p.json", [{"question_id": 1, "answer": "x"}]),
            submission=("vizwiz", tmp_path / "up.json"),
        )
    with pytest.raises(ConfigError, match="'vizwz' is not one of vizwiz, vqav2; did you mean 'vizwiz'"):
        score.compute("vqa", **files, submission=("vizwz", tmp_path / "up.json"))
    with pytest.raises(ConfigError, match="it is for vqa"):
        score.compute("gqa", **files, submission=("vizwiz", tmp_path / "up.json"))


def test_unknown_rule(save: Callable[[str, Any], Path]) -> None:
    file = save("q.json", QUESTIONS)
    with pytest.raises(ConfigError, match="did you mean 'vqav2'"):
        score.compute("vqa", questions=file, annotations=file, predictions=file, rule="vqa2")

"""``judge`` against real HTTP on loopback: what it asks, in which order and language, what it pays for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, answers_in, text_of
from PIL import Image

from ziya_visual.core.errors import ConfigError, DataError, EndpointError
from ziya_visual.core.files import read_jsonl
from ziya_visual.eval import score
from ziya_visual.eval.judge.files import language_of, read_model_answers, read_questions
from ziya_visual.eval.judge.leaderboard import leaderboard
from ziya_visual.eval.judge.run import judge
from ziya_visual.forge.ask.endpoint import Sending

Save = Callable[[str, Any], Path]
SUBJECTS = ("cat", "dog", "bird", "car", "boat", "tree")


@pytest.fixture
def files(save: Save) -> dict[str, Path]:
    """Six questions in qa90's layout, the last three Chinese; answers of a, b and a reference."""
    questions, context = [], []
    answers: dict[str, list[dict[str, Any]]] = {"a": [], "b": [], "ref": []}
    for number, subject in enumerate(SUBJECTS):
        chinese = number >= 3
        text = f"图中的{subject}在做什么？" if chinese else f"What does the {subject} do?"
        image = f"{number:06}.jpg"
        category = ("conv", "detail", "complex")[number % 3]
        questions.append({"question_id": number, "image": image, "text": text, "category": category})
        boxes = [{"category": subject, "bbox": [0.1, 0.2, 0.3, 0.4]}]
        context.append(
            {"id": image[:6], "image": image, "captions": [f"A {subject} sits."], "instances": boxes}
        )
        for name, words in (("a", 8), ("b", 4 + number % 3 * 3), ("ref", 9)):
            answers[name].append({"question_id": number, "text": f"{subject} " * words})
    found = {name: save(f"{name}.jsonl", rows) for name, rows in answers.items()}
    return {
        **found,
        "questions": save("questions.jsonl", questions),
        "context": save("context.jsonl", context),
    }


def reviews(out: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(out / "reviews.jsonl")]


def pairwise(files: dict[str, Path], server: JudgeServer, out: Path, **options: Any) -> dict[str, Any]:
    return judge(
        questions=files["questions"], answers=[files["a"], files["b"]], context=files["context"],
        protocol="pairwise", judge=server.sending, out=out, **options,
    )  # fmt: skip


def test_pairwise_shows_both_orders(
    files: dict[str, Path], judge_server: JudgeServer, tmp_path: Path
) -> None:
    card = pairwise(files, judge_server, tmp_path / "out")
    shown = Counter(answers_in(prompt) for prompt in judge_server.prompts)
    assert len(shown) == 12
    assert all(shown[second, first] == 1 for first, second in shown)
    rows = reviews(tmp_path / "out")
    assert [row["models"] for row in rows] == [["a", "b"]] * 6 + [["b", "a"]] * 6
    assert all(tuple(row["tuple"]) == (row_scores(row)) for row in rows)
    assert (card["reviews"], card["failures"], card["sent"], card["warnings"]) == (
        12,
        0,
        12,
        ["It prefers longer answers: Spearman 1.00 of score and length."],
    )
    assert card["controls"]["order_agreement"]["value"] == 100
    assert "did not see the picture" in card["cannot_know"]["text"]


def row_scores(row: dict[str, Any]) -> tuple[float, ...]:
    return tuple(float(number) for number in row["content"].split("\n")[0].split())


def test_chinese_questions_are_judged_in_chinese(
    files: dict[str, Path], judge_server: JudgeServer, tmp_path: Path
) -> None:
    pairwise(files, judge_server, tmp_path / "out")
    for prompt in judge_server.prompts:
        chinese = "图中的" in prompt
        assert ("请给每个助手打一个 1 到 10 的分数" in prompt) == chinese
        assert ("Give each assistant one score" in prompt) != chinese
        assert "sits." in prompt, "the caption"
        assert "[0.1, 0.2, 0.3, 0.4]" in prompt, "the box"
    assert {row["lang"] for row in reviews(tmp_path / "out")} == {"en", "zh"}
    assert language_of("What does 北京 mean?") == "en"
    assert language_of("图中写着Hello吗？") == "zh"


def test_relative_is_llavas_chain(files: dict[str, Path], judge_server: JudgeServer, tmp_path: Path) -> None:
    rules = tmp_path / "rule.json"
    rules.write_text(json.dumps({"default": {"prompt": "RULE OF ALL"}, "conv": {"prompt": "RULE OF CONV"}}))
    out = tmp_path / "out"
    judge(
        questions=files["questions"], answers=[files["a"]], reference=files["ref"], context=files["context"],
        rules=rules, protocol="relative", judge=judge_server.sending, out=out,
    )  # fmt: skip
    assert Counter("RULE OF CONV" in prompt for prompt in judge_server.prompts) == {True: 2, False: 4}
    assert all(row["models"] == ["ref", "a"] for row in reviews(out))
    scores = score.compute("judge", reviews=out / "reviews.jsonl")["scores"]
    assert {"all", "conv", "detail", "complex", "all/reference", "all/candidate"} <= set(scores)
    assert scores["all"] < 100
    table = leaderboard([out], out=tmp_path / "board")["judges"][0]["relative"]
    ours = {row["category"]: row["value"] for row in table if row["lang"] == "en"}
    assert set(ours) == {"", "conv", "detail", "complex"}


def test_rubric_grades_by_the_right_answer(save: Save, judge_server: JudgeServer, tmp_path: Path) -> None:
    """MM-Vet's files: a JSON object of questions, one of predictions."""
    judge_server.opinion = lambda prompt: "1.0\nyes" if "x = -1 and x = -5" in prompt else "0.5\nhalf"
    questions = {
        "v1_0": {"question": "What is x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"]},
        "v1_1": {"question": "这是什么字？", "answer": "福", "capability": ["ocr"]},
    }
    card = judge(
        questions=save("mm-vet.json", questions),
        answers=[save("ours.json", {"v1_0": "x = -1 and x = -5", "v1_1": "寿"})],
        protocol="rubric", judge=judge_server.sending, out=tmp_path / "out",
    )  # fmt: skip
    assert card["models"] == ["ours"]
    assert any("-1<AND>-5" in prompt for prompt in judge_server.prompts)
    assert any("[正确答案]\n福" in prompt for prompt in judge_server.prompts)
    scores = score.compute("judge", reviews=tmp_path / "out" / "reviews.jsonl")["scores"]
    assert scores == {"all": 75.0, "ocr": 75.0, "math": 100.0, "failures": 0.0}


def test_touchstone_rows_bring_description_and_reference(judge_server: JudgeServer, tmp_path: Path) -> None:
    """TouchStone's TSV: both orders against the reference, judged by a human description."""
    path = tmp_path / "ours.tsv"
    cells = ["index\timage\tquestion\thuman_annotation\tgpt4_ha_answer\tcategory\ttask_name\tresponse"]
    picture = "iVBOR" * 99
    for n in range(2):
        known = f'"A red\nkite {n}."\tA kite in the sky {n}.'
        cells.append(f"{n}\t{picture}\tWhat is it?\t{known}\tA,B\tT\tA kite.")
    path.write_text("\n".join(cells) + "\n")
    out = tmp_path / "out"
    judge(questions=path, answers=[path], protocol="pairwise", judge=judge_server.sending, out=out)
    assert len(judge_server.prompts) == 4
    assert all("A red\nkite" in prompt for prompt in judge_server.prompts)
    assert not any("iVBOR" in prompt for prompt in judge_server.prompts)
    assert [row["models"] for row in reviews(out)] == [["reference", "ours"]] * 2 + [
        ["ours", "reference"]
    ] * 2
    assert set(score.compute("judge", reviews=out / "reviews.jsonl")["scores"]) >= {"A", "B", "all"}


def test_a_judge_that_sees_is_sent_the_picture(
    files: dict[str, Path], judge_server: JudgeServer, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"000000\.jpg; a judge that sees"):
        pairwise(files, judge_server, tmp_path / "none", images=tmp_path)
    for number in range(6):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number:06}.jpg")
    card = pairwise(files, judge_server, tmp_path / "out", images=tmp_path)
    for body in judge_server.bodies:
        assert body["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")
        assert "attached" in text_of(body) or "已附上" in text_of(body)
    assert set(card["cannot_know"]) == {"picture"}


def test_asked_again_it_must_agree_with_itself(
    files: dict[str, Path], judge_server: JudgeServer, tmp_path: Path
) -> None:
    card = pairwise(files, judge_server, tmp_path / "out", repeats=3)
    assert card["sent"] == 36
    assert card["controls"]["self_agreement"]["value"] == 100
    assert card["controls"]["self_agreement"]["n"] == 36
    assert Counter(body.get("seed") for body in judge_server.bodies) == {None: 12, 1: 12, 2: 12}


def test_replies_without_scores_are_rows(
    files: dict[str, Path], judge_server: JudgeServer, tmp_path: Path
) -> None:
    judge_server.opinion = lambda prompt: "I cannot rate cats." if "cat" in prompt else "8 7"
    card = pairwise(files, judge_server, tmp_path / "out")
    assert card["failures"] == 2
    assert card["warnings"][0] == "No scores in 2 of 12 reviews, e.g. because: no scores in the text."
    bad = [row for row in reviews(tmp_path / "out") if "failure" in row]
    assert [row["content"] for row in bad] == ["I cannot rate cats."] * 2
    assert all("tuple" not in row for row in bad)
    result = score.compute("judge", reviews=tmp_path / "out" / "reviews.jsonl")
    assert result["scores"] == {"failures": 2.0}
    board = leaderboard([tmp_path / "out"], out=tmp_path / "board")["judges"][0]
    assert board["withheld"] == "no scores in 2 of 12 reviews, more than 5%"
    assert "I cannot rate cats." in (tmp_path / "board" / "leaderboard.html").read_text("utf-8")


def test_the_rule_judge_needs_no_endpoint_and_calibrates_one(
    save: Save, judge_server: JudgeServer, tmp_path: Path
) -> None:
    """Predictions of scenes: the truth decides, and an LLM judge of the same answers is measured by it."""
    rows = []
    for number, (truth, base, chat) in enumerate(
        [("red", "red", "red"), ("two", "three", "2"), ("ring", "star", "ring"), ("blue", "red", "green")] * 4
    ):  # fmt: skip
        row = {
            "id": f"q{number}",
            "image_id": f"i{number}",
            "lang": "en",
            "task": "vqa",
            "prompt": f"What? {number}",
        }
        rows.append((row | {"answers": [truth], "meta": {"question_type": "color"}}, base, chat))
    paths = [
        save(
            f"{name}.new.en.vqa.jsonl",
            [row | {"prediction": (base, chat)[place]} for row, base, chat in rows],
        )
        for place, name in enumerate(("base", "chat"))
    ]
    both = {"questions": paths[0], "answers": paths, "protocol": "pairwise"}
    judge(**both, judge="rule", out=tmp_path / "rule")
    # Chat wins where it alone is right; this judge thinks that every answer of Chat is better.
    judge_server.opinion = lambda p: "9 2" if answers_in(p)[0] in ("2", "ring", "green") else "2 9"
    judge(**both, judge=judge_server.sending, out=tmp_path / "llm")
    board = leaderboard([tmp_path / "llm", tmp_path / "rule"], out=tmp_path / "board")
    by_rule = next(one for one in board["judges"] if one["judge"] == "rule")
    assert by_rule["warnings"] == []
    assert [(row["model"], row["share"]) for row in by_rule["tables"][0]["rows"]] == [
        ("chat", 75.0),
        ("base", 25.0),
    ]
    (row,) = board["agreement"]
    assert (row["first"], row["calibration"], row["n"]) == ("rule / rule", True, 16)
    assert row["found_better"]["value"] == 100
    assert row["false_preference"]["n"] == 8
    with pytest.raises(ConfigError, match="--protocol pairwise"):
        judge(**{**both, "protocol": "relative"}, judge="rule", out=tmp_path / "x")


def test_files_that_cannot_be_judged(
    files: dict[str, Path], save: Save, judge_server: JudgeServer, tmp_path: Path
) -> None:
    common = {
        "questions": files["questions"],
        "protocol": "pairwise",
        "judge": judge_server.judge,
        "out": tmp_path / "o",
    }
    two = [files["a"], files["b"]]
    stranger = save("z.jsonl", [{"question_id": 99, "text": "x"}])
    rules = save("r.json", {"x": {"prompt": "p"}})
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"answers": two[:1]}, ConfigError, "compares two models"),
        ({"answers": [files["a"], files["a"]]}, DataError, "two files hold answers of 'a'"),
        ({"answers": [files["a"], stranger]}, DataError, "no question is answered"),
        ({"answers": two[:1], "protocol": "relative"}, ConfigError, "needs --reference"),
        ({"answers": two[:1], "protocol": "pairwis"}, ConfigError, "did you mean 'pairwise'"),
        ({"answers": two, "judge": "gpt-4"}, ConfigError, "MODEL@URL"),
        ({"answers": two, "judge": "m@https://api.example.org/v1"}, ConfigError, "OPENAI_API_KEY"),
        (
            {"answers": two, "judge": Sending("m", "http://127.0.0.1:9/v1", max_attempts=1)},
            EndpointError,
            "no connection",
        ),
        ({"answers": two, "judge": "rule"}, DataError, "no true answer"),
        ({"answers": two, "rules": rules}, DataError, "no rule for category 'conv'"),
    ]
    for options, kind, text in cases:
        with pytest.raises(kind, match=text) as error:
            judge(**{**common, **options})
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="duplicate question id 0"):
        read_questions(save("twice.jsonl", [{"question_id": 0, "text": "x"}] * 2))
    rows = [{"question_id": n, "text": "x", "model_id": f"m{n}"} for n in range(2)]
    with pytest.raises(DataError, match="answers of 2 models"):
        read_model_answers(save("two.jsonl", rows))
    assert read_model_answers(save("qa90-answer_zh.jsonl", rows[:1])).name == "m0"
    assert read_model_answers(save("llava_zh.jsonl", [{"question_id": 0, "text": "x"}])).name == "llava"

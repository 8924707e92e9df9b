"""The parser of reviews: scores wherever they stand, and never one that nobody gave."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ziya_visual.eval.judge.score_parsing import parse_grade, parse_scores


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("8 10\nBoth are good.", (8, 10)),
        ("8.5, 9", (8.5, 9)),
        ("8/10 9/10", (8, 9)),
        ("８　９\n两个回答都很好。", (8, 9)),
        ("评分：8 9", (8, 9)),
        ("助手1：8分，助手2：9分。", (8, 9)),
        ("助手1的总体评分为8分，助手2的总体评分为9.5分。", (8, 9.5)),
        ("助理1得八分，助理2得九点五分。", (8, 9.5)),
        ("我给助手1打8分，给助手2打6分。", (8, 6)),
        ("第一个助手得分：7\n第二个助手得分：8.5", (7, 8.5)),
        ("两个助手都得到8分。", (8, 8)),
        ("I solved it.\n\nScores:\nAssistant 1: 10\nAssistant 2: 4\n\nAssistant 1 was better.", (10, 4)),
        ("**Assistant 1: 8/10**\n\n**Assistant 2: 9/10**", (8, 9)),
        ("Assistant 1:\nScore: 6/10\n- short\n\nAssistant 2:\nScore: 8/10\n- 3 good steps", (6, 8)),
        ("Assistant 1 (8/10): clear.\nAssistant 2 (6/10): vague.", (8, 6)),
        ("Assistant A: 7\nAssistant B: 8", (7, 8)),
        ("Assistant 1 receives a score of 8, and Assistant 2 receives a score of 9.", (8, 9)),
        ("Since x = 10, Assistant 1's score is 10, while Assistant 2's score is 5.", (10, 5)),
        ("I would rate Assistant 1's code a 7 out of 10 and Assistant 2's code a 9 out of 10.", (7, 9)),
        ("We rate Assistant 1's work as 10 out of 10.\nWe rate Assistant 2's work as 8 out of 10.", (10, 8)),
        ("Overall, Assistant 1 gets 8/10 and Assistant 2 gets 9/10.", (8, 9)),
        ("助手1和助手2的得分分别为8分和9分。", (8, 9)),
        ("助理1：7.5分\n助理2：8分\n理由：图中有3只狗。", (7.5, 8)),
        ("I'd give Assistant 1 an 8 and Assistant 2 a 9.", (8, 9)),
        ("We can assign a score of 5 to Assistant 1 and a score of 9 to Assistant 2.", (5, 9)),
        ("f(2) = 39 in both. Therefore, both assistants receive a score of 10.", (10, 10)),
        ("The scores for Assistant 1 and Assistant 2 are 10 and 5, respectively.", (10, 5)),
        ("Assistant 1 and Assistant 2 receive scores of 8 and 9, respectively.", (8, 9)),
        ("I would give both Assistant 1 and Assistant 2 a score of 7 out of 10.", (7, 7)),
        ("Score for Assistant 1: 10\nScore for Assistant 2: 10\nThey both receive a score of 10.", (10, 10)),
        ("So x = 5, not 10.\n\nOutput: (3, 9)", (3, 9)),
        ("Score for Assistant 1: 3/10\nScore for Assistant 2: 9/10\nFinal: (Assistant 1: 3/10, ...)", (3, 9)),
        ("Accuracy: Assistant 1: 8, Assistant 2: 7\nOverall score: Assistant 1: 9, Assistant 2: 6", (9, 6)),
        ("The distance of (2, -2) and (10, 4) is 10.\n\n(1, 8)", (1, 8)),
        ("I would give the tuple of scores (10, 4).", (10, 4)),
        ("```python\nscores = (8.0, 9.5)\n```", (8, 9.5)),
    ],
)  # fmt: skip
def test_finds_the_scores(text: str, pair: tuple[float, float]) -> None:
    assert parse_scores(text) == pair


@pytest.mark.parametrize(
    "text",
    [
        "",
        "In 2021, 8 of 10 users agreed.",
        "Assistant 1: 10 tips. Assistant 2: 5 tips.",
        "Number of tips:\nAssistant 1: 8\nAssistant 2: 6",
        "Number of tips: Assistant 1: 8, Assistant 2: 6.",
        "Assistant 1 lists 6 out of 10 items, Assistant 2 lists 7 out of 10 items.",
        "Assistant 1 makes 5 points and Assistant 2 makes 8 points.",
        "Assistant 1 scores 3 goals. Assistant 2 scores 4 goals.",
        "Assistant 1 is 8 years old and Assistant 2 is 9 years old.",
        "助手1提到了3个苹果，助手2提到了4个苹果。",
        "助手1的回答十分详细，助手2的回答十分简洁。",
        "1. First\n2. Second",
        "#1 #2",
        "50% 30%",
        "$8 $9",
        "5/10",
        "12 15",
        "2021-03-04",
        "The endpoint is (10, 4).",
        "The answer marks the point (3, 4).",
        "The midpoint is:\n(3, 4)",
        "Assistant 1: 4/5\nAssistant 2: 5/5",
        "Assistant 1: 80/100\nAssistant 2: 90/100",
        "Both deserve a score of 8-9.",
        "Assistant 1 and Assistant 2 mention 3 and 4 dogs.",
        "Please rate each answer from 1 to 10.",
        "Assistant 1: 8\nAssistant 2: 9\nOn reflection, Assistant 1: 6, Assistant 2: 9.",
        "Assistant 1: 8",
        "-3 5",
        "对不起，我无法评分。",
    ],
)
def test_refuses_what_is_no_pair_of_scores(text: str) -> None:
    assert parse_scores(text) is None


SMALL = st.integers(1, 10).map(str)
YEAR = st.integers(1900, 2030).map(str)
NAME = st.sampled_from(
    ["Assistant 1", "Assistant 2", "Answer A", "助手1", "助理2", "回答二", "Both assistants"]
)
DOES = st.sampled_from(
    ["mentions", "lists", "counts", "has", "gives", "makes", "scores", "rates", "gets", "is"]
)
THING = st.sampled_from(["dogs", "tips", "steps", "items", "percent", "minutes", "goals", "km", "colors"])
UNIT = st.sampled_from(["只狗", "个人", "条建议", "句话", "米", "分钟", "种颜色", "岁", "月"])


def made(form: str, **parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.fixed_dictionaries(parts).map(lambda values: form.format(**values))


# Numbers of every kind that judges write and that are no scores.
NUMBERS = st.one_of(
    made("In {y}", y=YEAR),
    made("on {a}/{b}/{y}", a=SMALL, b=SMALL, y=YEAR),
    made("{y}-0{a}-0{b}", y=YEAR, a=SMALL, b=SMALL),
    made("May {a}, {y}", a=SMALL, y=YEAR),
    made("{y}年{a}月{b}日", y=YEAR, a=SMALL, b=SMALL),
    made("{a}%", a=SMALL),
    made("{a} % of it", a=SMALL),
    made("百分之{a}", a=SMALL),
    made("{a}. first", a=SMALL),
    made("({a}) second", a=SMALL),
    made("{a}) 第三", a=SMALL),
    made("{n} {d} {a} {t}", n=NAME, d=DOES, a=SMALL, t=THING),
    made("{n}: {a} {t}", n=NAME, a=SMALL, t=THING),
    made("{n}: {a}%", n=NAME, a=SMALL),
    made("{n}提到了{a}{u}和{b}{u}", n=NAME, a=SMALL, b=SMALL, u=UNIT),
    made("{n}：{a}{u}", n=NAME, a=SMALL, u=UNIT),
    made("about {a} of 10 {t}", a=SMALL, t=THING),
    made("{a} out of 10 {t}", a=SMALL, t=THING),
    made("at {a}:30", a=SMALL),
    made("a scale of {a} to 10", a=SMALL),
    made("pages {a}-{b}", a=SMALL, b=SMALL),
    made("the match ended {a}:{b}", a=SMALL, b=SMALL),
    made("point ({a}, {b}) lies there", a=SMALL, b=SMALL),
    made("f({a}) = {b}", a=SMALL, b=SMALL),
    made("{t}: {a}", t=THING, a=SMALL),
    made("box [0.{a}, 0.{b}, 0.{a}, 0.{b}]", a=SMALL, b=SMALL),
    made("{a}/{b}", a=SMALL, b=SMALL),
    made("{a}.{b} km", a=SMALL, b=SMALL),
    st.sampled_from(["三分之一", "十分详细", "no scores yet", "both are good", "I would rate them highly"]),
)
JOINT = st.sampled_from([" ", ". ", "\n", ", ", "；", "。", "\n- "])


@settings(max_examples=600)
@given(st.lists(NUMBERS, min_size=1, max_size=8), JOINT)
def test_never_invents_a_score(parts: list[str], joint: str) -> None:
    assert parse_scores(joint.join(parts)) is None


@settings(max_examples=300)
@given(
    st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda halves: (halves[0] / 2, halves[1] / 2)),
    st.sampled_from(
        [
            "{a:g} {b:g}\n{noise}",
            "{noise}\n\nScores:\nAssistant 1: {a:g}\nAssistant 2: {b:g}\n\n{noise}",
            "{noise}\n\n({a:g}, {b:g})",
            "{noise}\n\nTherefore, Assistant 1's score is {a:g}, while Assistant 2's score is {b:g}.",
            "I give Assistant 1 a score of {a:g} out of 10 and Assistant 2 a score of {b:g} out of 10.",
            "{noise}\n助手1：{a:g}分，助手2：{b:g}分。\n{noise}",
        ]
    ),
    st.lists(NUMBERS, min_size=1, max_size=4).map(". ".join),
)  # fmt: skip
def test_other_numbers_do_not_move_the_scores(pair: tuple[float, float], form: str, noise: str) -> None:
    assert parse_scores(form.format(a=pair[0], b=pair[1], noise=noise + " and so on.")) == pair


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("0.5\nHalf of it is there.", 0.5),
        ("Correctness: 1.0", 1.0),
        ("**0.8**", 0.8),
        ("正确性：0.3\n少了一半。", 0.3),
        ("The answer names 3 of 4 parts.\nScore: 0.7", 0.7),
        ("0.4/1.0", 0.4),
        ("0.3 to 0.5", None),
        ("7", None),
        ("0.5\nbut then\n0.6", None),
        ("In 2021 it was 1", None),
        ("", None),
    ],
)
def test_grades(text: str, grade: float | None) -> None:
    assert parse_grade(text) == grade

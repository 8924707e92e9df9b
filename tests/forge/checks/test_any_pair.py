from pathlib import Path

import pytest

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_jsonl, write_jsonl
from ziya_visual.forge.checks.any_pair import CHECKS, check, names
from ziya_visual.forge.checks.numbers import read_numbers
from ziya_visual.forge.run import check_pairs

CLEAN = [
    ("A man rides a brown horse on the beach.", "一名男子在海滩上骑着一匹棕色的马。"),
    ("Two dogs are playing with a red ball.", "两只狗正在玩一个红色的球。"),
    ("There are no people in the room.", "房间里没有人。"),
    ("A photo taken in 1998 with 3,000 spectators.", "一张摄于1998年的照片，有三千名观众。"),
    ("A pair of shoes next to the bed", "床边有一双鞋"),
    ("The woman isn't wearing a hat; she left it at home.", "女人没戴帽子，她把它落在家里了。"),
    ("An orange and a banana on a white plate", "白色盘子里有一个橙子和一根香蕉"),
    ("Different kinds of vegetables", "不同种类的蔬菜"),
    ("Describe <image> briefly.", "简要描述 <image>。"),
    ("Nokia", "Nokia"),
    ("yes", "是"),
    ("no", "没有"),
    ("left", "左边"),
    ("2", "两个"),
    ("What is the man on the left holding?", "左边的男人拿着什么？"),
    ("The red star is to the left of the blue ring.", "红色星形在蓝色圆环的左边。"),
    ("On which side of the ring is the star?", "星形在圆环的哪一边？"),
    ("Tell me the color of the ring.", "圆环是什么颜色？"),
    ("How many small red objects are there?", "有多少个小的红色物体？"),
    ("The Red Sox won the game.", "波士顿红袜队赢得了比赛。"),
]

FAULTS = [
    ("empty", "A red ball.", " "),
    ("language", "Two dogs play.", "Deux chiens jouent."),
    ("echo", "Two dogs play outside.", "Two dogs play outside."),
    ("leftover_source", "A cat on a laptop computer", "一只猫在 laptop 电脑上"),
    ("numbers", "Two dogs are playing.", "三只狗在玩耍。"),
    ("numbers", "A crowd of 300 people", "一群人，共三千人"),
    ("numbers", "There are four red stars.", "有三个红色星形。"),
    ("numbers", "one", "个"),
    ("color", "A woman in a blue coat", "一个穿红色外套的女人"),
    ("color", "A large red star and a red ring.", "一个大的红色星形和一个圆环。"),
    ("direction", "The dog sits on the left side of the bench.", "狗坐在长椅的右侧。"),
    ("direction", "The lamp hangs above the table.", "灯放在桌子下面。"),
    ("size", "A large dog is running.", "一只小狗在跑。"),
    ("negation", "The man is not wearing a helmet.", "男子戴着头盔。"),
    ("negation", "The man is wearing a helmet.", "男子没有戴头盔。"),
    ("shape", "Is there a red heart?", "有一个红色星形吗？"),
    ("asked", "What color is the star?", "星形是什么形状？"),
    ("grouping", "A red star and a blue ring.", "一个蓝色星形和一个红色圆环。"),
    ("grouping", "The star is red.", "红色的星形。"),
    ("order", "The star is to the left of the ring.", "圆环在星形的左边。"),
    ("order", "Left to right: a star and a ring.", "从左到右：一个圆环和一个星形。"),
    ("unknown_words", "The red star is large.", "红色星形是大的猫。"),
    ("placeholders", "Look at <image> please.", "请看图片。"),
    ("preamble", "A dog runs in the park.", "好的，以下是翻译：一只狗在公园里跑。"),
    ("preamble", "A dog runs in the park.", "翻译：一只狗在公园里跑。"),
    ("refusal", "A man holds a knife.", "抱歉，我无法翻译这个句子。"),
    ("refusal", "A man holds a knife.", "作为一个人工智能语言模型，我没有看到刀。"),
    ("punctuation", "A dog runs in the park.", "一只狗在公园里跑，。"),
    ("repetition", "A dog runs in the park.", "一只狗在公园公园公园公园公园里跑。"),
    ("truncated", "A dog runs in the park, and a cat sleeps.", "一只狗在公园里跑，"),
    ("length", "A dog runs in the park near a big lake with many trees and some birds.", "狗。"),
    ("length", "A dog.", "一只狗在阳光明媚的公园里欢快地奔跑着，旁边还有许多孩子在追逐嬉戏。"),
    ("not_a_question", "Is the man riding a horse?", "男人骑着一匹马。"),
    ("other_text", "A dog chases a cat near a tree.", "厨房里有一台冰箱。"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "target"), CLEAN)
def test_good_translations_pass(source: str, target: str) -> None:
    assert check(source, target, source_lang="en", target_lang="zh") == []
    if source != target:
        assert check(target, source, source_lang="zh-CN", target_lang="en") == []


@pytest.mark.parametrize(("reason", "source", "target"), FAULTS)
def test_each_fault_has_its_reason(reason: str, source: str, target: str) -> None:
    assert reason in check(source, target, source_lang="en", target_lang="zh")


def test_other_language_pairs_are_judged_without_the_lexicon() -> None:
    assert check("Two dogs.", "Zwei Hunde.", source_lang="en", target_lang="de") == []
    assert check("Two dogs.", "两只狗。", source_lang="en", target_lang="de") == ["language"]


# Good pairs, pairs with a fault, and pairs whose fault only a lexicon of the two languages would find.
SPANISH_FILE = Path(__file__).parents[2] / "fixtures" / "forge" / "en-es.jsonl"
SPANISH = [row for _, row in read_jsonl(SPANISH_FILE)]


@pytest.mark.parametrize("row", SPANISH, ids=lambda row: row["id"])
def test_spanish_is_judged_without_a_lexicon(row: dict[str, str]) -> None:
    kind, source, target = row["id"].partition("-")[0], row["source"], row["target"]
    found = check(source, target, source_lang="en", target_lang="es")
    if kind == "fault":
        assert row["reason"] in found
        return
    assert found == []
    if kind == "good":
        assert check(target, source, source_lang="es-MX", target_lang="en") == []


def test_what_was_not_asked_is_not_claimed() -> None:
    assert "lexicon" in names("en", "zh-CN")
    assert "lexicon" not in names("en", "es")


def test_a_file_of_spanish_pairs_is_judged(tmp_path: Path) -> None:
    summary = check_pairs(SPANISH_FILE, source_lang="en", target_lang="es", out=tmp_path / "out.jsonl")
    judged = {row["id"]: row["ok"] for _, row in read_jsonl(tmp_path / "out.jsonl")}
    assert judged == {row["id"]: not row["id"].startswith("fault") for row in SPANISH}
    assert (summary["pairs"], summary["ok"]) == (len(SPANISH), sum(judged.values()))


@pytest.mark.parametrize(
    ("lang", "text", "expected"),
    [
        ("en", "twenty-one dogs, 3,500 cats and two hundred and six birds", {21, 3500, 206}),
        ("zh", "二十一只狗、三千五百只猫和两百零六只鸟", {21, 3500, 206}),
        ("en", "1.5 million", {1500000}),
        ("zh", "150万", {1500000}),
        ("zh", "一个苹果", set()),
        ("en", "one apple", set()),
        ("zh", "一九九八年", {1998}),
    ],
)
def test_numbers_are_read(lang: str, text: str, expected: set[float]) -> None:
    assert set(read_numbers(text, lang)[0]) == expected


def test_every_row_is_judged(tmp_path: Path) -> None:
    rows = [{"id": "a", "source": "two", "target": "两个"}, {"id": "b", "source": "two"}, [1]]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    out = tmp_path / "out.jsonl"
    summary = check_pairs(tmp_path / "pairs.jsonl", source_lang="en", target_lang="zh", out=out)
    assert summary == {"pairs": 3, "ok": 1, "reasons": {"not_a_pair": 2}, "near_duplicates": 0}
    assert [row for _, row in read_jsonl(out)] == [
        {"id": "a", "ok": True, "reasons": []},
        {"id": "b", "ok": False, "reasons": ["not_a_pair"]},
        {"id": 3, "ok": False, "reasons": ["not_a_pair"]},
    ]
    with pytest.raises(DataError, match="both 'en'"):
        check_pairs(tmp_path / "pairs.jsonl", source_lang="en", target_lang="en", out=out)


def test_every_check_has_a_fault_that_it_finds() -> None:
    assert set(CHECKS) <= {reason for reason, _, _ in FAULTS}

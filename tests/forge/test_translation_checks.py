from pathlib import Path

import pytest

from ziya_visual.core.errors import DataError
from ziya_visual.core.io import read_jsonl, write_jsonl
from ziya_visual.forge.checks import check, names
from ziya_visual.forge.numbers import read_numbers
from ziya_visual.forge.pairs import check_pairs

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


SPANISH = [
    ("A man rides a brown horse on the beach.", "Un hombre monta un caballo marrón en la playa."),
    ("Two dogs are playing with a red ball.", "Dos perros juegan con una pelota roja."),
    ("There are no people in the room.", "No hay nadie en la habitación."),
    ("A photo taken in 1998 with 3,000 spectators.", "Una foto tomada en 1998 con 3.000 espectadores."),
    ("The woman isn't wearing a hat; she left it at home.", "La mujer no lleva sombrero; lo dejó en casa."),
    ("An animal in a natural park, near a hotel", "Un animal en un parque natural, cerca de un hotel"),
    ("Describe <image> briefly.", "Describe <image> brevemente."),
    ("What is the man on the left holding?", "¿Qué sostiene el hombre de la izquierda?"),
    ("Where is the ring from the star?", "¿Dónde está el anillo respecto a la estrella?"),
    ("Twelve candles on a chocolate cake", "Doce velas en una tarta de chocolate"),
    ("no", "no"),
    ("12 people wait in line at Gate 7.", "12 personas hacen cola en la puerta 7."),
]  # fmt: skip

SPANISH_FAULTS = [
    ("empty", "A red ball.", ""),
    ("language", "Two dogs play.", "两只狗在玩。"),
    ("echo", "Two dogs play outside.", "Two dogs play outside."),
    ("leftover_source", "Two dogs play outside in the park.", "Dos dogs play outside en the park."),
    ("numbers", "A photo taken in 1998.", "Una foto tomada en 1989."),
    ("numbers", "A crowd of 3,000 people", "Una multitud de 300 personas"),
    ("placeholders", "Look at <image> please.", "Mira la imagen, por favor."),
    ("preamble", "A dog runs in the park.", "Sure, here is the translation: Un perro corre por el parque."),
    ("refusal", "A man holds a knife.", "I'm sorry, I can't help with that."),
    ("repetition", "A dog runs in the park.", "Un perro corre corre corre corre corre por el parque."),
    ("truncated", "A dog runs in the park, and a cat sleeps.", "Un perro corre por el parque,"),
    ("length", "A dog runs in the park near a big lake with many trees and some birds.", "Un perro."),
    ("not_a_question", "Is the man riding a horse?", "El hombre monta a caballo."),
]  # fmt: skip
# What only a lexicon of the two languages would find.
SPANISH_MISSED = [
    ("Two dogs are playing.", "Tres perros están jugando."),
    ("A woman in a blue coat", "Una mujer con un abrigo rojo"),
    ("The lamp hangs above the table.", "La lámpara está debajo de la mesa."),
    ("The man is not wearing a helmet.", "El hombre lleva casco."),
    ("A dog chases a cat near a tree.", "En la cocina hay una nevera vieja."),
]


@pytest.mark.parametrize(("source", "target"), SPANISH)
def test_good_spanish_passes_either_way(source: str, target: str) -> None:
    assert check(source, target, source_lang="en", target_lang="es") == []
    assert check(target, source, source_lang="es-MX", target_lang="en") == []


@pytest.mark.parametrize(("reason", "source", "target"), SPANISH_FAULTS)
def test_faults_are_found_without_a_lexicon(reason: str, source: str, target: str) -> None:
    assert reason in check(source, target, source_lang="en", target_lang="es")


@pytest.mark.parametrize(("source", "target"), SPANISH_MISSED)
def test_what_takes_a_lexicon_is_not_found_and_not_claimed(source: str, target: str) -> None:
    assert check(source, target, source_lang="en", target_lang="es") == []
    assert "lexicon" in names("en", "zh-CN")
    assert "lexicon" not in names("en", "es")


def test_a_file_of_spanish_pairs_is_judged(tmp_path: Path) -> None:
    good = [{"id": n, "source": s, "target": t} for n, (s, t) in enumerate(SPANISH)]
    bad = [{"id": f"bad-{n}", "source": s, "target": t} for n, (_, s, t) in enumerate(SPANISH_FAULTS)]
    write_jsonl(tmp_path / "pairs.jsonl", good + bad)
    summary = check_pairs(
        tmp_path / "pairs.jsonl", source_lang="en", target_lang="es", out=tmp_path / "out.jsonl"
    )
    assert (summary["pairs"], summary["ok"]) == (len(good + bad), len(good))
    assert all(row["ok"] == isinstance(row["id"], int) for _, row in read_jsonl(tmp_path / "out.jsonl"))


@pytest.mark.parametrize(
    ("lang", "text", "said"),
    [
        ("en", "twenty-one dogs, 3,500 cats and two hundred and six birds", {"21", "3500", "206"}),
        ("zh", "二十一只狗、三千五百只猫和两百零六只鸟", {"21", "3500", "206"}),
        ("en", "1.5 million", {"1500000"}),
        ("zh", "150万", {"1500000"}),
        ("zh", "一个苹果", set()),
        ("en", "one apple", set()),
        ("zh", "一九九八年", {"1998"}),
    ],
)
def test_numbers_are_read(lang: str, text: str, said: set[str]) -> None:
    assert set(read_numbers(text, lang)[0]) == said


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

"""The grammar: what it says it can read back, in every language, and its answers are true."""

import collections
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ziya_visual.core.errors import DataError
from ziya_visual.scenes import language, lessons, questions
from ziya_visual.scenes.drawing import sample_scene
from ziya_visual.scenes.language import (
    COLORS,
    EVAL_PHRASINGS,
    HELD_OUT,
    PHRASINGS,
    QUESTION_TYPES,
    SHAPES,
    SIZES,
    TASKS,
    TRAIN_PHRASINGS,
    Language,
    Meaning,
    Phrase,
    fits,
    is_image_text,
)
from ziya_visual.scenes.parsing import keywords, parse

LANGS = ("en", "zh", "es")
FULL = st.builds(Phrase, st.sampled_from(SIZES), st.sampled_from(COLORS), st.sampled_from(SHAPES))
ANY = st.builds(
    Phrase,
    st.sampled_from((None, *SIZES)),
    st.sampled_from((None, *COLORS)),
    st.sampled_from((None, *SHAPES)),
)


@settings(deadline=None)  # the patterns are compiled at the first call
@given(st.lists(FULL, min_size=1, max_size=4), st.integers(0, 9), st.sampled_from(LANGS))
def test_a_caption_is_read_back(things: list[Phrase], phrasing: int, lang: str) -> None:
    meaning = Meaning("caption", tuple(things))
    text = Language.load(lang).say(meaning, phrasing)
    assert parse(text, lang) == meaning
    kinds = ["shape" if part == "noun" else part for part in Language.load(lang).phrase]
    said = [getattr(thing, kind) for thing in things for kind in kinds]
    assert [word.split(":")[1] for word in keywords(text, lang)] == said


@settings(deadline=None)
@given(ANY, ANY, st.sampled_from(QUESTION_TYPES), st.integers(0, 9), st.sampled_from(LANGS))
def test_a_question_is_read_back(first: Phrase, second: Phrase, task: str, phrasing: int, lang: str) -> None:
    meaning = Meaning(task, (first, second) if task == "relation" else (first,))
    assert parse(Language.load(lang).say(meaning, phrasing), lang) == meaning


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("task", QUESTION_TYPES)
def test_every_reply_and_short_answer_is_read_back(task: str, lang: str) -> None:
    language = Language.load(lang)
    things = (Phrase("large", "red", "ring"), Phrase(None, "blue", None))
    for value in language.words[task]:
        meaning = Meaning(task, things if task == "relation" else things[:1], value)
        assert parse(language.reply(meaning), lang) == meaning
        assert parse(language.answer(task, value), lang) == Meaning(task, (), value)


@pytest.mark.parametrize(
    "text",
    ["", "hello", "What color is the", "a large red", "红色的", "从左到右有", "¿De qué color es la", "roja"],
)
@pytest.mark.parametrize("lang", LANGS)
def test_what_is_no_sentence_is_not_read(text: str, lang: str) -> None:
    assert parse(text, lang) is None


@pytest.mark.parametrize(
    ("lang", "task", "phrasing", "things", "said"),
    [
        ("en", "exist", 0, [("large", "orange", "star")], "Is there a large orange star?"),
        ("en", "exist", 0, [(None, "orange", "star")], "Is there an orange star?"),
        ("en", "count", 0, [(None, "red", "cross")], "How many red crosses are there?"),
        ("zh", "exist", 0, [("large", "orange", "star")], "有一个大的橙色星形吗？"),
        ("es", "count", 0, [("large", "red", "cross")], "¿Cuántas cruces rojas grandes hay?"),
        ("es", "count", 0, [("small", "white", None)], "¿Cuántos objetos blancos pequeños hay?"),
        ("es", "count", 3, [("small", "blue", "crescent")], "Cuenta las medias lunas azules pequeñas."),
        ("es", "count", 4, [(None, "purple", "heart")], "¿Cuál es el número de corazones morados?"),
        ("es", "color", 1, [("small", None, "circle")], "¿Cuál es el color del círculo pequeño?"),
        ("es", "color", 1, [("small", None, "star")], "¿Cuál es el color de la estrella pequeña?"),
        (
            "es", "relation", 3, [("small", "red", "ring"), (None, "black", "crescent")],
            "En la imagen, ¿dónde está el anillo rojo pequeño respecto a la media luna negra?",
        ),
        (
            "es", "caption", 0,
            [(None, "yellow", "star"), ("large", None, "square"), ("small", None, "ring")],
            "De izquierda a derecha hay una estrella amarilla, un cuadrado grande y un anillo pequeño.",
        ),
    ],
)  # fmt: skip
def test_words_agree(
    lang: str, task: str, phrasing: int, things: list[tuple[str | None, ...]], said: str
) -> None:
    meaning = Meaning(task, tuple(Phrase(*thing) for thing in things))
    assert Language.load(lang).say(meaning, phrasing) == said


@pytest.mark.parametrize(
    ("task", "things", "value", "said"),
    [
        ("color", [("large", None, "star")], "red", "La estrella grande es de color rojo."),
        ("count", [(None, "red", "star")], "1", "Solo hay una estrella roja."),
        ("count", [(None, "red", "star")], "3", "Hay tres estrellas rojas."),
        ("exist", [(None, "green", "crescent")], "no", "No, no veo ninguna media luna verde."),
        ("relation", [(None, "green", "cross"), ("large", None, None)], "above",
         "La cruz verde está por encima del objeto grande."),
    ],
)  # fmt: skip
def test_spanish_replies_agree(
    task: str, things: list[tuple[str | None, ...]], value: str, said: str
) -> None:
    meaning = Meaning(task, tuple(Phrase(*thing) for thing in things), value)
    assert Language.load("es").reply(meaning) == said


@pytest.mark.parametrize(
    ("old", "new", "lacking"),
    [
        ("words:", "wrods:", "lacks one of the sections words, grammar, phrasings, replies"),
        ('"no": "no"', "no: no", r"lacks words.exist for no \(yes, no and numbers in quotes\)"),
        ("star: estrella, ", "", "lacks words.shape for star"),
        ('    - "¿Ves {a}?"\n', "", "lacks 10 phrasings of exist, found 9"),
        ("  joined:", "  join:", "lacks grammar.joined"),
        ("  how_many:", "  howmany:", "lacks grammar.slots for How_many, how_many"),
        ('  color: "{The} es', '  colour: "{The} es', "lacks replies to color"),
    ],
)
def test_a_file_that_lacks_something_says_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, lacking: str
) -> None:
    text = (language.FOLDER / "es.yaml").read_text("utf-8")
    assert old in text
    (tmp_path / "xx.yaml").write_text(text.replace(old, new), "utf-8")
    monkeypatch.setattr(language, "FOLDER", tmp_path)
    with pytest.raises(DataError, match=rf"xx\.yaml: {lacking}"):
        Language.load("xx")


def test_a_language_without_a_file_says_which_there_are() -> None:
    with pytest.raises(DataError, match=r"scenes speak en, es, zh, not 'fr'"):
        Language.load("fr")


@pytest.mark.parametrize("lang", LANGS)
def test_one_phrasing_in_five_is_for_evaluation_and_all_differ(lang: str) -> None:
    assert len(EVAL_PHRASINGS) * 5 == PHRASINGS == len(EVAL_PHRASINGS) + len(TRAIN_PHRASINGS)
    for task in TASKS:
        assert len(set(Language.load(lang).phrasings[task])) == PHRASINGS


def test_held_out_pairs_leave_every_word_to_be_learnt() -> None:
    pairs = {(shape, color) for shape in SHAPES for color in COLORS} - HELD_OUT
    assert {shape for shape, _ in pairs} == set(SHAPES)
    assert {color for _, color in pairs} == set(COLORS)


@given(st.integers(0, 10**6), st.booleans())
def test_scenes_hold_out_what_they_promise(seed: int, held_out: bool) -> None:
    scene = sample_scene(np.random.default_rng(seed), held_out=held_out)
    assert sum(questions.is_held_out(thing.what) for thing in scene.things) == int(held_out)
    assert [thing.x for thing in scene.things] == sorted(thing.x for thing in scene.things)


@given(st.integers(0, 10**6), st.sampled_from(QUESTION_TYPES), st.booleans())
def test_answers_are_true(seed: int, kind: str, held_out: bool) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, held_out=held_out)
    meaning = questions.ask(rng, scene, kind, held_out=held_out)
    if meaning is None:
        return
    named = [[t for t in scene.things if fits(t.what, phrase)] for phrase in meaning.things]
    if kind == "count":
        assert str(len(named[0])) == meaning.value
    elif kind == "exist":
        assert (len(named[0]) > 0) == (meaning.value == "yes")
        if held_out:
            assert (meaning.things[0].shape, meaning.things[0].color) in HELD_OUT
    else:
        assert all(len(things) == 1 for things in named), "every thing named is the only one"
        if held_out:
            assert questions.is_held_out(named[0][0].what)
        if kind == "relation":
            a, b = named[0][0], named[1][0]
            true = {"left": a.x < b.x, "right": a.x > b.x, "above": a.y < b.y, "below": a.y > b.y}
            assert true[str(meaning.value)]
        else:
            assert getattr(named[0][0].what, kind) == meaning.value


def test_answers_are_balanced_within_each_type() -> None:
    rng = np.random.default_rng(0)
    counts: dict[str, collections.Counter] = {kind: collections.Counter() for kind in QUESTION_TYPES}
    for _ in range(3000):
        scene = sample_scene(rng, held_out=False)
        for kind in QUESTION_TYPES:
            meaning = questions.ask(rng, scene, kind)
            if meaning is not None:
                counts[kind][meaning.value] += 1
    for kind, values in counts.items():
        assert max(values.values()) < 1.5 * min(values.values()), (kind, values)


def test_the_language_models_text_keeps_away_from_the_forges_side_and_from_evaluation() -> None:
    rng = np.random.default_rng(0)
    english = Language.load("en")
    for _ in range(500):
        source, target = lessons.sentence_pair(rng)
        assert parse(source, "en") == parse(target, "zh") is not None
        if " " in source:
            assert not is_image_text(source)
    kept = {english.phrasings[task][n].partition("{")[0] for task in TASKS for n in EVAL_PHRASINGS}
    seen = {english.phrasings[task][n].partition("{")[0] for task in TASKS for n in TRAIN_PHRASINGS}
    openings = tuple(kept - seen)
    for _ in range(200):
        for dialogue in lessons.reading(rng, lessons.LESSONS[-1])[1]:
            text = dialogue[0].content.removesuffix(" Answer briefly.")
            meaning = parse(text, "en")
            if meaning is not None:
                said = [english.say(meaning, n) for n in EVAL_PHRASINGS]
                trained = [english.say(meaning, n) for n in TRAIN_PHRASINGS]
                assert text not in said or text in trained, (text, openings)

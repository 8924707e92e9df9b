"""The text that the tiny language model is pre-trained on: questions about object lists, and translation.

A list takes the place of the image tokens of later stages and has as many places; an object, as its words and
its position, fills one. The translation text never holds a sentence of the image data
(:func:`~.language.is_image_text`), and no text uses an evaluation phrasing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ziya_visual.core.records import Message
from ziya_visual.scenes import questions
from ziya_visual.scenes.drawing import Scene, sample_scene
from ziya_visual.scenes.language import (
    QUESTION_TYPES,
    TRAIN_PHRASINGS,
    Language,
    Meaning,
    Phrase,
    fits,
    is_image_text,
)

PLACES = 16
STRIDES = 8
TRANSLATE = "Translate into Chinese:\n"
LANGS = ("en", "zh")
BRIEF = {"en": " Answer briefly.", "zh": "请简短回答。"}
DESCRIBE = {
    "en": ["Describe the picture.", "What is in the picture?", "What do you see?", "Caption:"],
    "zh": ["描述图片。", "图片里有什么？", "你看到什么？", "标题："],
}
SHARES = (0.14, 0.14, 0.08, 0.12, 0.25, 0.27)  # of the question types, in their order
RELATIONS = (0.06, 0.06, 0.05, 0.07, 0.1, 0.66)
CAPTIONED = 0.3  # fraction of the lists; captions are long and would dominate the loss if more frequent
TERSE = {
    "en": {"color": "{0}: color?", "shape": "{0}: shape?", "size": "{0}: size?", "count": "{many}: how many?",
           "exist": "{0}?", "relation": "from {1}: {0}?"},
    "zh": {"color": "{0}：颜色？", "shape": "{0}：形状？", "size": "{0}：大小？", "count": "{many}：多少？",
           "exist": "{0}？", "relation": "从{1}看：{0}？"},
}  # fmt: skip
Rng = np.random.Generator


def object_list(rng: Rng, scene: Scene) -> list[str]:
    """Return ``PLACES`` strings, each empty or one object: ``large red circle 大红色圆形 right below below``.

    The objects are in random order. ``right`` and ``below`` occur once for every eighth of the side between
    the object and the left or top edge.
    """
    places = [""] * PLACES
    for thing, place in zip(scene.things, rng.permutation(PLACES), strict=False):
        words = [Language.load(lang).noun(thing.what) for lang in LANGS]
        steps = ["right"] * int(thing.x * STRIDES) + ["below"] * int(thing.y * STRIDES)
        places[place] = " ".join([*words, *steps])
    return places


def phrasing(rng: Rng) -> int:
    """Draw one of the training phrasings."""
    return TRAIN_PHRASINGS[rng.integers(len(TRAIN_PHRASINGS))]


def any_question(rng: Rng, scene: Scene, shares: Sequence[float] = SHARES) -> Meaning:
    """Draw a question that the scene offers; types that are harder to learn are more frequent."""
    while True:
        meaning = questions.ask_in_training(rng, scene, str(rng.choice(QUESTION_TYPES, p=shares)))
        if meaning is not None:
            return meaning


def ask_briefly(rng: Rng, meaning: Meaning, lang: str) -> tuple[Message, Message]:
    """Return a question and its short answer."""
    language = Language.load(lang)
    question = language.say(meaning, phrasing(rng)) + BRIEF[lang]
    return Message("user", question), Message("assistant", language.answer(meaning.task, str(meaning.value)))


def describe(rng: Rng, scene: Scene, lang: str) -> tuple[Message, Message]:
    """Return a request for a caption, and the caption."""
    prompt = DESCRIBE[lang][rng.integers(len(DESCRIBE[lang]))]
    caption = Language.load(lang).say(questions.caption(scene), phrasing(rng))
    return Message("user", prompt), Message("assistant", caption)


@dataclass(frozen=True, slots=True)
class Lesson:
    """The curriculum for one part of the language model's training.

    Order matters: the binding of words to objects is learned within 200 steps if nothing else is asked, and
    not within 600 if everything is asked from the start (docs/log.md).

    Attributes:
        until: The fraction of all steps at which the lesson ends.
        least, most: The number of objects in a list.
        shares: Frequencies of the question types, in their order.
        terse: Questions of a few words per list.
        whole: Questions in whole sentences per list, sometimes with a caption.
        translations: Translation requests per step.
        settles: Whether the learning rate decays in this lesson.
    """

    until: float
    least: int
    most: int
    shares: tuple[float, ...]
    terse: int
    whole: int = 0
    translations: int = 0
    settles: bool = False


LESSONS = (
    Lesson(0.104, least=2, most=2, shares=(0.5, 0.5, 0, 0, 0, 0), terse=7),
    Lesson(0.2727, least=2, most=4, shares=(0.15, 0.15, 0.15, 0.15, 0.4, 0), terse=7, whole=2),
    Lesson(0.4675, least=2, most=3, shares=RELATIONS, terse=8),
    Lesson(0.8442, least=1, most=4, shares=SHARES, terse=2, whole=4, translations=16, settles=True),
    Lesson(1, least=1, most=4, shares=SHARES, terse=1, whole=2, translations=24, settles=True),
)


def lesson_at(step: int, steps: int) -> tuple[Lesson, int, int]:
    """Return the lesson of a step, its first step and its number of steps."""
    begins = 0
    for lesson in LESSONS:
        ends = round(lesson.until * steps)
        if step < ends:
            return lesson, begins, ends - begins
        begins = ends
    raise ValueError(f"step {step} of {steps}")


def offering(rng: Rng, lesson: Lesson) -> Scene:
    """Draw a scene that offers a question of the lesson."""
    kinds = [kind for kind, share in zip(QUESTION_TYPES, lesson.shares, strict=True) if share]
    while True:
        count = int(rng.integers(lesson.least, lesson.most + 1))
        scene = sample_scene(rng, held_out=bool(rng.random() < 0.15), count=count)
        if any(questions.ask(rng, scene, kind) for kind in kinds):
            return scene


def reading(rng: Rng, lesson: Lesson) -> tuple[list[str], list[tuple[Message, ...]]]:
    """Draw a list of objects, and dialogues about it: questions and sometimes a caption."""
    scene = offering(rng, lesson)

    def lang() -> str:
        return LANGS[rng.integers(2)]

    dialogues = [terse(rng, scene, lang(), lesson.shares) for _ in range(lesson.terse)]
    for _ in range(lesson.whole):
        meaning = any_question(rng, scene, lesson.shares)
        dialogues.append(ask_whole(rng, meaning, lang()))
    if lesson.whole and rng.random() < CAPTIONED:
        dialogues.append(describe(rng, scene, lang()))
    return object_list(rng, scene), dialogues


def ask_whole(rng: Rng, meaning: Meaning, lang: str) -> tuple[Message, ...]:
    """Return a whole-sentence question and its short answer, or in one of eight cases a sentence."""
    if rng.random() < 0.12:
        language = Language.load(lang)
        question = language.say(meaning, phrasing(rng))
        return Message("user", question), Message("assistant", language.reply(meaning))
    return ask_briefly(rng, meaning, lang)


def terse(rng: Rng, scene: Scene, lang: str, shares: Sequence[float]) -> tuple[Message, ...]:
    """Draw a question of a few words; questions of existence also take an easier form."""
    language = Language.load(lang)
    meaning = any_question(rng, scene, shares)
    if meaning.task == "exist" and rng.random() < 0.5:
        meaning = easy_exist(rng, scene)
    nouns = [language.noun(thing) for thing in meaning.things]
    question = TERSE[lang][meaning.task].format(*nouns, many=language.noun(meaning.things[0], plural=True))
    return Message("user", question), Message("assistant", language.answer(meaning.task, str(meaning.value)))


def easy_exist(rng: Rng, scene: Scene) -> Meaning:
    """Draw a question of existence from any attributes, at random where the answer is no."""
    there = bool(rng.random() < 0.5)
    while True:
        thing = scene.things[rng.integers(len(scene.things))]
        of = thing.what if there else sample_scene(rng, held_out=False, count=1).things[0].what
        named = itertools.compress(("size", "color", "shape"), rng.random(3) < 0.45)
        phrase = Phrase(**{kind: getattr(of, kind) for kind in named})
        if phrase != Phrase() and any(fits(t.what, phrase) for t in scene.things) == there:
            return Meaning("exist", (phrase,), "yes" if there else "no")


def sentence_pair(rng: Rng, *, for_forge: bool = False) -> tuple[str, str]:
    """Draw an English sentence and its Chinese: a caption, question, reply or short answer.

    The pair belongs to the language model's text, or with ``for_forge`` to the image data; one-word answers
    belong to both.
    """
    english, chinese = (Language.load(lang) for lang in LANGS)
    while True:
        scene = sample_scene(rng, held_out=False)
        kind = rng.random()
        meaning = questions.caption(scene) if kind < 0.35 else _vary(rng, any_question(rng, scene))
        if kind < 0.65:
            number = phrasing(rng)
            pair = english.say(meaning, number), chinese.say(meaning, number)
        elif kind < 0.8:
            pair = english.reply(meaning), chinese.reply(meaning)
        else:
            answer = meaning.task, str(meaning.value)
            return english.answer(*answer), chinese.answer(*answer)
        if is_image_text(pair[0]) == for_forge:
            return pair


def _vary(rng: Rng, meaning: Meaning) -> Meaning:
    """Swap the attributes of an object in half of the cases; a language model has read every pair."""
    if rng.random() < 0.5:
        return meaning
    what = sample_scene(rng, held_out=bool(rng.random() < 0.3)).things[0].what
    first, *others = meaning.things
    swapped = Phrase(first.size and what.size, first.color and what.color, first.shape and what.shape)
    return Meaning(meaning.task, (swapped, *others), meaning.value)


def translation(rng: Rng) -> tuple[Message, Message]:
    """Draw a request to translate one to four lines, numbered if several, and its reply."""
    pairs = [sentence_pair(rng) for _ in range(rng.integers(1, 5))]
    if len(pairs) > 1:
        pairs = [
            (f"{n}. {english}", f"{n}. {chinese}") for n, (english, chinese) in enumerate(pairs, start=1)
        ]
    source, target = map("\n".join, zip(*pairs, strict=True))
    return Message("user", TRANSLATE + source), Message("assistant", target)

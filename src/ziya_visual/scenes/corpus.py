"""What the tiny language model reads: object lists, captions and answers from lists, translation.

A list stands where an image's tokens will stand later: one object is its words and a cell of a 10 x 10 grid,
in any order. The translation text never holds a sentence of the image data's side
(:func:`grammar.forge_side`), nor any text a phrasing that is kept for evaluation.
"""

from __future__ import annotations

import numpy as np

from ziya_visual.core.records import Message
from ziya_visual.scenes import questions
from ziya_visual.scenes.draw import Scene, sample_scene
from ziya_visual.scenes.grammar import QUESTION_TYPES, TRAIN_PHRASINGS, Language, Meaning, Phrase, forge_side

CELLS = 10
TRANSLATE = "Translate into Chinese:\n"
LANGS = ("en", "zh")
BRIEF = {"en": " Answer briefly.", "zh": "请简短回答。"}
DESCRIBE = {
    "en": ["Describe the picture.", "What is in the picture?", "What do you see?", "Caption:"],
    "zh": ["描述图片。", "图片里有什么？", "你看到什么？", "标题："],
}
SHARES = (0.15, 0.2, 0.1, 0.1, 0.2, 0.25)  # of the question types, in their order
Rng = np.random.Generator


def object_list(rng: Rng, scene: Scene, lang: str) -> str:
    """``large red circle 25;small blue ring 61`` in a random order; column, then row."""
    language = Language.load(lang)
    entries = []
    for index in rng.permutation(len(scene.things)):
        thing = scene.things[index]
        cell = f"{int(thing.x * CELLS)}{int(thing.y * CELLS)}"
        entries.append(f"{language.noun(thing.what)} {cell}")
    return ";".join(entries)


def phrasing(rng: Rng) -> int:
    """One of the phrasings that may be trained on."""
    return TRAIN_PHRASINGS[rng.integers(len(TRAIN_PHRASINGS))]


def any_question(rng: Rng, scene: Scene) -> Meaning:
    """A question that the scene offers; types that are harder to learn are asked oftener."""
    while True:
        meaning = questions.ask(rng, scene, str(rng.choice(QUESTION_TYPES, p=SHARES)))
        if meaning is not None:
            return meaning


def ask_briefly(rng: Rng, meaning: Meaning, lang: str) -> tuple[Message, Message]:
    """Question and short answer."""
    assert meaning.value is not None
    language = Language.load(lang)
    question = language.say(meaning, phrasing(rng)) + BRIEF[lang]
    return Message("user", question), Message("assistant", language.answer(meaning.task, meaning.value))


def describe(rng: Rng, scene: Scene, lang: str) -> tuple[Message, Message]:
    """A request for a caption, and the caption."""
    prompt = DESCRIBE[lang][rng.integers(len(DESCRIBE[lang]))]
    said = Language.load(lang).say(questions.caption(scene), phrasing(rng))
    return Message("user", prompt), Message("assistant", said)


def reading(rng: Rng, *, most: int = 4) -> tuple[str, list[tuple[Message, ...]]]:
    """A list of one to ``most`` objects, and dialogues about it: nine questions, now and then a caption."""
    count = int(rng.integers(1, most + 1))
    scene = sample_scene(rng, held_out=bool(rng.random() < 0.15), count=count)
    dialogues: list[tuple[Message, ...]] = []
    if rng.random() < 0.3:  # captions are long: oftener, they would be most of what is learnt
        dialogues.append(describe(rng, scene, LANGS[rng.integers(2)]))
    for _ in range(9):
        meaning, lang = any_question(rng, scene), LANGS[rng.integers(2)]
        if rng.random() < 0.12:
            language = Language.load(lang)
            asked = Message("user", language.say(meaning, phrasing(rng)))
            dialogues.append((asked, Message("assistant", language.reply(meaning))))
        else:
            dialogues.append(ask_briefly(rng, meaning, lang))
    return object_list(rng, scene, LANGS[rng.integers(2)]), dialogues


def sentence_pair(rng: Rng, *, for_forge: bool = False) -> tuple[str, str]:
    """An English sentence and its Chinese: captions, questions, replies and short answers.

    The pair is of the language model's side, or with ``for_forge`` of the image data's; one-word answers
    are on both.
    """
    english, chinese = (Language.load(lang) for lang in LANGS)
    while True:
        scene = sample_scene(rng, held_out=False)
        kind = rng.random()
        if kind < 0.4:
            meaning, number = questions.caption(scene), phrasing(rng)
            pair = english.say(meaning, number), chinese.say(meaning, number)
        else:
            meaning = _vary(rng, any_question(rng, scene))
            assert meaning.value is not None
            if kind < 0.75:
                number = phrasing(rng)
                pair = english.say(meaning, number), chinese.say(meaning, number)
            elif kind < 0.93:
                pair = english.reply(meaning), chinese.reply(meaning)
            else:
                return tuple(lang.answer(meaning.task, meaning.value) for lang in (english, chinese))  # type: ignore[return-value]
        if forge_side(pair[0]) == for_forge:
            return pair


def _vary(rng: Rng, meaning: Meaning) -> Meaning:
    """Half of the time say other attributes, any pair included: a language model has read them all."""
    if rng.random() < 0.5:
        return meaning
    shuffled = tuple(Phrase(t.size, t.color, t.shape) for t in meaning.things)
    what = sample_scene(rng, held_out=bool(rng.random() < 0.3)).things[0].what
    first = shuffled[0]
    swapped = Phrase(first.size and what.size, first.color and what.color, first.shape and what.shape)
    return Meaning(meaning.task, (swapped, *shuffled[1:]), meaning.value)


def translation(rng: Rng, max_lines: int = 4) -> tuple[Message, Message]:
    """A request for one to four lines of translation, numbered where they are several, and the reply."""
    count = int(rng.integers(1, max_lines + 1))
    pairs = [sentence_pair(rng) for _ in range(count)]
    source, target = ("\n".join(numbered([pair[side] for pair in pairs])) for side in (0, 1))
    return Message("user", TRANSLATE + source), Message("assistant", target)


def numbered(lines: list[str]) -> list[str]:
    """``1. ...``, ``2. ...``; a single line stays as it is."""
    return lines if len(lines) == 1 else [f"{number}. {line}" for number, line in enumerate(lines, start=1)]

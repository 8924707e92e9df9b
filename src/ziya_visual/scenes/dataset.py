"""Scenes as records: English training data for the forge to translate, and evaluation data in any language.

Training sentences all belong to the image data (:func:`~.language.is_image_text`) and use the training
phrasings; evaluation uses the other two phrasings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ziya_visual.core import log
from ziya_visual.core.records import Example, ImageRef, Message, Provenance
from ziya_visual.scenes import questions
from ziya_visual.scenes.drawing import Scene, render, sample_scene
from ziya_visual.scenes.language import (
    EVAL_PHRASINGS,
    PHRASINGS,
    QUESTION_TYPES,
    TRAIN_PHRASINGS,
    Language,
    Meaning,
    is_image_text,
)
from ziya_visual.scenes.parsing import parse

LANGS = ("en", "zh")
QUESTIONS_PER_TYPE = 420  # per split and language
CAPTIONS = 300
POOLS, POOL = 5, 100
TURNS = 3
ASKED = (*QUESTION_TYPES, "count", "relation")  # in turn, for each training picture; the hard types twice
_TRIES = 20
Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation split.

    Attributes:
        scenes: Scenes by image id.
        vqa: Question records by language.
        caption: Caption records by language.
        pools: Retrieval pools of a hundred image ids whose captions all differ.
        ranked: By language, the caption of every image id in a pool.
    """

    scenes: dict[str, Scene]
    vqa: dict[str, list[Example]]
    caption: dict[str, list[Example]]
    pools: list[list[str]]
    ranked: dict[str, dict[str, str]]


def write_training(
    folder: Path,
    *,
    seed: int,
    images: int,
    questions_per_image: int,
    dialogues: int,
    langs: Sequence[str] = ("en",),
) -> list[Example]:
    """Draw the training pictures into ``folder/images`` and return their records.

    Every picture has a caption and questions, and the first ``dialogues`` pictures have a dialogue as well.
    Meanings are drawn once and then put into each language.

    Raises:
        DataError: A language has no file.
    """
    languages = [Language.load(lang) for lang in langs]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng((seed, 11))
    examples: list[Example] = []
    with log.progress("draw training scenes", images) as bar:
        for number in range(images):
            scene = sample_scene(rng, held_out=False)
            name = f"train-{number:05d}"
            path = folder / "images" / f"{name}.png"
            Image.fromarray(render(scene)).save(path, compress_level=1)
            texts = _training_texts(rng, scene, questions_per_image, number < dialogues)
            for suffix, task, exchanges in texts:
                for language in languages:
                    example = _training_record(name, suffix, task, language, exchanges)
                    examples.append(replace(example, image=ImageRef(path=str(path))))
            bar.advance()
    return examples


def _training_texts(
    rng: Rng, scene: Scene, count: int, dialogue: bool
) -> Iterator[tuple[str, str, list[tuple[Meaning, int]]]]:
    """Yield the training texts of a picture: id suffix, task, and meanings with their phrasings."""
    caption = questions.caption(scene)
    phrasing = _forgeable(rng, caption)
    if phrasing is not None:
        yield "caption", "caption", [(caption, phrasing)]
    for number in range(count):
        question = _ask_forgeable(rng, scene, ASKED[number % len(ASKED)])
        if question is not None:
            yield f"q{number}", "vqa", [question]
    exchanges = _dialogue(rng, scene) if dialogue else []
    if exchanges:
        yield "dialogue", "dialogue", exchanges


def _training_record(
    name: str, suffix: str, task: str, language: Language, exchanges: list[tuple[Meaning, int]]
) -> Example:
    """Return a training text in one language; its id follows the forge's naming of translations."""
    suffix = suffix if language.lang == "en" else f"{suffix}:{language.lang}"
    if task == "vqa":
        return _question(name, suffix, language, *exchanges[0])
    turns = [turn for exchange in exchanges for turn in _statement(language, *exchange)]
    return _record(name, suffix, language.lang, task, turns)


def _record(
    name: str, suffix: str, lang: str, task: str, turns: Sequence[Message], *answers: str, **meta: str
) -> Example:
    return Example(
        id=f"{name}-{suffix}",
        lang=lang,
        task=task,
        messages=tuple(turns),
        image_id=name,
        answers=answers,
        meta=meta,
        source="scenes",
        provenance=Provenance(origin="grammar"),
    )


def _question(
    name: str, suffix: str, language: Language, meaning: Meaning, phrasing: int, **meta: str
) -> Example:
    """Return the record of a question and its short answer."""
    answer = language.answer(meaning.task, str(meaning.value))
    turns = Message("user", language.say(meaning, phrasing)), Message("assistant", answer)
    return _record(name, suffix, language.lang, "vqa", turns, answer, question_type=meaning.task, **meta)


def _statement(language: Language, meaning: Meaning, phrasing: int) -> tuple[Message, ...]:
    """Return a caption, or a question and the sentence that answers it."""
    sentence = language.say(meaning, phrasing)
    if meaning.value is None:
        return (Message("assistant", sentence),)
    return Message("user", sentence), Message("assistant", language.reply(meaning))


def _forgeable(rng: Rng, meaning: Meaning) -> int | None:
    """Draw a training phrasing whose sentence belongs to the image data, if there is one."""
    english = Language.load("en")
    numbers = [number for number in TRAIN_PHRASINGS if is_image_text(english.say(meaning, number))]
    return numbers[rng.integers(len(numbers))] if numbers else None


def _ask_forgeable(rng: Rng, scene: Scene, kind: str, *, reply: bool = False) -> tuple[Meaning, int] | None:
    """Draw a question and its phrasing, whose text (and ``reply``, if wanted) belongs to the image data."""
    english = Language.load("en")
    for _ in range(_TRIES):
        meaning = questions.ask_in_training(rng, scene, kind)
        if meaning is None or (reply and not is_image_text(english.reply(meaning))):
            continue
        phrasing = _forgeable(rng, meaning)
        if phrasing is not None:
            return meaning, phrasing
    return None


def _dialogue(rng: Rng, scene: Scene) -> list[tuple[Meaning, int]]:
    """Draw up to three questions of different types, or a caption where no question can be asked."""
    kinds = rng.permutation(QUESTION_TYPES)[:TURNS]
    questions_drawn = [_ask_forgeable(rng, scene, str(kind), reply=True) for kind in kinds]
    if any(questions_drawn):
        return [question for question in questions_drawn if question]
    phrasing = _forgeable(rng, questions.caption(scene))
    return [] if phrasing is None else [(questions.caption(scene), phrasing)]


def evaluation(*, seed: int, held_out: bool, langs: Sequence[str] = LANGS) -> Evaluation:
    """Draw one split: ``new`` scenes, or ``unseen`` scenes that each show one held-out pair.

    The scenes and questions do not depend on the languages.
    """
    rng = np.random.default_rng((seed, 13, int(held_out)))
    split = "unseen" if held_out else "new"
    scenes: dict[str, Scene] = {}
    drawn_questions = _balanced_questions(rng, scenes, split, held_out=held_out)
    vqa = {
        lang: [
            _question(name, f"{number}-{lang}", Language.load(lang), meaning, phrasing, split=split)
            for number, (name, meaning, phrasing) in enumerate(drawn_questions)
        ]
        for lang in langs
    }
    caption_names = _distinct_scenes(rng, scenes, f"{split}-caption", CAPTIONS, held_out=held_out)
    caption = {lang: [_caption(scenes[name], name, lang, split) for name in caption_names] for lang in langs}
    pools = [_distinct_scenes(rng, scenes, f"{split}-pool{n}", POOL, held_out=held_out) for n in range(POOLS)]
    ranked: dict[str, dict[str, str]] = {lang: {} for lang in langs}
    for name in (name for pool in pools for name in pool):
        phrasing = int(rng.choice(EVAL_PHRASINGS))
        for lang in langs:
            ranked[lang][name] = Language.load(lang).say(questions.caption(scenes[name]), phrasing)
    return Evaluation(scenes, vqa, caption, pools, ranked)


def _balanced_questions(
    rng: Rng, scenes: dict[str, Scene], split: str, *, held_out: bool
) -> list[tuple[str, Meaning, int]]:
    """Draw questions as (image id, question, phrasing), with equally many of every answer."""
    words = Language.load("en").words
    quota = {
        kind: dict.fromkeys(words[kind], -(-QUESTIONS_PER_TYPE // len(words[kind])))
        for kind in QUESTION_TYPES
    }
    drawn = []
    while any(quota.values()):
        scene = sample_scene(rng, held_out=held_out)
        name = f"{split}-vqa{len(scenes):05d}"
        for kind in QUESTION_TYPES:
            meaning = questions.ask(rng, scene, kind, held_out=held_out) if quota[kind] else None
            if meaning is None or meaning.value not in quota[kind]:
                continue
            scenes[name] = scene
            drawn.append((name, meaning, int(rng.choice(EVAL_PHRASINGS))))
            quota[kind][meaning.value] -= 1
            if quota[kind][meaning.value] == 0:
                del quota[kind][meaning.value]
    return drawn


def _distinct_scenes(
    rng: Rng, scenes: dict[str, Scene], prefix: str, count: int, *, held_out: bool
) -> list[str]:
    """Add scenes whose captions differ pairwise, and return their image ids."""
    captions: set[Meaning] = set()
    names: list[str] = []
    while len(names) < count:
        scene = sample_scene(rng, held_out=held_out)
        meaning = questions.caption(scene)
        if meaning not in captions:
            captions.add(meaning)
            names.append(f"{prefix}-{len(names):03d}")
            scenes[names[-1]] = scene
    return names


def _caption(scene: Scene, name: str, lang: str, split: str) -> Example:
    references = [Language.load(lang).say(questions.caption(scene), n) for n in range(PHRASINGS)]
    turns = [Message("assistant", references[EVAL_PHRASINGS[0]])]
    return _record(name, f"caption-{lang}", lang, "caption", turns, *references, split=split)


def same_meaning(source: str, target: str) -> bool:
    """Return whether an English and a Chinese text have the same meaning, line by line.

    This measures the forge; it never helps it.
    """
    lines = source.split("\n"), target.split("\n")
    if len(lines[0]) != len(lines[1]):
        return False
    return all(
        (meaning := parse(english, "en")) is not None and meaning == parse(chinese, "zh")
        for english, chinese in zip(*lines, strict=True)
    )

"""Scenes as records: English training data for the forge to translate, and evaluation data in both languages.

Training sentences are all of the image data's side (:func:`grammar.forge_side`) and in the phrasings that
may be trained on; evaluation uses the two others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    forge_side,
)
from ziya_visual.scenes.parsing import parse

LANGS = ("en", "zh")
QUESTIONS_PER_TYPE = 420  # per split and language
CAPTIONS = 300
POOLS, POOL = 5, 100
TURNS = 3
ASKED = (*QUESTION_TYPES, "count", "relation")  # of a training picture in turn: what is harder to learn twice
_TRIES = 20
_GRAMMAR = Provenance(origin="grammar")
Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One split: scenes by image id, and records by language.

    ``pools`` holds image ids, a hundred a pool, whose captions all differ; ``ranked`` their captions by
    language.
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

    Every picture has a caption and questions; the first ``dialogues`` pictures a dialogue too. What is said
    is drawn in English, and the other languages say the same.

    Raises:
        DataError: a language that has no file.
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
            drawn = _Drawn(scene, name, ImageRef(path=str(path)))
            dialogue = number < dialogues
            examples += _training_texts(rng, drawn, questions_per_image, languages, dialogue=dialogue)
            bar.advance()
    return examples


@dataclass(frozen=True, slots=True)
class _Drawn:
    scene: Scene
    name: str
    image: ImageRef | None

    def record(
        self, suffix: str, lang: str, task: str, turns: tuple[Message, ...], **fields: object
    ) -> Example:
        return Example(
            id=f"{self.name}-{suffix}",
            lang=lang,
            task=task,
            messages=turns,
            image=self.image,
            image_id=self.name,
            source="scenes",
            provenance=_GRAMMAR,
            **fields,  # type: ignore[arg-type]
        )

    def training(
        self, suffix: str, lang: str, task: str, turns: tuple[Message, ...], **fields: object
    ) -> Example:
        """A record named as the forge names its translations."""
        return self.record(suffix if lang == "en" else f"{suffix}:{lang}", lang, task, turns, **fields)


def _training_texts(
    rng: Rng, drawn: _Drawn, count: int, languages: Sequence[Language], *, dialogue: bool
) -> Iterator[Example]:
    """What is said about a picture, each text in all languages; nothing is drawn of them but the English."""
    caption = questions.caption(drawn.scene)
    phrasing = _forgeable(rng, caption)
    if phrasing is not None:
        for language in languages:
            yield drawn.training("caption", language.lang, "caption", _told(language, caption, phrasing))
    for number in range(count):
        kind = ASKED[number % len(ASKED)]
        asked = _ask_forgeable(rng, drawn.scene, kind)
        if asked is not None:
            for language in languages:
                turns = _asked(language, *asked)
                fields = {"answers": (turns[-1].content,), "meta": {"question_type": kind}}
                yield drawn.training(f"q{number}", language.lang, "vqa", turns, **fields)
    talk = _dialogue(rng, drawn.scene) if dialogue else []
    if talk:
        for language in languages:
            spoken = tuple(turn for said in talk for turn in _told(language, *said))
            yield drawn.training("dialogue", language.lang, "dialogue", spoken)


def _asked(language: Language, meaning: Meaning, phrasing: int) -> tuple[Message, Message]:
    """A question and its short answer."""
    answer = language.answer(meaning.task, str(meaning.value))
    return Message("user", language.say(meaning, phrasing)), Message("assistant", answer)


def _told(language: Language, meaning: Meaning, phrasing: int) -> tuple[Message, ...]:
    """A question, answered in a sentence; a caption alone."""
    said = language.say(meaning, phrasing)
    if meaning.value is None:
        return (Message("assistant", said),)
    return Message("user", said), Message("assistant", language.reply(meaning))


def _forgeable(rng: Rng, meaning: Meaning) -> int | None:
    """A training phrasing in which the meaning is of the image data's side, if there is one."""
    english = Language.load("en")
    numbers = [number for number in TRAIN_PHRASINGS if forge_side(english.say(meaning, number))]
    return numbers[rng.integers(len(numbers))] if numbers else None


def _ask_forgeable(rng: Rng, scene: Scene, kind: str, *, reply: bool = False) -> tuple[Meaning, int] | None:
    """A question of a kind, with ``reply`` one whose reply is of the image data's side too; its phrasing."""
    english = Language.load("en")
    for _ in range(_TRIES):
        meaning = questions.ask_in_training(rng, scene, kind)
        if meaning is None or (reply and not forge_side(english.reply(meaning))):
            continue
        phrasing = _forgeable(rng, meaning)
        if phrasing is not None:
            return meaning, phrasing
    return None


def _dialogue(rng: Rng, scene: Scene) -> list[tuple[Meaning, int]]:
    """Up to three questions of different kinds and their phrasings; a caption where none can be asked."""
    kinds = rng.permutation(QUESTION_TYPES)[:TURNS]
    asked = [found for kind in kinds if (found := _ask_forgeable(rng, scene, str(kind), reply=True))]
    if asked:
        return asked
    phrasing = _forgeable(rng, questions.caption(scene))
    return [] if phrasing is None else [(questions.caption(scene), phrasing)]


def evaluation(*, seed: int, held_out: bool, langs: Sequence[str] = LANGS) -> Evaluation:
    """Draw one split: ``new`` scenes, or ``unseen`` ones with one object of a held-out pair each.

    The scenes and what is asked of them are the same in all languages, whichever they are.
    """
    rng = np.random.default_rng((seed, 13, int(held_out)))
    split = "unseen" if held_out else "new"
    scenes: dict[str, Scene] = {}
    asked = _balanced_questions(rng, scenes, split, held_out=held_out)
    vqa: dict[str, list[Example]] = {lang: [] for lang in langs}
    for number, (name, meaning, phrasing) in enumerate(asked):
        for lang in langs:
            vqa[lang].append(_question(scenes[name], name, number, meaning, phrasing, lang, split))
    described = _distinct_scenes(rng, scenes, f"{split}-caption", CAPTIONS, held_out=held_out)
    caption = {lang: [_described(scenes[name], name, lang, split) for name in described] for lang in langs}
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
    """(image id, question, phrasing), every value of a type asked for equally often."""
    words = Language.load("en").words
    quota = {
        kind: dict.fromkeys(words[kind], -(-QUESTIONS_PER_TYPE // len(words[kind])))
        for kind in QUESTION_TYPES
    }
    found = []
    while any(quota.values()):
        scene = sample_scene(rng, held_out=held_out)
        name = f"{split}-vqa{len(scenes):05d}"
        for kind in QUESTION_TYPES:
            meaning = questions.ask(rng, scene, kind, held_out=held_out) if quota[kind] else None
            if meaning is None or meaning.value not in quota[kind]:
                continue
            scenes[name] = scene
            found.append((name, meaning, int(rng.choice(EVAL_PHRASINGS))))
            quota[kind][meaning.value] -= 1
            if quota[kind][meaning.value] == 0:
                del quota[kind][meaning.value]
    return found


def _distinct_scenes(
    rng: Rng, scenes: dict[str, Scene], prefix: str, count: int, *, held_out: bool
) -> list[str]:
    """Add scenes whose captions differ pairwise; returns their image ids."""
    said: set[Meaning] = set()
    names: list[str] = []
    while len(names) < count:
        scene = sample_scene(rng, held_out=held_out)
        meaning = questions.caption(scene)
        if meaning not in said:
            said.add(meaning)
            names.append(f"{prefix}-{len(names):03d}")
            scenes[names[-1]] = scene
    return names


def _question(
    scene: Scene, name: str, number: int, meaning: Meaning, phrasing: int, lang: str, split: str
) -> Example:
    turns = _asked(Language.load(lang), meaning, phrasing)
    meta = {"question_type": meaning.task, "split": split}
    return _Drawn(scene, name, None).record(
        f"{number}-{lang}", lang, "vqa", turns, answers=(turns[-1].content,), meta=meta
    )


def _described(scene: Scene, name: str, lang: str, split: str) -> Example:
    language = Language.load(lang)
    references = tuple(language.say(questions.caption(scene), n) for n in range(PHRASINGS))
    turns = (Message("assistant", references[EVAL_PHRASINGS[0]]),)
    return _Drawn(scene, name, None).record(
        f"caption-{lang}", lang, "caption", turns, answers=references, meta={"split": split}
    )


def same_meaning(source: str, target: str) -> bool:
    """Whether the grammar reads the same meaning out of an English and a Chinese text, line by line.

    Used to measure the forge, never to help it.
    """
    lines = source.split("\n"), target.split("\n")
    if len(lines[0]) != len(lines[1]):
        return False
    return all(
        (read := parse(english, "en")) is not None and read == parse(chinese, "zh")
        for english, chinese in zip(*lines, strict=True)
    )

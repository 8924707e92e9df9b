"""Scenes as records: English training data for the forge to translate, and bilingual evaluation data.

Training sentences are all of the image data's side (:func:`grammar.forge_side`) and in the phrasings that
may be trained on; evaluation uses the two others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ziya_visual.core import log
from ziya_visual.core.records import Example, ImageRef, Message, Provenance
from ziya_visual.scenes import questions
from ziya_visual.scenes.draw import Scene, render, sample_scene
from ziya_visual.scenes.grammar import (
    EVAL_PHRASINGS,
    PHRASINGS,
    QUESTION_TYPES,
    TRAIN_PHRASINGS,
    Language,
    Meaning,
    forge_side,
    parse,
)

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
    folder: Path, *, seed: int, images: int, questions_per_image: int, dialogues: int
) -> list[Example]:
    """Draw the training pictures into ``folder/images`` and return their English records.

    Every picture has a caption and questions; the first ``dialogues`` pictures a dialogue too.
    """
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
            examples += _training_texts(rng, drawn, questions_per_image, dialogue=number < dialogues)
            bar.advance(bar.tasks[0].id)
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


def _training_texts(rng: Rng, drawn: _Drawn, count: int, *, dialogue: bool) -> Iterator[Example]:
    said = _forgeable(rng, questions.caption(drawn.scene))
    if said is not None:
        yield drawn.record("caption", "en", "caption", (Message("assistant", said),))
    english = Language.load("en")
    for number in range(count):
        kind = ASKED[number % len(ASKED)]
        asked = _ask_forgeable(rng, drawn.scene, kind)
        if asked is not None:
            meaning, question = asked
            answer = english.answer(meaning.task, str(meaning.value))
            turns = (Message("user", question), Message("assistant", answer))
            meta = {"question_type": kind}
            yield drawn.record(f"q{number}", "en", "vqa", turns, answers=(answer,), meta=meta)
    if dialogue:
        yield drawn.record("dialogue", "en", "dialogue", _dialogue(rng, drawn.scene))


def _forgeable(rng: Rng, meaning: Meaning) -> str | None:
    """The meaning in a training phrasing of the image data's side, if it has one."""
    english = Language.load("en")
    texts = [english.say(meaning, phrasing) for phrasing in TRAIN_PHRASINGS]
    texts = [text for text in texts if forge_side(text)]
    return texts[rng.integers(len(texts))] if texts else None


def _ask_forgeable(rng: Rng, scene: Scene, kind: str, *, reply: bool = False) -> tuple[Meaning, str] | None:
    """A question of a kind, with ``reply`` one whose reply is of the image data's side too."""
    english = Language.load("en")
    for _ in range(_TRIES):
        meaning = questions.ask_in_training(rng, scene, kind)
        if meaning is None or (reply and not forge_side(english.reply(meaning))):
            continue
        text = _forgeable(rng, meaning)
        if text is not None:
            return meaning, text
    return None


def _dialogue(rng: Rng, scene: Scene) -> tuple[Message, ...]:
    """Up to three questions of different kinds, answered in whole sentences; a caption where none can be."""
    english = Language.load("en")
    turns: list[Message] = []
    for kind in rng.permutation(QUESTION_TYPES)[:TURNS]:
        asked = _ask_forgeable(rng, scene, str(kind), reply=True)
        if asked is not None:
            meaning, text = asked
            turns += [Message("user", text), Message("assistant", english.reply(meaning))]
    return tuple(turns) or (Message("assistant", _forgeable(rng, questions.caption(scene)) or ""),)


def evaluation(*, seed: int, held_out: bool) -> Evaluation:
    """Draw one split: ``new`` scenes, or ``unseen`` ones with one object of a held-out pair each."""
    rng = np.random.default_rng((seed, 13, int(held_out)))
    split = "unseen" if held_out else "new"
    scenes: dict[str, Scene] = {}
    asked = _balanced_questions(rng, scenes, split, held_out=held_out)
    vqa: dict[str, list[Example]] = {lang: [] for lang in LANGS}
    for number, (name, meaning, phrasing) in enumerate(asked):
        for lang in LANGS:
            vqa[lang].append(_question(scenes[name], name, number, meaning, phrasing, lang, split))
    described = _distinct_scenes(rng, scenes, f"{split}-caption", CAPTIONS, held_out=held_out)
    caption = {lang: [_described(scenes[name], name, lang, split) for name in described] for lang in LANGS}
    pools = [_distinct_scenes(rng, scenes, f"{split}-pool{n}", POOL, held_out=held_out) for n in range(POOLS)]
    ranked: dict[str, dict[str, str]] = {lang: {} for lang in LANGS}
    for name in (name for pool in pools for name in pool):
        phrasing = int(rng.choice(EVAL_PHRASINGS))
        for lang in LANGS:
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
    language = Language.load(lang)
    answer = language.answer(meaning.task, str(meaning.value))
    turns = (Message("user", language.say(meaning, phrasing)), Message("assistant", answer))
    meta = {"question_type": meaning.task, "split": split}
    return _Drawn(scene, name, None).record(
        f"{number}-{lang}", lang, "vqa", turns, answers=(answer,), meta=meta
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

"""Questions about a scene with their true answers, balanced within each question type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ziya_visual.scenes.drawing import Scene, Thing
from ziya_visual.scenes.language import COLORS, HELD_OUT, SHAPES, SIZES, Meaning, Phrase, fits, identifying

CLEAR = 0.25  # fraction of the side by which one axis must separate two centres more than the other axis
Rng = np.random.Generator


def caption(scene: Scene) -> Meaning:
    """Return the caption of a scene: all its objects, from left to right."""
    return Meaning("caption", tuple(thing.what for thing in scene.things))


def ask(rng: Rng, scene: Scene, kind: str, *, held_out: bool = False) -> Meaning | None:
    """Draw a question of a type with its true value, or return None where the scene offers none.

    Where a scene leaves a choice, the value is drawn first and the question is made to fit it, which balances
    the answers. With ``held_out`` the question is about the object of the held-out pair.
    """
    things = [thing for thing in scene.things if not held_out or is_held_out(thing.what)]
    if not things:
        return None
    target = things[rng.integers(len(things))]
    if kind in ("color", "shape", "size"):
        return _ask_attribute(rng, scene, target, kind)
    if kind == "count":
        return _ask_count(rng, scene, target, held_out=held_out)
    if kind == "exist":
        return _ask_exist(rng, scene, target, held_out=held_out)
    return _ask_relation(rng, scene, target)


def ask_in_training(rng: Rng, scene: Scene, kind: str) -> Meaning | None:
    """Draw a question as :func:`ask` does, but count by color and shape more often than all objects."""
    if kind == "count" and rng.random() < 0.6:
        return _count_alike(rng, scene)
    return ask(rng, scene, kind)


def is_held_out(what: Phrase) -> bool:
    """Return whether an object has a shape-colour pair that no training picture shows."""
    return (what.shape, what.color) in HELD_OUT


def relation(target: Thing, other: Thing) -> str | None:
    """Return where ``target`` is relative to ``other``, or None where neither axis clearly decides."""
    dx, dy = target.x - other.x, target.y - other.y
    if abs(abs(dx) - abs(dy)) < CLEAR:
        return None
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def _others(scene: Scene, target: Thing) -> list[Phrase]:
    return [thing.what for thing in scene.things if thing is not target]


def _pick(rng: Rng, options: Sequence[Phrase]) -> Phrase:
    return options[int(rng.integers(len(options)))]


def _ask_attribute(rng: Rng, scene: Scene, target: Thing, kind: str) -> Meaning | None:
    phrases = identifying(target.what, _others(scene, target), without=kind)
    return Meaning(kind, (_pick(rng, phrases),), getattr(target.what, kind)) if phrases else None


def _ask_count(rng: Rng, scene: Scene, target: Thing, *, held_out: bool) -> Meaning:
    """Draw a number that the scene offers, then a description that fits so many objects.

    Objects are counted by color or shape one time in five if there are several, and seldom otherwise.
    """
    of = target.what
    alike = [Phrase(color=of.color), Phrase(shape=of.shape)]
    share = 0.2 if any(_number(scene, phrase) > 1 for phrase in alike) else 0.05
    kinds = alike if held_out or rng.random() < share else [Phrase(), Phrase(size=of.size)]
    by_number: dict[int, list[Phrase]] = {}
    for phrase in kinds:
        by_number.setdefault(_number(scene, phrase), []).append(phrase)
    # High numbers are rarer: prefer them, so that the numbers are balanced over many scenes.
    number = max(by_number) if rng.random() < 0.95 else list(by_number)[int(rng.integers(len(by_number)))]
    return Meaning("count", (_pick(rng, by_number[number]),), str(number))


def _count_alike(rng: Rng, scene: Scene) -> Meaning:
    """Draw a count by color or shape, preferring high numbers."""
    whats = [thing.what for thing in scene.things]
    phrases = [phrase for what in whats for phrase in (Phrase(color=what.color), Phrase(shape=what.shape))]
    numbers = [_number(scene, phrase) for phrase in phrases]
    index = rng.choice(len(phrases), p=np.square(numbers) / np.square(numbers).sum())
    return Meaning("count", (phrases[index],), str(numbers[index]))


def _number(scene: Scene, phrase: Phrase) -> int:
    return sum(fits(thing.what, phrase) for thing in scene.things)


def _ask_exist(rng: Rng, scene: Scene, target: Thing, *, held_out: bool) -> Meaning | None:
    """Ask about an object of the scene, or about one that differs in a word and is not there."""
    of = target.what
    sized = held_out or rng.random() < 0.5
    present = Phrase(of.size if sized else None, of.color, of.shape)
    if rng.random() < 0.5:
        return Meaning("exist", (present,), "yes")
    kinds = ("size",) if held_out else ("size", "color", "shape")
    absent = [
        [phrase for phrase in _one_word_off(present, kind, held_out=held_out) if not _number(scene, phrase)]
        for kind in kinds
    ]
    offered = [phrases for phrases in absent if phrases]
    if not offered:
        return None
    return Meaning("exist", (_pick(rng, offered[int(rng.integers(len(offered)))]),), "no")


def _one_word_off(phrase: Phrase, kind: str, *, held_out: bool) -> list[Phrase]:
    """List the phrases that differ in one word; only those of a held-out pair if ``held_out``, else none."""
    if getattr(phrase, kind) is None:
        return []
    words = {"size": SIZES, "color": COLORS, "shape": SHAPES}[kind]
    others = [replace(phrase, **{kind: word}) for word in words if word != getattr(phrase, kind)]
    return [other for other in others if is_held_out(other) == held_out]


def _ask_relation(rng: Rng, scene: Scene, target: Thing) -> Meaning | None:
    others = [(o, r) for o in scene.things if o is not target and (r := relation(target, o))]
    axes = [[pair for pair in others if pair[1] in axis] for axis in (("left", "right"), ("above", "below"))]
    offered = [pairs for pairs in axes if pairs]
    if not offered:
        return None
    pairs = offered[int(rng.integers(len(offered)))]
    other, value = pairs[int(rng.integers(len(pairs)))]
    first = identifying(target.what, _others(scene, target))
    second = identifying(other.what, _others(scene, other))
    return Meaning("relation", (_pick(rng, first), _pick(rng, second)), value)

"""What may be asked of a scene and what is true: meanings with their values, balanced within each type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ziya_visual.scenes.drawing import Scene, Thing
from ziya_visual.scenes.language import (
    COLORS,
    HELD_OUT,
    SHAPES,
    SIZES,
    Meaning,
    Phrase,
    fits,
    identifying,
)

CLEAR = 0.25  # of the side: how much further apart two centres must be along one axis than along the other
Choice = np.random.Generator


def caption(scene: Scene) -> Meaning:
    """Everything in the scene, from left to right."""
    return Meaning("caption", tuple(thing.what for thing in scene.things))


def ask(rng: Choice, scene: Scene, kind: str, *, held_out: bool = False) -> Meaning | None:
    """One question of a type with its true value, or None where the scene offers none.

    The value is drawn first and the question made to fit it wherever a scene leaves the choice, so that
    answers are balanced. With ``held_out`` the question is about the object of the held-out pair.
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


def ask_in_training(rng: Choice, scene: Scene, kind: str) -> Meaning | None:
    """As :func:`ask`, with more counting by color and shape: else all things are counted nearly always."""
    if kind == "count" and rng.random() < 0.6:
        return _count_alike(rng, scene)
    return ask(rng, scene, kind)


def is_held_out(what: Phrase) -> bool:
    """Whether the object is of a shape-colour pair that no training picture shows."""
    return (what.shape, what.color) in HELD_OUT


def relation(target: Thing, other: Thing) -> str | None:
    """Where ``target`` is as seen from ``other``; None where neither axis clearly decides."""
    dx, dy = target.x - other.x, target.y - other.y
    if abs(abs(dx) - abs(dy)) < CLEAR:
        return None
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def _others(scene: Scene, target: Thing) -> list[Phrase]:
    return [thing.what for thing in scene.things if thing is not target]


def _pick(rng: Choice, options: Sequence[Phrase]) -> Phrase:
    return options[int(rng.integers(len(options)))]


def _ask_attribute(rng: Choice, scene: Scene, target: Thing, kind: str) -> Meaning | None:
    phrases = identifying(target.what, _others(scene, target), without=kind)
    return Meaning(kind, (_pick(rng, phrases),), getattr(target.what, kind)) if phrases else None


def _ask_count(rng: Choice, scene: Scene, target: Thing, *, held_out: bool) -> Meaning:
    """Kinds of thing grouped by how many there are; a number is drawn, then a kind of that number.

    Things of a color or a shape are asked for one time in five where there are several, else seldom.
    """
    of = target.what
    alike = [Phrase(color=of.color), Phrase(shape=of.shape)]
    share = 0.2 if any(_number(scene, phrase) > 1 for phrase in alike) else 0.05
    kinds = alike if held_out or rng.random() < share else [Phrase(), Phrase(size=of.size)]
    by_number: dict[int, list[Phrase]] = {}
    for phrase in kinds:
        by_number.setdefault(_number(scene, phrase), []).append(phrase)
    # A high number is rarer to be had: prefer it, so that over many scenes the numbers come out level.
    number = max(by_number) if rng.random() < 0.95 else list(by_number)[int(rng.integers(len(by_number)))]
    return Meaning("count", (_pick(rng, by_number[number]),), str(number))


def _count_alike(rng: Choice, scene: Scene) -> Meaning:
    """How many things are of a color or of a shape: several where there are several."""
    whats = [thing.what for thing in scene.things]
    phrases = [phrase for what in whats for phrase in (Phrase(color=what.color), Phrase(shape=what.shape))]
    numbers = [_number(scene, phrase) for phrase in phrases]
    index = rng.choice(len(phrases), p=np.square(numbers) / np.square(numbers).sum())
    return Meaning("count", (phrases[index],), str(numbers[index]))


def _number(scene: Scene, phrase: Phrase) -> int:
    return sum(fits(thing.what, phrase) for thing in scene.things)


def _ask_exist(rng: Choice, scene: Scene, target: Thing, *, held_out: bool) -> Meaning | None:
    """A thing that is there, or one that differs from it in a word, each kind of word as often as another."""
    of = target.what
    sized = held_out or rng.random() < 0.5
    said = Phrase(of.size if sized else None, of.color, of.shape)
    if rng.random() < 0.5:
        return Meaning("exist", (said,), "yes")
    kinds = ("size",) if held_out else ("size", "color", "shape")
    wrongs = [
        [wrong for wrong in _one_word_off(said, kind, held_out=held_out) if not _number(scene, wrong)]
        for kind in kinds
    ]
    offered = [absent for absent in wrongs if absent]
    if not offered:
        return None
    return Meaning("exist", (_pick(rng, offered[int(rng.integers(len(offered)))]),), "no")


def _one_word_off(phrase: Phrase, kind: str, *, held_out: bool) -> list[Phrase]:
    """Phrases that differ in their word of a kind; those of a held-out pair only if ``held_out``."""
    if getattr(phrase, kind) is None:
        return []
    words = {"size": SIZES, "color": COLORS, "shape": SHAPES}[kind]
    others = [replace(phrase, **{kind: word}) for word in words if word != getattr(phrase, kind)]
    return [other for other in others if is_held_out(other) == held_out]


def _ask_relation(rng: Choice, scene: Scene, target: Thing) -> Meaning | None:
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

"""Answers are kept as they come: a killed run goes on where it was, and another model starts anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import tiny
from PIL import Image

from ziya_visual.core.records import Example, Message
from ziya_visual.eval.models.answer_cache import CachedAnswerer

IMAGES = {name: tiny.picture(seed) for seed, name in enumerate("abcd")}


class Counting:
    """Says what it was asked; is killed at the given batch."""

    def __init__(self, killed_at: int = -1) -> None:
        self.asked: list[str] = []
        self.batches = 0
        self.killed_at = killed_at

    def answer(
        self,
        examples: Sequence[Example],
        *,
        max_new_tokens: int,
        images: Mapping[str, Image.Image] | None = None,
    ) -> list[str]:
        if self.batches == self.killed_at:
            raise KeyboardInterrupt
        self.batches += 1
        self.asked += [example.id for example in examples]
        return [f"{example.image_id} {example.messages[-1].content} {max_new_tokens}" for example in examples]


def batches() -> list[list[Example]]:
    """A batch a picture, of two questions."""
    return [
        [
            Example(f"{name}{text}", "en", "vqa", (Message("user", text),), image_id=name)
            for text in ("one?", "两?")
        ]
        for name in IMAGES
    ]


def run(model: Counting, path: Path, *, identity: str = "m", limit: int = 8) -> list[str]:
    cache = CachedAnswerer(model, path=path, identity=identity)
    return [t for batch in batches() for t in cache.answer(batch, max_new_tokens=limit, images=IMAGES)]


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    whole = run(Counting(), tmp_path / "whole.jsonl")
    path, killed = tmp_path / "answers.jsonl", Counting(killed_at=2)
    with pytest.raises(KeyboardInterrupt):
        run(killed, path)
    assert len(killed.asked) == 4
    with path.open("ab") as file:
        file.write(b'["half a li')  # the kill came in the middle of a line
    rest = Counting()
    assert run(rest, path) == whole
    assert rest.asked == [example.id for batch in batches()[2:] for example in batch]
    assert run(Counting(killed_at=0), path) == whole, "nothing is asked a third time"


def test_other_models_pictures_and_limits_have_their_own_answers(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    run(Counting(), path)
    for changed in ({"identity": "other"}, {"limit": 9}):
        model = Counting()
        run(model, path, **changed)  # type: ignore[arg-type]
        assert len(model.asked) == 8
    model = Counting()
    kept = CachedAnswerer(model, path=path, identity="m")
    kept.answer(batches()[0], max_new_tokens=8, images={"a": tiny.picture(9)})
    assert len(model.asked) == 2


def test_the_same_question_twice_is_asked_once(tmp_path: Path) -> None:
    model = Counting()
    kept = CachedAnswerer(model, path=tmp_path / "answers.jsonl", identity="m")
    batch = batches()[0]
    assert kept.answer([*batch, *batch], max_new_tokens=8, images=IMAGES) == ["a one? 8", "a 两? 8"] * 2
    assert len(model.asked) == 2

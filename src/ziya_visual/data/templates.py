"""Instruction templates: how a task is put to the model. One YAML file a language, phrasings of our own.

:func:`instruct` draws from the lists that the quickstart's results were measured with, :func:`phrase` from
those of ``phrasings``: twelve and more for each task.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from ziya_visual.core.errors import DataError, nearest
from ziya_visual.core.records import Box, Example, Message

Split = Literal["train", "eval"]
FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Templates:
    """The phrasings of one language: caption prompts by split, what follows a short question, and by task."""

    caption: dict[str, list[str]]
    vqa_suffix: str
    phrasings: dict[str, list[str]]

    @staticmethod
    @functools.cache
    def load(lang: str) -> Templates:
        """Read ``templates/<lang>.yaml``.

        Raises:
            DataError: there is none for this language, or a part of it is missing.
        """
        path = FOLDER / f"{lang}.yaml"
        if not path.is_file():
            known = [found.stem for found in FOLDER.glob("*.yaml")]
            raise DataError(f"no instruction templates for language {lang!r}{nearest(lang, known)}")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        if set(data) != set(Templates.__dataclass_fields__):
            raise DataError(
                f"{path}: expected {', '.join(Templates.__dataclass_fields__)}, found {list(data)}"
            )
        return Templates(**data)


def instruct(example: Example, *, seed: int, split: Split) -> Example:
    """Put a record's task to the model.

    A caption that is an assistant turn alone gets a prompt, drawn by ``seed`` and the id; a question of
    task ``vqa`` gets the suffix that asks for a short answer. Other records stay as they are.

    >>> from ziya_visual.core.records import Message
    >>> asked = Example("1", "en", "vqa", (Message("user", "What color?"), Message("assistant", "red")))
    >>> instruct(asked, seed=0, split="train").messages[0].content
    'What color? Answer briefly.'
    """
    first, *rest = example.messages
    if example.task == "caption" and first.role == "assistant":
        prompt = _draw(Templates.load(example.lang).caption[split], seed, example)
        return _asked(example, prompt)
    if example.task == "vqa":
        suffix = Templates.load(example.lang).vqa_suffix
        return example.with_messages((Message("user", first.content + suffix), *rest))
    return example


def phrase(example: Example, *, seed: int, size: tuple[int, int] | None = None) -> Example:
    """Put a record's task to the model in one of ``phrasings``, drawn by ``seed`` and the id.

    A caption gets a prompt, a question of ``vqa`` and a dialogue's first one words around it. A region's
    description (``grounded``, an assistant's turn and a box) becomes an answer to where the box is, or the
    box an answer to what it shows. Other records stay as they are.

    Args:
        example: a record.
        seed: of the draw.
        size: of the picture in pixels, which boxes need: they are written in thousandths of it.

    >>> from ziya_visual.core.records import Message
    >>> asked = Example("1", "en", "vqa", (Message("user", "What color?"), Message("assistant", "red")))
    >>> phrase(asked, seed=4).messages[0].content
    'Here is a question about the picture. What color? Be brief.'
    """
    phrasings = Templates.load(example.lang).phrasings
    alone = len(example.messages) == 1 and example.messages[0].role == "assistant"
    if example.task == "caption" and alone:
        return _asked(example, _draw(phrasings["caption"], seed, example))
    if example.task == "grounded" and alone and len(example.boxes) == 1 and size is not None:
        prompt = _draw(phrasings["region"] + phrasings["locate"], seed, example)
        box, said = box_text(example.boxes[0], size), example.messages[0].content
        told = said if "{box}" in prompt else box
        asked = prompt.replace("{box}", box) if "{box}" in prompt else prompt.replace("{label}", said)
        return _asked(example.with_messages((Message("assistant", told),)), asked)
    if example.task in ("vqa", "dialogue"):
        prompt = _draw(phrasings[example.task], seed, example)
        turns = list(example.messages)
        first = next((number for number, turn in enumerate(turns) if turn.role == "user"), None)
        if first is not None:
            turns[first] = Message("user", prompt.replace("{question}", turns[first].content))
        return example.with_messages(tuple(turns))
    return example


def box_text(box: Box, size: tuple[int, int]) -> str:
    """A box in thousandths of width and height.

    >>> box_text(Box("cat", (10, 20, 40, 60)), (100, 200))
    '[100, 100, 400, 300]'
    """
    corners = (round(1000 * value / side) for value, side in zip(box.xyxy, size * 2, strict=True))
    return f"[{', '.join(map(str, corners))}]"


def _asked(example: Example, prompt: str) -> Example:
    return example.with_messages((Message("user", prompt), *example.messages))


def _draw(prompts: list[str], seed: int, example: Example) -> str:
    digest = hashlib.sha256(f"{seed}:{example.id}".encode()).digest()
    return prompts[int.from_bytes(digest[:4], "big") % len(prompts)]

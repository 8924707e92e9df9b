"""Instruction templates, which turn a record into a prompt: one YAML file per language.

:func:`instruct` draws from the lists that the quickstart's results were measured with; :func:`phrase` draws
from ``phrasings``, which has at least twelve per task.
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
    """The templates of a language: caption prompts by split, the suffix of short questions, and phrasings."""

    caption: dict[str, list[str]]
    vqa_suffix: str
    phrasings: dict[str, list[str]]

    @staticmethod
    @functools.cache
    def load(lang: str) -> Templates:
        """Read ``templates/<lang>.yaml``; ``DataError`` if there is none, or a section of it is missing."""
        path = FOLDER / f"{lang}.yaml"
        if not path.is_file():
            known = [file.stem for file in FOLDER.glob("*.yaml")]
            raise DataError(f"no instruction templates for language {lang!r}{nearest(lang, known)}")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        if set(data) != set(Templates.__dataclass_fields__):
            raise DataError(
                f"{path}: expected {', '.join(Templates.__dataclass_fields__)}, found {list(data)}"
            )
        return Templates(**data)


def instruct(example: Example, *, seed: int, split: Split) -> Example:
    """Add the instruction of a record's task.

    A caption without a prompt gets one, drawn by ``seed`` and the id; a question of task ``vqa`` gets the
    suffix that asks for a short answer. Other records are unchanged.

    >>> from ziya_visual.core.records import Message
    >>> asked = Example("1", "en", "vqa", (Message("user", "What color?"), Message("assistant", "red")))
    >>> instruct(asked, seed=0, split="train").messages[0].content
    'What color? Answer briefly.'
    """
    first, *rest = example.messages
    if example.task == "caption" and first.role == "assistant":
        prompt = _draw(Templates.load(example.lang).caption[split], seed, example)
        return _with_prompt(example, prompt)
    if example.task == "vqa":
        suffix = Templates.load(example.lang).vqa_suffix
        return example.with_messages((Message("user", first.content + suffix), *rest))
    return example


def phrase(example: Example, *, seed: int, size: tuple[int, int] | None = None) -> Example:
    """Add the instruction of a record's task in one of ``phrasings``, drawn by ``seed`` and the id.

    A caption gets a prompt; a ``vqa`` question and the first question of a dialogue get words around them. A
    description of a region (``grounded``, one assistant turn and one box) becomes the answer to what a box
    shows, or its box the answer to where something is. Boxes are written in thousandths of the picture's
    ``size`` in pixels. Other records are unchanged.

    >>> from ziya_visual.core.records import Message
    >>> asked = Example("1", "en", "vqa", (Message("user", "What color?"), Message("assistant", "red")))
    >>> phrase(asked, seed=4).messages[0].content
    'Here is a question about the picture. What color? Be brief.'
    """
    phrasings = Templates.load(example.lang).phrasings
    alone = len(example.messages) == 1 and example.messages[0].role == "assistant"
    if example.task == "caption" and alone:
        return _with_prompt(example, _draw(phrasings["caption"], seed, example))
    if example.task == "grounded" and alone and len(example.boxes) == 1 and size is not None:
        prompt = _draw(phrasings["region"] + phrasings["locate"], seed, example)
        box, label = box_text(example.boxes[0], size), example.messages[0].content
        answer = label if "{box}" in prompt else box
        question = prompt.replace("{box}", box) if "{box}" in prompt else prompt.replace("{label}", label)
        return _with_prompt(example.with_messages((Message("assistant", answer),)), question)
    if example.task in ("vqa", "dialogue"):
        prompt = _draw(phrasings[example.task], seed, example)
        turns = list(example.messages)
        first = next((number for number, turn in enumerate(turns) if turn.role == "user"), None)
        if first is not None:
            turns[first] = Message("user", prompt.replace("{question}", turns[first].content))
        return example.with_messages(tuple(turns))
    return example


def box_text(box: Box, size: tuple[int, int]) -> str:
    """Return a box as text, in thousandths of width and height.

    >>> box_text(Box("cat", (10, 20, 40, 60)), (100, 200))
    '[100, 100, 400, 300]'
    """
    corners = (round(1000 * value / side) for value, side in zip(box.xyxy, size * 2, strict=True))
    return f"[{', '.join(map(str, corners))}]"


def _with_prompt(example: Example, prompt: str) -> Example:
    return example.with_messages((Message("user", prompt), *example.messages))


def _draw(prompts: list[str], seed: int, example: Example) -> str:
    digest = hashlib.sha256(f"{seed}:{example.id}".encode()).digest()
    return prompts[int.from_bytes(digest[:4], "big") % len(prompts)]

"""Instruction templates: how a task is put to the model. One YAML file a language, phrasings of our own."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from ziya_visual.core.errors import DataError, nearest
from ziya_visual.core.records import Example, Message

Split = Literal["train", "eval"]
FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Templates:
    """The phrasings of one language: caption prompts by split, and what follows a short question."""

    caption: dict[str, list[str]]
    vqa_suffix: str

    @staticmethod
    @functools.cache
    def load(lang: str) -> Templates:
        """Read ``templates/<lang>.yaml``.

        Raises:
            DataError: there is none for this language.
        """
        path = FOLDER / f"{lang}.yaml"
        if not path.is_file():
            known = [found.stem for found in FOLDER.glob("*.yaml")]
            raise DataError(f"no instruction templates for language {lang!r}{nearest(lang, known)}")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Templates(caption=data["caption"], vqa_suffix=data["vqa_suffix"])


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
        prompts = Templates.load(example.lang).caption[split]
        digest = hashlib.sha256(f"{seed}:{example.id}".encode()).digest()
        prompt = prompts[int.from_bytes(digest[:4], "big") % len(prompts)]
        return example.with_messages((Message("user", prompt), *example.messages))
    if example.task == "vqa":
        suffix = Templates.load(example.lang).vqa_suffix
        return example.with_messages((Message("user", first.content + suffix), *rest))
    return example

"""Turns of dialogues: who speaks, in which order, and the pictures' placeholders."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ziya_visual.core.errors import DataError, nearest
from ziya_visual.core.records import Example, ImageRef, Message, Role
from ziya_visual.data.formats import Source

SPEAKERS: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
_PLACEHOLDER = re.compile(r"\s*<image(?:_placeholder)?>\s*")


def message(speaker: str, text: str) -> Message:
    """A turn with our names of who speaks, without LLaVA's placeholder of the picture.

    Raises:
        DataError: the speaker is none that we know, or nothing but the placeholder is said.
    """
    role = SPEAKERS.get(speaker.lower())
    if role is None:
        raise DataError(f"unknown speaker {speaker[:40]!r}{nearest(speaker.lower(), SPEAKERS)}")
    said = _PLACEHOLDER.sub("\n", text).strip()
    if not said:
        raise DataError(f"a turn of {speaker!r} says nothing")
    return Message(role, said)


def dialogue(
    source: Source, *, id: str, turns: Sequence[Message], image: ImageRef | None, image_id: str | None
) -> Example:
    """A record of a dialogue; without a picture its task is ``text``.

    Raises:
        DataError: after a system's turn user and assistant do not take turns, or the assistant has not the
            last word.
    """
    roles = [turn.role for turn in turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken or len(spoken) % 2 or spoken != ["user", "assistant"] * (len(spoken) // 2):
        shown = ", ".join(roles[:8]) or "none"
        raise DataError(f"turns of {shown}: expected user and assistant in turn, the assistant last")
    return Example(
        id=f"{source.name}-{id}",
        lang=source.lang,
        task="dialogue" if image else "text",
        messages=tuple(turns),
        image=image,
        image_id=None if image_id is None else f"{source.name}-{image_id}",
        meta={"split": source.split} if source.split else {},
        source=source.name,
    )

"""Dialogue datasets: LLaVA and ShareGPT, LLaVA's questions, and OpenAI's chat JSONL.

- LLaVA (``llava_instruct_150k.json``, Liu et al. 2023), and ShareGPT, the same without images: a list, or one
  object a line, of ``{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}]}``.
- LLaVA's evaluation questions, such as ``qa90_questions.jsonl``: a line is
  ``{"question_id", "image", "text", "category"}``.
- OpenAI's fine-tuning files: a line is ``{"messages": [{"role", "content": text | [parts]}]}``. An image is a
  data URL or a file in the folder of the images; a web address is rejected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import StringConstraints

from ziya_visual.core.errors import DataError, nearest
from ziya_visual.core.files import hash_bytes
from ziya_visual.core.pictures import LIMIT_BYTES, decode_base64, picture_size
from ziya_visual.core.records import Example, ImageRef, Message, Role
from ziya_visual.data.formats.rows import (
    Images,
    Parsed,
    Plain,
    Reject,
    Row,
    Source,
    Text,
    attempt,
    json_rows,
    lines,
    new_record,
    parse,
)

LIMIT_LINE = LIMIT_BYTES * 3 // 2  # bytes: an image in base64 and some text
SPEAKERS: dict[str, Role] = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model", "bot"), "assistant"),
}
_PLACEHOLDER = re.compile(r"\s*<image(?:_placeholder)?>\s*")


class _LlavaTurn(Row):
    speaker: Text
    value: Text


class _LlavaDialogue(Row):
    id: Text | None = None
    image: Text | list[Text] | None = None
    conversations: list[dict[str, Any]]


class LlavaQuestion(Row):
    """A line of LLaVA's evaluation questions."""

    question_id: Text
    image: Text
    text: Text
    category: Plain | None = None


class _Address(Row):
    url: Annotated[str, StringConstraints(max_length=LIMIT_LINE)]


class _Part(Row):
    type: Plain
    text: Plain = ""
    image_url: _Address | None = None


class _Turn(Row):
    role: Text
    content: Plain | list[_Part]


class _Chat(Row):
    id: Text | None = None
    messages: list[_Turn]


def message(speaker: str, text: str) -> Message:
    """Return a turn with our name of the role and without LLaVA's image placeholder.

    ``DataError`` if the speaker is unknown, or the turn holds nothing but the placeholder.
    """
    role = SPEAKERS.get(speaker.lower())
    if role is None:
        raise DataError(f"unknown speaker {speaker[:40]!r}{nearest(speaker.lower(), SPEAKERS)}")
    content = _PLACEHOLDER.sub("\n", text).strip()
    if not content:
        raise DataError(f"a turn of {speaker!r} is empty")
    return Message(role, content)


def dialogue(
    source: Source, *, id: str, turns: Sequence[Message], image: ImageRef | None, image_id: str | None
) -> Example:
    """Return a dialogue record; without an image its task is ``text``.

    ``DataError`` unless, after an optional system turn, user and assistant alternate, the assistant last.
    """
    roles = [turn.role for turn in turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken or len(spoken) % 2 or spoken != ["user", "assistant"] * (len(spoken) // 2):
        shown = ", ".join(roles[:8]) or "none"
        raise DataError(f"turns of {shown}: expected user and assistant in turn, the assistant last")
    task = "dialogue" if image else "text"
    return new_record(source, id, image, image_id, task=task, messages=tuple(turns), meta={})


def read_llava(source: Source) -> Iterator[Parsed]:
    """Yield a record for each dialogue. One with several images is rejected: a training row holds one."""
    images = Images(source.folder)
    for where, row in json_rows(source.path):
        yield row if isinstance(row, Reject) else attempt(where, _llava, where, row, images, source)


def _llava(where: str, row: Any, images: Images, source: Source) -> Example:
    parsed = _LlavaDialogue.model_validate(row)
    turns = [
        _LlavaTurn.model_validate({"speaker": turn.get("from"), "value": turn.get("value")})
        for turn in parsed.conversations
    ]
    names = [parsed.image] if isinstance(parsed.image, str) else parsed.image or []
    if len(names) > 1:
        raise DataError(f"{len(names)} images: a training record holds one or none")
    return dialogue(
        source,
        id=parsed.id or where,
        turns=[message(turn.speaker, turn.value) for turn in turns],
        image=images.get(names[0]) if names else None,
        image_id=names[0] if names else None,
    )


def read_openai(source: Source) -> Iterator[Parsed]:
    """Yield a record for each line. One with several images is rejected: a training row holds one."""
    images = Images(source.folder)
    for where, line in lines(source.path, limit_bytes=LIMIT_LINE):
        yield line if isinstance(line, Reject) else attempt(where, _openai, where, line, images, source)


def _openai(where: str, line: str, images: Images, source: Source) -> Example:
    chat = _Chat.model_validate(parse(line))
    addresses: list[str] = []
    turns = [_openai_turn(turn, addresses) for turn in chat.messages]
    if len(set(addresses)) > 1:
        raise DataError(f"{len(addresses)} images: a training record holds one or none")
    image = _openai_image(addresses[0], images) if addresses else None
    name = None if image is None else image.path or hash_bytes(image.bytes or b"")[:16]
    return dialogue(source, id=chat.id or where, turns=turns, image=image, image_id=name)


def _openai_turn(turn: _Turn, addresses: list[str]) -> Message:
    if isinstance(turn.content, str):
        return message(turn.role, turn.content)
    for part in turn.content:
        if part.type not in ("text", "image_url"):
            raise DataError(f"a part of type {part.type[:40]!r}; expected text or image_url")
        if part.image_url is not None:
            addresses.append(part.image_url.url)
    return message(turn.role, "\n".join(part.text for part in turn.content if part.text))


def _openai_image(address: str, images: Images) -> ImageRef:
    if not address.startswith("data:"):
        return images.get(address)
    data = decode_base64(address.partition(",")[2])
    picture_size(data)
    return ImageRef(bytes=data)

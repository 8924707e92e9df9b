"""OpenAI's chat JSONL: ``{"messages": [{"role", "content": text | [parts]}]}``, as for fine-tuning there.

A picture is a data URL or a file in the folder of the pictures; an address on the web is a reject.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Annotated

from pydantic import StringConstraints

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import hash_bytes
from ziya_visual.core.pictures import LIMIT_BYTES, picture_size
from ziya_visual.core.records import Example, ImageRef, Message
from ziya_visual.data.formats import Found, Reject, Source
from ziya_visual.data.formats.dialogues import dialogue, message
from ziya_visual.data.formats.pictures import Pictures
from ziya_visual.data.formats.rows import Plain, Row, Text, attempt, lines, parse

LIMIT_LINE = LIMIT_BYTES * 3 // 2  # bytes: a picture as base64 and some text


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


def read(source: Source) -> Iterator[Found]:
    """A record a line; one with several pictures is a reject, for a training row holds one."""
    pictures = Pictures(source.folder)
    for where, line in lines(source.path, limit_bytes=LIMIT_LINE):
        yield line if isinstance(line, Reject) else attempt(where, _example, where, line, pictures, source)


def _example(where: str, line: str, pictures: Pictures, source: Source) -> Example:
    chat = _Chat.model_validate(parse(line))
    addresses: list[str] = []
    turns = [_message(turn, addresses) for turn in chat.messages]
    if len(set(addresses)) > 1:
        raise DataError(f"{len(addresses)} pictures: a training record holds one or none")
    image = _picture(addresses[0], pictures) if addresses else None
    name = None if image is None else image.path or hash_bytes(image.bytes or b"")[:16]
    return dialogue(source, id=chat.id or where, turns=turns, image=image, image_id=name)


def _message(turn: _Turn, addresses: list[str]) -> Message:
    if isinstance(turn.content, str):
        return message(turn.role, turn.content)
    for part in turn.content:
        if part.type not in ("text", "image_url"):
            raise DataError(f"a part of type {part.type[:40]!r}; expected text or image_url")
        if part.image_url is not None:
            addresses.append(part.image_url.url)
    return message(turn.role, "\n".join(part.text for part in turn.content if part.text))


def _picture(address: str, pictures: Pictures) -> ImageRef:
    if not address.startswith("data:"):
        return pictures.get(address)
    try:
        data = base64.b64decode(address.partition(",")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"a picture that is no base64 ({error})") from error
    picture_size(data)
    return ImageRef(bytes=data)

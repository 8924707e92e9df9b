"""LLaVA's JSON (``llava_instruct_150k.json``, Liu et al. 2023), and ShareGPT's, the same without pictures.

``[{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}]}]``: a list, or one object a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Example
from ziya_visual.data.formats import Found, Reject, Source
from ziya_visual.data.formats.dialogues import dialogue, message
from ziya_visual.data.formats.pictures import Pictures
from ziya_visual.data.formats.rows import Row, Text, attempt, json_rows


class _Turn(Row):
    speaker: Text
    value: Text


class _Dialogue(Row):
    id: Text | None = None
    image: Text | list[Text] | None = None
    conversations: list[dict[str, Any]]


def read(source: Source) -> Iterator[Found]:
    """A record a dialogue; one about several pictures is a reject, for a training row holds one."""
    pictures = Pictures(source.folder)
    for where, row in json_rows(source.path):
        yield row if isinstance(row, Reject) else attempt(where, _example, where, row, pictures, source)


def _example(where: str, row: Any, pictures: Pictures, source: Source) -> Example:
    said = _Dialogue.model_validate(row)
    turns = [
        _Turn.model_validate({"speaker": turn.get("from"), "value": turn.get("value")})
        for turn in said.conversations
    ]
    names = [said.image] if isinstance(said.image, str) else said.image or []
    if len(names) > 1:
        raise DataError(f"{len(names)} pictures: a training record holds one or none")
    return dialogue(
        source,
        id=said.id or where,
        turns=[message(turn.speaker, turn.value) for turn in turns],
        image=pictures.get(names[0]) if names else None,
        image_id=names[0] if names else None,
    )

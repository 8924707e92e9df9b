"""The record: one image (or none) and one dialogue, in one language, for one task.

An imported row, a forged translation and an evaluation question are all an :class:`Example`. Records are
plain dataclasses, so they cross process boundaries and are written to JSONL unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ziya_visual.core.errors import DataError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = ("system", "user", "assistant")
TASKS: tuple[str, ...] = ("caption", "vqa", "dialogue", "retrieval", "grounded", "text")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a dialogue."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class ImageRef:
    """The place of an image: encoded ``bytes`` in the record, or a ``path``; exactly one of the two."""

    path: str | None = None
    bytes: bytes | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """A labelled rectangle, ``xyxy`` in pixels of the stored image, origin at the top left."""

    label: str
    xyxy: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Provenance:
    """The origin of a record: ``human``, ``grammar`` or ``forge``, and for the last, how it was made."""

    origin: str = "human"
    translated_from: str | None = None
    model: str | None = None
    prompt_hash: str | None = None
    checks: tuple[str, ...] = ()


_DEFAULT_PROVENANCE = Provenance()


@dataclass(frozen=True, slots=True)
class Example:
    """One record. ``image_id`` is what packing groups by; only assistant turns are trained on.

    Attributes:
        id: Unique within its source.
        lang: A BCP-47 tag, such as ``en`` or ``zh``.
        task: One of :data:`TASKS`.
        messages: The dialogue, oldest turn first. A caption may hold its assistant turn alone; training then
            draws the prompt from the templates.
        answers: Accepted answers, for evaluation.
        meta: Strings only (``question_id``, ``question_type`` ...).
    """

    id: str
    lang: str
    task: str
    messages: tuple[Message, ...]
    image: ImageRef | None = None
    image_id: str | None = None
    answers: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    provenance: Provenance = _DEFAULT_PROVENANCE

    @property
    def prompt_turns(self) -> tuple[Message, ...]:
        """Return the turns that a model is to answer: all but a final assistant turn."""
        turns = self.messages
        return turns[:-1] if turns and turns[-1].role == "assistant" else turns

    def with_messages(self, messages: tuple[Message, ...], **changes: Any) -> Example:
        """Return a copy with other messages and, by keyword, other fields."""
        return replace(self, messages=messages, **changes)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer of a model to one example of an evaluation."""

    id: str
    image_id: str | None
    lang: str
    task: str
    prompt: str
    prediction: str
    answers: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)


def to_dict(record: Example | Prediction) -> dict[str, Any]:
    """Return a record as a JSON-ready dict.

    Raises:
        DataError: The image is held as bytes; store it beside the JSONL, or write Parquet.
    """
    if isinstance(record, Example) and record.image is not None and record.image.bytes is not None:
        raise DataError(
            f"record {record.id!r} holds its image as bytes, which JSONL cannot store; write Parquet instead"
        )
    return asdict(record)


_KNOWN = frozenset(Example.__dataclass_fields__)
_NEEDED = frozenset(("id", "lang", "task", "messages"))


def example_from_dict(row: Mapping[str, Any]) -> Example:
    """Build a record from a mapping.

    Raises:
        DataError: A field is missing or unknown, a role or task is unknown, or an image has neither path nor
            bytes.
    """
    if not (_KNOWN.issuperset(row) and row.keys() >= _NEEDED):
        unknown = [key for key in row if key not in _KNOWN]
        missing = [key for key in ("id", "lang", "task", "messages") if key not in row]
        raise DataError(f"record {row.get('id', '?')!r}: missing fields {missing}, unknown fields {unknown}")
    name, task = str(row["id"]), row["task"]
    if task not in TASKS:
        raise DataError(f"record {name!r}: task {task!r} is not one of {', '.join(TASKS)}")
    meta = row.get("meta")
    return Example(
        name,
        str(row["lang"]),
        str(task),
        tuple([_message(turn, name) for turn in _list(row, "messages", name)]),
        _image(row.get("image"), name),
        row.get("image_id"),
        tuple(map(str, _list(row, "answers", name))) if "answers" in row else (),
        tuple([_box(box, name) for box in _list(row, "boxes", name)]) if "boxes" in row else (),
        {str(k): str(v) for k, v in dict(meta).items()} if meta else {},
        str(row.get("source", "")),
        _provenance(row.get("provenance"), name),
    )


def _list(row: Mapping[str, Any], field_name: str, record: str) -> Sequence[Any]:
    value = row[field_name]
    if not isinstance(value, list | tuple):
        raise DataError(f"record {record!r}: {field_name} is {type(value).__name__}, expected a list")
    return value


def _message(turn: Any, record: str) -> Message:
    role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
    if role not in ROLES or not isinstance(content, str):
        turn_text = json.dumps(turn, ensure_ascii=False, default=str)[:80]
        raise DataError(
            f"record {record!r}: {turn_text} is not a message;"
            f" expected a role ({', '.join(ROLES)}) and a string content"
        )
    return Message(role, content)


def _image(value: Any, record: str) -> ImageRef | None:
    if value is None:
        return None
    image = ImageRef(value.get("path"), value.get("bytes"))
    if (image.path is None) == (image.bytes is None):
        raise DataError(f"record {record!r}: an image needs either a path or bytes, and not both")
    return image


def _box(value: Any, record: str) -> Box:
    try:
        x0, y0, x1, y1 = (float(v) for v in value["xyxy"])
        return Box(label=str(value["label"]), xyxy=(x0, y0, x1, y1))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"record {record!r}: a box needs a label and four numbers xyxy, found {value!r}"
        ) from error


def _provenance(value: Any, record: str) -> Provenance:
    if value is None:
        return _DEFAULT_PROVENANCE
    unknown = [key for key in value if key not in Provenance.__dataclass_fields__]
    if unknown:
        raise DataError(f"record {record!r}: unknown provenance fields {unknown}")
    return Provenance(**{**value, "checks": tuple(value.get("checks", ()))})

"""The record: one picture (or none), one dialogue, one language, one task (DESIGN, "The record").

Everything that data becomes, from an imported file to a forged translation to an evaluation question, is an
:class:`Example`. Records are plain dataclasses: they travel through processes and into JSONL as they are.
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
    """Where a picture is: encoded ``bytes`` in the record, or a ``path``; exactly one of the two."""

    path: str | None = None
    bytes: bytes | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """A labelled rectangle, ``xyxy`` in pixels of the stored picture, origin at the top left."""

    label: str
    xyxy: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a record came to be: ``origin`` is ``human``, ``grammar`` or ``forge``."""

    origin: str = "human"
    translated_from: str | None = None
    model: str | None = None
    prompt_hash: str | None = None
    checks: tuple[str, ...] = ()


UNTOLD = Provenance()


@dataclass(frozen=True, slots=True)
class Example:
    """One record. ``image_id`` is what packing groups by; only assistant turns are trained on.

    Attributes:
        id: unique within its source.
        lang: a BCP-47 tag, ``en`` or ``zh`` in most of our files.
        task: one of :data:`TASKS`.
        messages: the dialogue, oldest turn first. A caption may hold its assistant turn alone: the prompt
            before it is drawn from the templates when the record is trained on.
        answers: accepted answers, for evaluation.
        meta: strings only (``question_id``, ``question_type`` ...).
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
    provenance: Provenance = UNTOLD

    @property
    def asked(self) -> tuple[Message, ...]:
        """The turns before the last assistant turn: what a model is to answer."""
        turns = self.messages
        return turns[:-1] if turns and turns[-1].role == "assistant" else turns

    def with_messages(self, messages: tuple[Message, ...], **changes: Any) -> Example:
        """A copy with other messages and, by keyword, other fields."""
        return replace(self, messages=messages, **changes)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model answered to one example of an evaluation."""

    id: str
    image_id: str | None
    lang: str
    task: str
    prompt: str
    prediction: str
    answers: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)


def to_dict(record: Example | Prediction) -> dict[str, Any]:
    """A JSON-ready dict. Pictures held as bytes are refused: store them beside the JSONL, or use Parquet."""
    if isinstance(record, Example) and record.image is not None and record.image.bytes is not None:
        raise DataError(
            f"record {record.id!r} holds its picture as bytes, which JSONL cannot; write Parquet instead"
        )
    return asdict(record)


_KNOWN = frozenset(Example.__dataclass_fields__)
_NEEDED = frozenset(("id", "lang", "task", "messages"))


def example_from_dict(row: Mapping[str, Any]) -> Example:
    """Read one record, refusing what is not one.

    Raises:
        DataError: a missing or unknown field, an unknown role or task, an image with neither path nor bytes.
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
        shown = json.dumps(turn, ensure_ascii=False, default=str)[:80]
        raise DataError(
            f"record {record!r}: {shown} is no message;"
            f" expected a role of {', '.join(ROLES)} and a string content"
        )
    return Message(role, content)


def _image(value: Any, record: str) -> ImageRef | None:
    if value is None:
        return None
    image = ImageRef(value.get("path"), value.get("bytes"))
    if (image.path is None) == (image.bytes is None):
        raise DataError(f"record {record!r}: an image has either a path or bytes")
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
        return UNTOLD
    unknown = [key for key in value if key not in Provenance.__dataclass_fields__]
    if unknown:
        raise DataError(f"record {record!r}: unknown provenance fields {unknown}")
    return Provenance(**{**value, "checks": tuple(value.get("checks", ()))})

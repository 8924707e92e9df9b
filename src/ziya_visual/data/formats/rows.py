"""What readers share: rows checked by pydantic, files read line by line, and records made of both."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_text
from ziya_visual.core.records import Example, ImageRef, Message
from ziya_visual.data.formats import Reject, Source

LIMIT_LINE = 4_000_000  # bytes of a line of text
LIMIT_TEXT = 200_000  # characters of a text
P = ParamSpec("P")
T = TypeVar("T")


# pydantic refuses half a surrogate pair, which JSON may spell and no file can hold.
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LIMIT_TEXT)]
Plain = Annotated[str, StringConstraints(max_length=LIMIT_TEXT)]  # may be empty
_TEXT: TypeAdapter[str] = TypeAdapter(Text)


class Row(BaseModel):
    """A row of a foreign format: the fields that we read of it, numbers as text where text is wanted."""

    model_config = ConfigDict(extra="ignore", frozen=True, coerce_numbers_to_str=True)


def text_of(value: Any) -> str:
    """A text without the spaces around it; ``ValidationError`` where it is none, empty or too long."""
    return _TEXT.validate_python(value)


def attempt(where: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Reject:
    """What the function gives, or a reject with the reason why it does not."""
    try:
        return function(*args, **kwargs)
    except ValidationError as error:
        return Reject(where, _first(error))
    except DataError as error:
        return Reject(where, str(error))


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, problem["loc"]))
    return f"{place}: {problem['msg']}" if place else problem["msg"]


def parse(text: str) -> Any:
    """JSON as Python has it; ``DataError`` where it is none, nested too deep, or a number too long."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise DataError("no JSON (nested too deep)") from error
    except json.JSONDecodeError as error:
        raise DataError(f"no JSON ({error.msg}, line {error.lineno}, column {error.colno})") from error
    except ValueError as error:
        raise DataError(f"no JSON ({error})") from error


def read_whole(path: Path) -> Any:
    """A JSON file that is one value.

    Raises:
        DataError: it is absent, not UTF-8 or not JSON: then no row of it is known.
    """
    text = read_text(path)
    try:
        return parse(text)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def listed(data: Any, key: str | None, path: Path) -> Iterator[tuple[str, Any]]:
    """(where, row) of a list, or of the list under ``key`` of a mapping.

    Raises:
        DataError: there is none, as in a file of another format.
    """
    inside = data if key is None else data.get(key) if isinstance(data, dict) else None
    if not isinstance(inside, list):
        wanted = "a list" if key is None else f"a mapping with the list {key!r}"
        keys = f" with the keys {', '.join(map(str, data))[:80]}" if isinstance(data, dict) else ""
        raise DataError(f"{path}: expected {wanted}, found {type(data).__name__}{keys}")
    for number, row in enumerate(inside):
        yield f"{path.name}:{key or ''}[{number}]", row


def lines(path: Path, *, limit_bytes: int = LIMIT_LINE) -> Iterator[tuple[str, str | Reject]]:
    """(where, line) of a UTF-8 file, without line ends, blank lines left out.

    A line that is not UTF-8 or longer than ``limit_bytes`` is a reject; no more of it is held in memory.

    Raises:
        DataError: the file cannot be opened.
    """
    try:
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from error
    with file:
        number = 0
        while data := file.readline(limit_bytes + 1):
            number += 1
            where = f"{path.name}:{number}"
            if len(data) > limit_bytes and not data.endswith(b"\n"):
                while (more := file.readline(limit_bytes)) and not more.endswith(b"\n"):
                    pass
                yield where, Reject(where, f"a line of more than {limit_bytes:,} bytes")
                continue
            try:
                text = data.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
            except UnicodeDecodeError as error:
                yield where, Reject(where, f"not UTF-8 at byte {error.start} of the line")
                continue
            if text.strip():
                yield where, text


def json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(where, row or reject) of a JSON list (``.json``) or of JSON lines (any other name)."""
    if path.suffix == ".json":
        yield from listed(read_whole(path), None, path)
        return
    for where, line in lines(path):
        yield where, line if isinstance(line, Reject) else attempt(where, parse, line)


def names_of_split(path: Path) -> set[str]:
    """Names of pictures, one a line, without their suffix."""
    return {Path(line).stem for _, line in lines(path) if isinstance(line, str)}


def caption(source: Source, *, id: str, image: ImageRef, image_id: str, text: str, **meta: str) -> Example:
    """A caption: the assistant's turn alone, for its prompt is drawn from the templates."""
    return Example(
        id=f"{source.name}-{id}",
        lang=source.lang,
        task="caption",
        messages=(Message("assistant", text),),
        image=image,
        image_id=f"{source.name}-{image_id}",
        answers=(text,),
        meta=_with_split(source, meta),
        source=source.name,
    )


def question(
    source: Source,
    *,
    id: str,
    image: ImageRef | None,
    image_id: str | None,
    text: str,
    answers: Sequence[str],
    truth: str | None = None,
    **meta: str,
) -> Example:
    """A question with its accepted answers; the most frequent is learnt, or ``truth``. None: a test set's."""
    best = truth or (Counter(answers).most_common(1)[0][0] if answers else None)
    turns = [Message("user", text)] + ([Message("assistant", best)] if best else [])
    return Example(
        id=f"{source.name}-{id}",
        lang=source.lang,
        task="vqa",
        messages=tuple(turns),
        image=image,
        image_id=None if image_id is None else f"{source.name}-{image_id}",
        answers=tuple(answers),
        meta=_with_split(source, {"question_id": id, **meta}),
        source=source.name,
    )


def _with_split(source: Source, meta: dict[str, str]) -> dict[str, str]:
    return {**({"split": source.split} if source.split else {}), **meta}

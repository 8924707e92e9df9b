"""Parts that all readers share: sources, checked rows, files, images of a folder, and new records.

The rows of a reader are the smallest things that could be a record: a caption of an image, a question, a
dialogue. Where what holds them is broken (an image's entry without a file name), that counts as one row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_text
from ziya_visual.core.pictures import picture_size
from ziya_visual.core.records import Example, ImageRef, Message

LIMIT_LINE = 4_000_000  # bytes of a line of text
LIMIT_TEXT = 200_000  # characters of a text
_REMEMBERED = 10_000  # image names whose result is kept: the texts of an image lie close together
P = ParamSpec("P")
T = TypeVar("T")

# pydantic refuses half a surrogate pair, which JSON can spell and no file can hold.
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LIMIT_TEXT)]
Plain = Annotated[str, StringConstraints(max_length=LIMIT_TEXT)]  # may be empty
_TEXT: TypeAdapter[str] = TypeAdapter(Text)


class Row(BaseModel):
    """A row of a published file: the fields that we read, with numbers as text where text is expected."""

    model_config = ConfigDict(extra="ignore", frozen=True, coerce_numbers_to_str=True)


R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that is not a record: where it is, and why."""

    where: str
    reason: str


Parsed = Example | Reject


@dataclass(slots=True)
class Imported:
    """The rows of a file, as ``examples`` and ``rejects``."""

    examples: list[Example] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)

    def add(self, row: Parsed) -> None:
        """Append a row to the examples or the rejects."""
        if isinstance(row, Reject):
            self.rejects.append(row)
        else:
            self.examples.append(row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The input of a reader.

    Attributes:
        name: name of the format; becomes ``Example.source``.
        path: the file or folder that the format's row in ``docs/data.md`` names.
        lang: BCP-47 tag of the texts.
        images: folder of the images; by default the folder that ``path`` is or lies in.
        annotations: the second file of formats that have two.
        split: the split of formats that hold several; otherwise noted in ``meta``.
        columns: our field -> their column, for ``hub``.
    """

    name: str
    path: Path
    lang: str
    images: Path | None = None
    annotations: Path | None = None
    split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Return the only folder in which images are looked up."""
        if self.images is not None:
            return self.images
        return self.path if self.path.is_dir() else self.path.parent


@dataclass(frozen=True)
class Layout(Generic[R]):
    """A JSON file of rows: the key of their list (None: the file is the list), and their fields."""

    key: str | None
    row: type[R]

    def rows(self, path: Path) -> Iterator[tuple[str, Any]]:
        """Yield (where, row) unchecked; ``DataError`` if there is no list, as in a file of another format."""
        return listed(read_whole(path), self.key, path)

    def checked(self, path: Path) -> list[tuple[dict[str, Any], R]]:
        """Return each row as the file has it and checked; ``DataError`` for the first that is malformed."""
        return checked(self.rows(path), self.row)


class Images:
    """The images of one folder, looked up by name."""

    def __init__(self, folder: Path) -> None:
        """Take the folder; links inside it may not lead out."""
        self.folder, self._root = folder, folder.resolve()
        self._known: dict[tuple[str, ...], ImageRef | DataError] = {}

    def get(self, *names: str) -> ImageRef:
        """Return the first of these files that exists. Only its header is read.

        ``DataError`` if none exists, or the one that does leads out of the folder or is not an image.
        """
        if names not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            try:
                self._known[names] = self._find(names)
            except DataError as error:
                self._known[names] = error
        image = self._known[names]
        if isinstance(image, DataError):
            raise DataError(str(image))
        return image

    def _find(self, names: tuple[str, ...]) -> ImageRef:
        for name in names:
            if "\0" in name or len(name) > 1000 or "://" in name:
                raise DataError(f"{name[:60]!r}: not a file name; images are files, and no URL is fetched")
            path = self.folder / name
            try:
                resolved = path.resolve()
                exists = path.exists()
            except (OSError, RuntimeError, ValueError) as error:
                raise DataError(f"{name}: cannot be read ({error})") from error
            if not resolved.is_relative_to(self._root):
                raise DataError(f"{name}: leads out of the folder {self.folder}")
            if exists:
                picture_size(path)
                return ImageRef(path=str(path))
        raise DataError(f"{names[0]}: not found in {self.folder}")


def text_of(value: Any) -> str:
    """Return a stripped text; ``ValidationError`` if it is not a text, empty or too long."""
    return _TEXT.validate_python(value)


def attempt(where: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Reject:
    """Call the function; a validation or data error becomes a reject with its reason."""
    try:
        return function(*args, **kwargs)
    except ValidationError as error:
        return Reject(where, _first(error))
    except DataError as error:
        return Reject(where, str(error))


def attempts(
    rows: Iterable[tuple[str, Any]], read: Callable[..., Example], *context: Any
) -> Iterator[Parsed]:
    """Yield ``read(row, *context)`` for each (where, row); a row that is a reject already stays one."""
    for where, row in rows:
        yield row if isinstance(row, Reject) else attempt(where, read, row, *context)


def checked(rows: Iterable[tuple[str, Any]], model: type[R]) -> list[tuple[dict[str, Any], R]]:
    """Return each row as it is and checked; ``DataError`` for the first that is malformed."""
    pairs = []
    for where, row in rows:
        parsed = row if isinstance(row, Reject) else attempt(where, model.model_validate, row)
        if isinstance(parsed, Reject):
            raise DataError(f"{parsed.where}: {parsed.reason}")
        pairs.append((row, parsed))
    return pairs


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, problem["loc"]))
    return f"{place}: {problem['msg']}" if place else problem["msg"]


def parse(text: str) -> Any:
    """Parse JSON; ``DataError`` if it is invalid, nested too deep, or has too long a number."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise DataError("invalid JSON (nested too deep)") from error
    except json.JSONDecodeError as error:
        raise DataError(f"invalid JSON ({error.msg}, line {error.lineno}, column {error.colno})") from error
    except ValueError as error:
        raise DataError(f"invalid JSON ({error})") from error


def read_whole(path: Path) -> Any:
    """Read a JSON file that is one value; ``DataError`` if it is missing, not UTF-8 or not JSON."""
    text = read_text(path)
    try:
        return parse(text)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def listed(data: Any, key: str | None, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (where, row) of a list, or of the list under ``key``; ``DataError`` if there is no such list."""
    rows = data if key is None else data.get(key) if isinstance(data, dict) else None
    if not isinstance(rows, list):
        expected = "a list" if key is None else f"a mapping with the list {key!r}"
        keys = f" with the keys {', '.join(map(str, data))[:80]}" if isinstance(data, dict) else ""
        raise DataError(f"{path}: expected {expected}, found {type(data).__name__}{keys}")
    for number, row in enumerate(rows):
        yield f"{path.name}:{key or ''}[{number}]", row


def lines(path: Path, *, limit_bytes: int = LIMIT_LINE) -> Iterator[tuple[str, str | Reject]]:
    """Yield (where, line) of a UTF-8 file without line ends; blank lines are left out.

    A line that is not UTF-8 or is longer than ``limit_bytes`` becomes a reject; memory holds no more of it.
    ``DataError`` if the file cannot be opened.
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
    """Yield (where, row or reject) of a JSON list (``.json``) or of JSON lines (any other name)."""
    if path.suffix == ".json":
        yield from listed(read_whole(path), None, path)
        return
    for where, line in lines(path):
        yield where, line if isinstance(line, Reject) else attempt(where, parse, line)


def caption(source: Source, *, id: str, image: ImageRef, image_id: str, text: str, **meta: str) -> Example:
    """Return a caption record: an assistant turn only, since templates supply its prompt."""
    return new_record(
        source,
        id,
        image,
        image_id,
        task="caption",
        messages=(Message("assistant", text),),
        answers=(text,),
        meta=meta,
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
    """Return a question record that teaches ``truth``, or else the most frequent answer if there is one."""
    best = truth or (Counter(answers).most_common(1)[0][0] if answers else None)
    turns = (Message("user", text), *([Message("assistant", best)] if best else []))
    meta = {"question_id": id, **meta}
    return new_record(
        source, id, image, image_id, task="vqa", messages=turns, answers=tuple(answers), meta=meta
    )


def new_record(
    source: Source,
    id: str,
    image: ImageRef | None,
    image_id: str | None,
    *,
    meta: dict[str, str],
    **fields: Any,
) -> Example:
    """Return a record with the format's name in its ids and the split in ``meta``."""
    return Example(
        id=f"{source.name}-{id}",
        lang=source.lang,
        image=image,
        image_id=None if image_id is None else f"{source.name}-{image_id}",
        meta={**({"split": source.split} if source.split else {}), **meta},
        source=source.name,
        **fields,
    )

"""Any dataset that Hugging Face ``datasets`` opens: a name on the hub, a folder or a file.

A map names the columns: ``image``, ``image_id`` and ``id``; ``text`` for a caption, ``question`` with
``answer`` or ``answers`` for a question, ``messages`` for a dialogue of role and content. This is the only
reader that uses the network, and only if ``path`` is a name on the hub: addresses in rows are never followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import DataError, nearest, one_line
from ziya_visual.core.pictures import picture_size
from ziya_visual.core.records import Example, ImageRef
from ziya_visual.data.formats.dialogues import dialogue, message
from ziya_visual.data.formats.rows import Images, Parsed, Row, Source, Text, attempt, caption, question

COLUMNS = ("id", "image", "image_id", "text", "question", "answer", "answers", "messages")
BUILDERS = {
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".arrow": "arrow",
}


class _Turn(Row):
    role: Text
    content: Text


class _Row(Row):
    id: Text | None = None
    image: Any = None
    image_id: Text | None = None
    text: Text | None = None
    question: Text | None = None
    answer: Text | None = None
    answers: tuple[Text, ...] = ()
    messages: list[_Turn] | None = None


def read(source: Source) -> Iterator[Parsed]:
    """Yield a record for each row, streamed."""
    unknown = [name for name in source.columns if name not in COLUMNS]
    if unknown or not source.columns:
        problem = f"found {unknown[0]!r}{nearest(unknown[0], COLUMNS)}" if unknown else "found none"
        raise DataError(f"--columns: {problem}; expected pairs such as image=img,text=caption")
    images = Images(source.folder) if source.folder.is_dir() else None
    rows = _open(source)
    for number in range(2**62):
        where = f"row {number}"
        try:
            row = next(rows, None)
        except Exception as error:  # whatever a builder of any format may raise
            raise DataError(f"{source.path}: {where} cannot be read ({_line(error)})") from error
        if row is None:
            return
        yield attempt(where, _example, number, row, images, source)


def _open(source: Source) -> Iterator[dict[str, Any]]:
    import datasets

    path = source.path
    try:
        split = source.split or "train"
        if path.is_dir() and (path / "state.json").is_file():
            data = datasets.load_from_disk(str(path)).to_iterable_dataset()
        elif path.is_file():
            separator = {"sep": "\t"} if path.suffix == ".tsv" else {}
            builder = BUILDERS.get(path.suffix)
            if builder is None:
                raise DataError(f"{path}: expected one of {', '.join(BUILDERS)}")
            data = datasets.load_dataset(
                builder, data_files={split: str(path)}, split=split, streaming=True, **separator
            )
        else:
            data = datasets.load_dataset(str(path), split=split, streaming=True)
        if data.features is not None:
            for name, feature in data.features.items():
                if isinstance(feature, datasets.Image):
                    data = data.cast_column(name, datasets.Image(decode=False))
            missing = [name for name in source.columns.values() if name not in data.features]
            if missing:
                raise DataError(f"{path}: no column {missing[0]!r}{nearest(missing[0], data.features)}")
        return iter(data)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: cannot be opened by datasets ({_line(error)})") from error


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error, 160)}"


def _example(number: int, values: dict[str, Any], images: Images | None, source: Source) -> Example:
    columns = {ours: values.get(theirs) for ours, theirs in source.columns.items()}
    row = _Row.model_validate({name: value for name, value in columns.items() if value is not None})
    id = row.id or str(number)
    image = _image(row.image, images)
    image_id = (row.image_id or id) if image else None
    if row.messages is not None:
        turns = [message(turn.role, turn.content) for turn in row.messages]
        return dialogue(source, id=id, turns=turns, image=image, image_id=image_id)
    if row.question is not None:
        answers = row.answers or ([row.answer] if row.answer else [])
        return question(
            source,
            id=id,
            image=image,
            image_id=image_id,
            text=row.question,
            answers=answers,
            truth=row.answer,
        )
    if row.text is None or image is None or image_id is None:
        raise DataError("neither messages, nor a question, nor a text with its image")
    return caption(source, id=id, image=image, image_id=image_id, text=row.text)


def _image(value: Any, images: Images | None) -> ImageRef | None:
    """Return an image given as bytes, as the mapping of ``datasets.Image``, or as a file name."""
    if value is None:
        return None
    data, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, value)
    if isinstance(data, bytes):
        picture_size(data)
        return ImageRef(bytes=data)
    if not isinstance(name, str) or images is None:
        raise DataError(f"an image is {type(value).__name__}; expected bytes, or a name with --images")
    root = images.folder
    return images.get(str(Path(name).relative_to(root)) if Path(name).is_relative_to(root) else name)

"""ScienceQA: a folder with ``problems.json`` (Lu et al. 2022); images as ``SPLIT/ID/image.png``.

The choices follow the question as ``(A) ...``; the letter is learned. A problem without an image keeps its
task, ``vqa``.
"""

from __future__ import annotations

import string
from collections.abc import Iterator

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Example
from ziya_visual.data.formats.rows import (
    Images,
    Parsed,
    Plain,
    Reject,
    Row,
    Source,
    Text,
    attempt,
    question,
    read_whole,
    text_of,
)


class _Problem(Row):
    question: Text
    choices: list[Text]
    answer: int
    split: Text
    hint: Plain = ""
    image: Plain | None = None
    subject: Plain = ""


def read(source: Source) -> Iterator[Parsed]:
    """Yield a record for each problem; the problems name their splits: train, val, test, minitrain ..."""
    path = source.path / "problems.json" if source.path.is_dir() else source.path
    data = read_whole(path)
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected problem ids and problems, found {type(data).__name__}")
    images = Images(source.folder)
    for key, row in data.items():
        where = f"{path.name}:{key[:40]}"
        problem = attempt(where, _Problem.model_validate, row)
        if isinstance(problem, Reject):
            yield problem
        elif source.split in (None, problem.split):
            yield attempt(where, _example, key, problem, images, source)


def _example(key: str, problem: _Problem, images: Images, source: Source) -> Example:
    letters = string.ascii_uppercase[: len(problem.choices)]
    if not 0 <= problem.answer < len(letters):
        raise DataError(f"answer {problem.answer} of {len(problem.choices)} choices")
    number = text_of(key)
    image = images.get(f"{problem.split}/{number}/{problem.image}") if problem.image else None
    options = " ".join(
        f"({letter}) {choice}" for letter, choice in zip(letters, problem.choices, strict=True)
    )
    return question(
        source,
        id=number,
        image=image,
        image_id=number if image else None,
        text=text_of("\n".join(filter(None, (problem.hint.strip(), problem.question, options)))),
        answers=[letters[problem.answer], problem.choices[problem.answer]],
        split=problem.split,
        question_type=problem.subject,
    )

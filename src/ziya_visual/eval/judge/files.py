"""The files that are judged: LLaVA-Bench and qa90 (English and Chinese), MM-Vet, TouchStone, our predictions.

Questions and answers may come as JSONL rows (``question_id``, ``text``), as MM-Vet's JSON object of ids, as
TouchStone's TSV, or as our ``predictions/*.jsonl``. What a file is, its rows say; nothing has to be named.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_json, read_text
from ziya_visual.eval.score.files import Row, need, read_rows

OR = " <OR> "
_HAN = re.compile(r"[\u3400-\u9fff]")
_LANG_END = re.compile(r"[-_.](?:en|zh|cn)$")
_WORD = re.compile(r"[A-Za-z]+")
_ID = ("question_id", "id", "index")
_QUESTION = ("question", "prompt", "text")
_ANSWER = ("prediction", "response", "answer", "gpt4_ha_answer", "text")


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked; ``truth`` is the right answer, ``context`` what the file itself says of the picture.

    Several right answers are joined by ``<OR>``, as in MM-Vet.
    """

    id: str
    text: str
    lang: str
    image: str = ""
    categories: tuple[str, ...] = ()
    truth: str = ""
    context: str = ""
    task: str = ""


@dataclass(frozen=True, slots=True)
class Contender:
    """A model by name, and its answers by question id."""

    name: str
    answers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Context:
    """What a judge may be told of a picture; ``boxes`` says whether it has any."""

    text: str
    boxes: bool


def language_of(text: str) -> str:
    """``zh`` where there are more Chinese characters than Latin words, else ``en``."""
    return "zh" if len(_HAN.findall(text)) > len(_WORD.findall(text)) else "en"


def read_questions(path: Path) -> list[Question]:
    """The questions of a file, each id once.

    Raises:
        DataError: a row without id or text, or an id twice.
    """
    questions = [_question(row, path) for row in _rows(path)]
    _refuse_twice([question.id for question in questions], path)
    return questions


def read_contender(path: Path) -> Contender:
    """The answers of a file; the model is the rows' ``model_id``, else the file's name without its language.

    Prediction files of ours are named ``<model>.<split>.<lang>.<task>.jsonl``.

    Raises:
        DataError: a row without id or text, an id twice, or rows of two models.
    """
    rows = _rows(path)
    ids = [_first(row, _ID, path) for row in rows]
    _refuse_twice(ids, path)
    names = sorted({str(row["model_id"]) for row in rows if row.get("model_id")})
    if len(names) > 1:
        raise DataError(f"{path}: answers of {len(names)} models ({', '.join(names[:3])}); one file a model")
    from_file = path.stem.split(".")[0] if "prediction" in rows[0] else _LANG_END.sub("", path.stem)
    return Contender(
        names[0] if names else from_file,
        {one: _first(row, _ANSWER, path) for one, row in zip(ids, rows, strict=True)},
    )


def read_context(path: Path) -> dict[str, Context]:
    """Captions and boxes by picture: LLaVA-Bench's ``caption`` or qa90's ``captions`` and ``instances``."""
    found = {}
    for row in read_rows(path):
        captions = row.get("captions", row.get("caption"))
        if isinstance(captions, str):
            captions = [captions]
        if not isinstance(captions, list) or not captions:
            raise DataError(f"{path}: a row has neither 'caption' nor 'captions', it has {sorted(row)[:8]}")
        boxes = [
            f"{need(box, 'category', path)}: {need(box, 'bbox', path)}" for box in row.get("instances", [])
        ]
        text = "\n".join(map(str, captions)) + ("\n\n" + "\n".join(boxes) if boxes else "")
        found[_stem(str(row.get("image", row.get("id", ""))))] = Context(text, bool(boxes))
    return found


def context_of(question: Question, contexts: Mapping[str, Context]) -> Context:
    """What is known of a question's picture; empty if nothing is."""
    return contexts.get(_stem(question.image), Context(question.context, False))


def read_rules(path: Path) -> dict[str, str]:
    """LLaVA's rule file: category -> instruction to the judge."""
    value = read_json(path)
    if not isinstance(value, dict) or not all(
        isinstance(rule, dict) and isinstance(rule.get("prompt"), str) for rule in value.values()
    ):
        raise DataError(f"{path}: is no rule file; expected {{category: {{'role': ..., 'prompt': ...}}}}")
    return {category: rule["prompt"].strip() for category, rule in value.items()}


def rule_for(question: Question, rules: Mapping[str, str], *, boxes: bool, path: Path) -> str:
    """The instruction for a question's category: pictures known by captions alone have rules of their own.

    Raises:
        DataError: no rule for the category, and no default.
    """
    category = question.categories[0] if question.categories else "default"
    bench = f"llava_bench_{category}"
    for name in (category, bench) if boxes else (bench, category):
        if name in rules:
            return rules[name]
    if "default" not in rules:
        raise DataError(f"{path}: no rule for category {category!r}; it has {', '.join(sorted(rules))}")
    return rules["default"]


def _rows(path: Path) -> list[Row]:
    """The rows of any of the layouts."""
    if path.suffix == ".tsv":
        csv.field_size_limit(sys.maxsize)  # TouchStone holds its pictures in a column
        return list(csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter="\t"))
    if path.suffix == ".json":
        value = read_json(path)
        if isinstance(value, dict):
            return [
                {"id": one, **(row if isinstance(row, dict) else {"answer": row})}
                for one, row in value.items()
            ]
    return read_rows(path)


def _question(row: Row, path: Path) -> Question:
    if "messages" in row:  # a record of ours
        turns = [turn["content"] for turn in row["messages"] if turn["role"] == "user"]
        row = {**row, "prompt": turns[-1] if turns else ""}
    text = _first(row, _QUESTION, path)
    image = row.get("image", row.get("imagename", row.get("image_id")))
    image = image.get("path") if isinstance(image, Mapping) else image
    meta: Mapping[str, Any] = row.get("meta") or {}
    category = row.get("category", row.get("capability", meta.get("question_type", row.get("task"))))
    truth = row.get("answers") or row.get("answer") or row.get("gpt4_ha_answer") or ""
    return Question(
        id=_first(row, _ID, path),
        text=text,
        lang=str(row.get("lang") or language_of(text)),
        image=image if isinstance(image, str) and len(image) < 256 else "",
        categories=_categories(category),
        truth=OR.join(map(str, truth)) if isinstance(truth, list) else str(truth),
        context=str(row.get("human_annotation") or ""),
        task=str(row.get("task") or ""),
    )


def _categories(value: Any) -> tuple[str, ...]:
    parts = value if isinstance(value, list) else str(value or "").split(",")
    return tuple(str(part).strip() for part in parts if str(part).strip())


def _first(row: Row, keys: tuple[str, ...], path: Path) -> str:
    """The first of the keys that the row has, as text."""
    key = next((key for key in keys if row.get(key) is not None), None)
    if key is None or isinstance(row[key], list | dict):
        raise DataError(f"{path}: a row has none of {', '.join(keys)} as text, it has {sorted(row)[:8]}")
    return str(row[key])


def _refuse_twice(ids: list[str], path: Path) -> None:
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            raise DataError(f"{path}: question {one} stands there twice; every question once, please")
        seen.add(one)


def _stem(image: str) -> str:
    return Path(image).stem

"""Readers of files to be judged: LLaVA-Bench, qa90 (English, Chinese), MM-Vet, TouchStone, our predictions.

Questions and answers may be JSONL rows (``question_id``, ``text``), MM-Vet's JSON object by id, TouchStone's
TSV or our ``predictions/*.jsonl``. The rows identify the format; nothing has to be named.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_json, read_text
from ziya_visual.eval.rows import Row, need, read_rows

OR = " <OR> "
_HAN = re.compile(r"[\u3400-\u9fff]")
_LANG_END = re.compile(r"[-_.](?:en|zh|cn)$")
_WORD = re.compile(r"[A-Za-z]+")
_ID = ("question_id", "id", "index")
_QUESTION = ("question", "prompt", "text")
_ANSWER = ("prediction", "response", "answer", "gpt4_ha_answer", "text")


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its right answer (``truth``) and what the file says of the picture (``context``).

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


class ModelAnswers(NamedTuple):
    """A model's name and its answers by question id."""

    name: str
    answers: Mapping[str, str]


class Context(NamedTuple):
    """Text about a picture for a judge; ``boxes`` says whether it lists any."""

    text: str
    boxes: bool


def language_of(text: str) -> str:
    """Return ``zh`` if there are more Chinese characters than Latin words, else ``en``."""
    return "zh" if len(_HAN.findall(text)) > len(_WORD.findall(text)) else "en"


def read_questions(path: Path) -> list[Question]:
    """Read the questions of a file, and refuse an id that occurs twice."""
    questions = [_question(row, path) for row in _rows(path)]
    _check_unique([question.id for question in questions], path)
    return questions


def read_model_answers(path: Path) -> ModelAnswers:
    """Read the answers of a file, named by the rows' ``model_id``, else by the file without its language.

    Prediction files of ours are named ``<model>.<split>.<lang>.<task>.jsonl``.
    """
    rows = _rows(path)
    ids = [_first(row, _ID, path) for row in rows]
    _check_unique(ids, path)
    names = sorted({str(row["model_id"]) for row in rows if row.get("model_id")})
    if len(names) > 1:
        raise DataError(f"{path}: answers of {len(names)} models ({', '.join(names[:3])}); one per file")
    from_file = path.stem.split(".")[0] if "prediction" in rows[0] else _LANG_END.sub("", path.stem)
    answers = {item: _first(row, _ANSWER, path) for item, row in zip(ids, rows, strict=True)}
    return ModelAnswers(names[0] if names else from_file, answers)


def read_contexts(path: Path) -> dict[str, Context]:
    """Read captions and boxes by picture, in LLaVA-Bench's (``caption``) or qa90's layout (``instances``)."""
    contexts = {}
    for row in read_rows(path):
        captions = row.get("captions", row.get("caption"))
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(captions, list) or not captions:
            raise DataError(f"{path}: a row has neither 'caption' nor 'captions'; found {sorted(row)[:8]}")
        boxes = [
            f"{need(box, 'category', path)}: {need(box, 'bbox', path)}" for box in row.get("instances", [])
        ]
        text = "\n".join(map(str, captions)) + ("\n\n" + "\n".join(boxes) if boxes else "")
        contexts[Path(str(row.get("image", row.get("id", "")))).stem] = Context(text, bool(boxes))
    return contexts


def read_rules(path: Path) -> dict[str, str]:
    """Read LLaVA's rule file: category -> instruction to the judge."""
    try:
        return {category: rule["prompt"].strip() for category, rule in read_json(path).items()}
    except (AttributeError, KeyError, TypeError) as error:
        shape = "{category: {'role': ..., 'prompt': ...}}"
        raise DataError(f"{path}: not a rule file; expected {shape}") from error


def rule_for(question: Question, rules: Mapping[str, str], *, boxes: bool, path: Path) -> str:
    """Return the instruction for a question's category; pictures known only by captions have their own."""
    category = question.categories[0] if question.categories else "default"
    bench = f"llava_bench_{category}"
    for name in ((category, bench) if boxes else (bench, category)) + ("default",):
        if name in rules:
            return rules[name]
    raise DataError(f"{path}: no rule for category {category!r}; found {', '.join(sorted(rules))}")


def _rows(path: Path) -> Sequence[Row]:
    """Return the rows of a file in any of the layouts."""
    if path.suffix == ".tsv":
        csv.field_size_limit(sys.maxsize)  # TouchStone holds its pictures in a column
        return list(csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter="\t"))
    value = read_json(path) if path.suffix == ".json" else None
    if isinstance(value, dict):
        return [
            {"id": item, **(row if isinstance(row, dict) else {"answer": row})} for item, row in value.items()
        ]
    return read_rows(path)


def _question(row: Row, path: Path) -> Question:
    if "messages" in row:  # an Example of ours
        turns = [turn["content"] for turn in row["messages"] if turn["role"] == "user"]
        row = {**row, "prompt": turns[-1] if turns else ""}
    text = _first(row, _QUESTION, path)
    image = row.get("image", row.get("imagename", row.get("image_id")))
    image = image.get("path") if isinstance(image, Mapping) else image
    meta: Mapping[str, Any] = row.get("meta") or {}
    category = row.get("category", row.get("capability", meta.get("question_type", row.get("task"))))
    categories = category if isinstance(category, list) else str(category or "").split(",")
    truth = row.get("answers") or row.get("answer") or row.get("gpt4_ha_answer") or ""
    return Question(
        id=_first(row, _ID, path),
        text=text,
        lang=str(row.get("lang") or language_of(text)),
        image=image if isinstance(image, str) and len(image) < 256 else "",
        categories=tuple(name for name in (str(item).strip() for item in categories) if name),
        truth=OR.join(map(str, truth)) if isinstance(truth, list) else str(truth),
        context=str(row.get("human_annotation") or ""),
        task=str(row.get("task") or ""),
    )


def _first(row: Row, keys: tuple[str, ...], path: Path) -> str:
    """Return the value of the first key that the row has, as text."""
    key = next((key for key in keys if row.get(key) is not None), None)
    if key is None or isinstance(row[key], list | dict):
        raise DataError(f"{path}: a row needs one of {', '.join(keys)} as text; found {sorted(row)[:8]}")
    return str(row[key])


def _check_unique(ids: Sequence[str], path: Path) -> None:
    for item, count in Counter(ids).items():
        if count > 1:
            raise DataError(f"{path}: duplicate question id {item}; ids must be unique")

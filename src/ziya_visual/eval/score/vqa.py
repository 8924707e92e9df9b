"""``score vqa`` and ``score gqa``: short answers, and the files that the evaluation servers take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ziya_visual.core.errors import ConfigError, DataError, nearest
from ziya_visual.core.files import read_json, write_json
from ziya_visual.eval.metrics import choice, vqa
from ziya_visual.eval.score.files import (
    Row,
    Scored,
    answer_of,
    by_id,
    match_ids,
    need,
    read_object,
    read_rows,
    read_value,
    text_of,
)

ANNOTATORS = 10
SUBMISSIONS = ("vizwiz", "vqav2")
# Decimals as the official tool prints them; None is unrounded.
_DECIMALS = {"vqav2": 2, "lavis": 2, "evalai": None, "zh": None}


def check_choice(option: str, value: str, known: Sequence[str]) -> None:
    """Refuse an unknown value of an option."""
    if value not in known:
        raise ConfigError(f"{option} {value!r} is not one of {', '.join(known)}{nearest(value, known)}")


def score_vqa(
    *, questions: Path, annotations: Path, predictions: Path, rule: str = "vqav2", duplicates: str = "refuse"
) -> Scored:
    """VQA accuracy over all annotated questions; a missing answer is wrong and counted."""
    check_choice("--rule", rule, vqa.RULES)
    failures: Counter[str] = Counter()
    asked = by_id(read_object(questions, "questions"), "question_id", questions, failures=failures)
    truths = by_id(read_object(annotations, "annotations"), "question_id", annotations, failures=failures)
    said = by_id(read_rows(predictions), "question_id", predictions, failures=failures, duplicates=duplicates)
    failures["annotation_without_question"] += sum(item not in asked for item in truths)
    scores: dict[str, float] = {}
    for item in match_ids(truths, said, predictions, failures):
        answers = _annotators(truths[item], annotations, failures)
        text = answer_of(said.get(item), "answer", predictions, failures)
        scores[item] = 0.0 if text is None else vqa.accuracy(text, answers, rule)
    groups = {"overall": list(scores)}
    for kind in ("answer_type", "question_type"):
        for item in scores:
            if kind in truths[item]:
                groups.setdefault(f"{kind}/{truths[item][kind]}", []).append(item)
    decimals = _DECIMALS[rule]
    found = {name: _percent([scores[item] for item in members]) for name, members in groups.items()}
    return Scored(
        {name: value if decimals is None else round(value, decimals) for name, value in found.items()},
        +failures,
        {name: {item: 100 * scores[item] for item in members} for name, members in groups.items()},
        rule,
        clusters=_images(truths, "image_id") | _images(asked, "image_id"),
    )


def _percent(values: Sequence[float]) -> float:
    # In the official order of operations: the second decimal may hang on it.
    return 100 * sum(values) / len(values)


def _images(rows: Mapping[str, Row], key: str) -> dict[str, str]:
    return {item: f"image {row[key]}" for item, row in rows.items() if key in row}


def _annotators(row: Row, path: Path, failures: Counter[str]) -> list[str]:
    answers = need(row, "answers", path)
    if not isinstance(answers, list) or not answers:
        raise DataError(f"{path}: question {row.get('question_id')} has no answers")
    entries = [answer if isinstance(answer, dict) else {"answer": answer} for answer in answers]
    ids = [str(entry.get("answer_id")) for entry in entries]
    # The official tool tells annotators apart by comparing whole entries: without ids, equal ones vanish.
    failures["answer_ids_repaired"] += len(set(ids)) < len(ids) or "None" in ids
    failures["not_ten_annotators"] += len(entries) != ANNOTATORS
    return [text_of(entry, "answer", path) for entry in entries]


def score_gqa(
    *, annotations: Path, predictions: Path, rule: str = "exact", duplicates: str = "refuse"
) -> Scored:
    """GQA accuracy over the balanced questions of the annotation file, as officially."""
    check_choice("--rule", rule, choice.GQA_RULES)
    failures: Counter[str] = Counter()
    questions = read_json(annotations)
    if not isinstance(questions, dict) or not all(isinstance(row, dict) for row in questions.values()):
        raise DataError(f"{annotations}: expected a JSON object of questions by their id")
    truths = {item: row for item, row in questions.items() if row.get("isBalanced", True)}
    if not truths:
        raise DataError(f"{annotations}: holds no balanced question")
    said = by_id(read_rows(predictions), "questionId", predictions, failures=failures, duplicates=duplicates)
    right = {}
    for item in match_ids(truths, said, predictions, failures, known=questions):
        text = answer_of(said.get(item), "prediction", predictions, failures)
        answer = text_of(truths[item], "answer", annotations)
        right[item] = 100.0 * (text is not None and choice.gqa_correct(text, answer, rule))
    return Scored(
        {"accuracy": sum(right.values()) / len(right)},
        +failures,
        {"accuracy": right},
        rule,
        notes={"unbalanced_left_out": len(questions) - len(truths)},
        clusters=_images(truths, "imageId"),
    )


def write_submission(
    kind: str, out: Path, *, questions: Path, predictions: Path, duplicates: str = "refuse"
) -> Scored:
    """Write the file that an evaluation server takes: an answer to every question, in their order.

    Answers are normalised as EvalAI's processor does, which both leaderboards' users do before the upload;
    a question without an answer gets an empty one and is counted.

    Args:
        kind: ``vqav2``: rows of ``question_id`` and ``answer``; ``vizwiz``: of ``image`` and ``answer``.
        out: the file.
        questions: VQA's JSON, or rows with ``question_id`` and, for VizWiz, ``image`` (its name).
        predictions: rows of ``question_id`` (VizWiz: or ``image``) and ``answer``, as the model wrote it.
        duplicates: as in :func:`by_id`.

    Raises:
        ConfigError: an unknown kind.
        DataError: files that do not fit.
    """
    check_choice("--submission", kind, SUBMISSIONS)
    failures: Counter[str] = Counter()
    value = read_value(questions)
    listed = read_object(questions, "questions") if isinstance(value, dict) else read_rows(questions)
    given = read_rows(predictions)
    # VizWiz asks one question a picture; its own files name the picture alone.
    key = "image" if kind == "vizwiz" and "question_id" not in given[0] else "question_id"
    asked = by_id(listed, key, questions, failures=failures)
    said = by_id(given, key, predictions, failures=failures, duplicates=duplicates)
    name = "image" if kind == "vizwiz" else "question_id"
    rows = []
    for item in match_ids(asked, said, predictions, failures):
        text = answer_of(said.get(item), "answer", predictions, failures) or ""
        rows.append({name: need(asked[item], name, questions), "answer": vqa.normalize_evalai(text)})
    write_json(out, rows)
    return Scored({"answers": float(len(rows))}, +failures, rule=f"upload for {kind}, answers as EvalAI's")

"""The forms of ``score``: each reads files, applies an official rule and returns a :class:`Scored`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ziya_visual.core.errors import ConfigError, DataError, nearest
from ziya_visual.core.io import read_json
from ziya_visual.eval import retrieval
from ziya_visual.eval.metrics import choice, vqa
from ziya_visual.eval.score_files import (
    Row,
    Scored,
    by_id,
    match_ids,
    need,
    read_arrays,
    read_object,
    read_rows,
    text_of,
)

# Decimals as the official tool prints them; None is unrounded.
_DECIMALS = {"vqav2": 2, "lavis": 2, "evalai": None, "zh": None}


def check_rule(rule: str, known: Sequence[str]) -> None:
    """Refuse an unknown ``--rule``."""
    if rule not in known:
        raise ConfigError(f"--rule {rule!r} is not one of {', '.join(known)}{nearest(rule, known)}")


def score_vqa(
    *, questions: Path, annotations: Path, predictions: Path, rule: str = "vqav2", duplicates: str = "refuse"
) -> Scored:
    """VQA accuracy over all annotated questions; a missing answer is wrong and counted."""
    check_rule(rule, vqa.RULES)
    failures: Counter[str] = Counter()
    asked = {str(need(row, "question_id", questions)) for row in read_object(questions, "questions")}
    truths = by_id(
        read_object(annotations, "annotations"),
        "question_id",
        annotations,
        duplicates="refuse",
        failures=failures,
    )
    said = by_id(read_rows(predictions), "question_id", predictions, duplicates=duplicates, failures=failures)
    unasked = sum(item not in asked for item in truths)
    if unasked:
        failures["annotation_without_question"] += unasked
    scores: dict[str, float] = {}
    for item in match_ids(truths, said, predictions, failures):
        answers = _annotators(truths[item], annotations, failures)
        text = text_of(said[item], "answer", predictions) if item in said else None
        failures["empty"] += text is not None and not text.strip()
        scores[item] = 0.0 if text is None else vqa.accuracy(text, answers, rule)
    groups = {"overall": list(scores)}
    for kind in ("answer_type", "question_type"):
        for item in scores:
            if kind in truths[item]:
                groups.setdefault(f"{kind}/{truths[item][kind]}", []).append(item)
    items = {name: {item: 100 * scores[item] for item in members} for name, members in groups.items()}
    decimals = _DECIMALS[rule]
    return Scored(
        {name: _mean(list(values.values()), decimals) for name, values in items.items()},
        +failures,
        items,
        rule,
    )


def _mean(values: list[float], decimals: int | None) -> float:
    mean = sum(values) / len(values)
    return mean if decimals is None else round(mean, decimals)


def _annotators(row: Row, path: Path, failures: Counter[str]) -> list[str]:
    answers = need(row, "answers", path)
    if not isinstance(answers, list) or not answers:
        raise DataError(f"{path}: question {row.get('question_id')} has no answers")
    entries = [answer if isinstance(answer, dict) else {"answer": answer} for answer in answers]
    ids = [entry.get("answer_id") for entry in entries]
    # The official tool tells annotators apart by comparing whole entries: without ids, equal ones vanish.
    failures["answer_ids_repaired"] += len(set(ids)) < len(ids) or None in ids
    return [text_of(entry, "answer", path) for entry in entries]


def score_gqa(
    *, annotations: Path, predictions: Path, rule: str = "exact", duplicates: str = "refuse"
) -> Scored:
    """GQA accuracy over all questions of the annotation file."""
    check_rule(rule, choice.GQA_RULES)
    failures: Counter[str] = Counter()
    truths = read_json(annotations)
    if not isinstance(truths, dict) or not truths or not all(isinstance(r, dict) for r in truths.values()):
        raise DataError(f"{annotations}: expected a JSON object of questions by their id")
    said = by_id(read_rows(predictions), "questionId", predictions, duplicates=duplicates, failures=failures)
    right = {}
    for item in match_ids(truths, said, predictions, failures):
        text = text_of(said[item], "prediction", predictions) if item in said else None
        failures["empty"] += text is not None and not text.strip()
        answer = text_of(truths[item], "answer", annotations)
        right[item] = 100.0 * (text is not None and choice.gqa_correct(text, answer, rule))
    return Scored({"accuracy": _mean(list(right.values()), None)}, +failures, {"accuracy": right}, rule)


def score_pope(*, predictions: Path, duplicates: str = "refuse") -> Scored:
    """POPE by category and as the mean of its categories; a missing prediction counts as wrong."""
    failures: Counter[str] = Counter()
    rows = by_id(read_rows(predictions), "question_id", predictions, duplicates=duplicates, failures=failures)
    said: dict[str, list[bool]] = defaultdict(list)
    true: dict[str, list[bool]] = defaultdict(list)
    right: dict[str, float] = {}
    for item, row in rows.items():
        category = text_of(row, "category", predictions)
        label = text_of(row, "label", predictions).strip().lower()
        if label not in ("yes", "no"):
            raise DataError(f"{predictions}: question {item} has label {label!r}, expected yes or no")
        text = row.get("prediction")
        if text is None or not str(text).strip():
            failures["missing" if text is None else "empty"] += 1
            answer = label != "yes"  # silence is wrong, not "yes" as the official reading would have it
        else:
            answer = choice.pope_yes(str(text))
        said[category].append(answer)
        true[category].append(label == "yes")
        right[item] = 100.0 * (answer == (label == "yes"))
    found = {category: choice.pope_scores(said[category], true[category]) for category in said}
    scores = {f"{category}/{name}": value for category, part in found.items() for name, value in part.items()}
    for name in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
        scores[f"mean/{name}"] = sum(part[name] for part in found.values()) / len(found)
    return Scored(scores, +failures, {"all/accuracy": right}, "LLaVA eval_pope")


def score_scienceqa(*, problems: Path, predictions: Path, duplicates: str = "refuse") -> Scored:
    """ScienceQA accuracy; what cannot be read as an option is wrong and counted in ``unparsed``."""
    failures: Counter[str] = Counter()
    truths = by_id(read_rows(problems), "question_id", problems, duplicates="refuse", failures=failures)
    said = by_id(read_rows(predictions), "question_id", predictions, duplicates=duplicates, failures=failures)
    right, unparsed = {}, 0
    for item in match_ids(truths, said, predictions, failures):
        letter = None
        if item in said:
            letter = choice.scienceqa_letter(text_of(said[item], "text", predictions))
            unparsed += letter is None
        beyond = letter is not None and ord(letter) - ord("A") >= int(
            need(truths[item], "n_choices", problems)
        )
        failures["letter_beyond_options"] += beyond
        right[item] = 100.0 * (letter == text_of(truths[item], "answer", problems) and not beyond)
    pictured = {item: right[item] for item in right if need(truths[item], "has_image", problems)}
    scores = {"accuracy": _mean(list(right.values()), None), "unparsed": float(unparsed)}
    items = {"accuracy": right}
    if pictured:
        scores["image_accuracy"], items["image_accuracy"] = _mean(list(pictured.values()), None), pictured
    failures["unparsed"] += unparsed
    return Scored(scores, +failures, items, "LLaVA eval_science_qa, no guesses")


def score_mcq(*, predictions: Path, duplicates: str = "refuse") -> Scored:
    """Multiple choice with rotations: over all rows, over first rows, and right in every rotation."""
    failures: Counter[str] = Counter()
    rows = by_id(read_rows(predictions), "index", predictions, duplicates=duplicates, failures=failures)
    right: dict[str, bool] = {}
    rotations: dict[int, list[str]] = defaultdict(list)
    for item, row in rows.items():
        choices = choice.options(row)
        text = row.get("prediction")
        empty = text is None or not str(text).strip()
        letter = None if empty else choice.infer_option(str(text), choices)
        if empty:
            failures["missing" if text is None else "empty"] += 1
        elif letter is None:
            failures["unread"] += 1
        elif letter == "Z":
            failures["refusal"] += 1
        right[item] = letter == text_of(row, "answer", predictions).strip()
        try:
            rotations[int(item) % 10**6].append(item)
        except ValueError as error:
            raise DataError(f"{predictions}: index {item!r} is no integer") from error
    first = {question: min(members, key=int) for question, members in rotations.items()}
    items = {
        "accuracy": {item: 100.0 * hit for item, hit in right.items()},
        "first_pass": {item: 100.0 * right[item] for item in first.values()},
        "circular": {first[q]: 100.0 * all(right[item] for item in rotations[q]) for q in first},
    }
    for item in first.values():
        if rows[item].get("category") is not None:
            name = f"category/{rows[item]['category']}"
            items.setdefault(name, {})[item] = items["circular"][item]
    scores = {name: _mean(list(values.values()), None) for name, values in items.items()}
    return Scored(scores, +failures, items, "VLMEvalKit can_infer")


def score_retrieval(
    *,
    embeddings: Path | None = None,
    similarity: Path | None = None,
    rerank: Path | None = None,
    top_k: int | None = None,
) -> Scored:
    """Recall at 1, 5 and 10 in both directions; see :mod:`ziya_visual.eval.retrieval`."""
    if (embeddings is None) == (similarity is None):
        raise ConfigError("score retrieval needs either --embeddings or --similarity, not both")
    if (rerank is None) != (top_k is None):
        raise ConfigError("--rerank and --top-k go together")
    if embeddings is not None:
        arrays = read_arrays(embeddings, ("image", "text", "text2image"))
        scores = retrieval.similarity(arrays["image"], arrays["text"])
    else:
        assert similarity is not None
        arrays = read_arrays(similarity, ("i2t", "text2image"))
        scores = np.asarray(arrays["i2t"], np.float32)
        if scores.ndim != 2:
            raise DataError(f"{similarity}: i2t has shape {list(scores.shape)}, expected [images, texts]")
    owner = retrieval.check_pairs(scores, arrays["text2image"])
    by_row = by_column = scores
    if rerank is not None and top_k is not None:
        itm = np.asarray(read_arrays(rerank, ("itm",))["itm"], np.float32)
        if not np.isfinite(itm).all():
            raise DataError(f"{rerank}: itm holds NaN or infinite values")
        by_row, by_column = retrieval.rerank(scores, itm, top_k, owner)
    image_ranks, text_ranks = retrieval.rank_texts(by_row, owner), retrieval.rank_images(by_column, owner)
    failures = Counter({"images_without_text": scores.shape[0] - len(np.unique(owner))})
    items = {}
    for name, ranks in (("i2t", image_ranks), ("t2i", text_ranks)):
        for depth in retrieval.DEPTHS:
            hits = 100.0 * (ranks < depth)
            items[f"{name}_r{depth}"] = {str(i): float(hit) for i, hit in enumerate(hits)}
    rule = "ties within 1e-6 against the system"
    return Scored(retrieval.recalls(image_ranks, text_ranks), +failures, items, rule)

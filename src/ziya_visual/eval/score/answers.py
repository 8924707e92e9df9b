"""Short answers scored by official rules: VQA, GQA, POPE, ScienceQA, multiple choice, own questions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_json, read_jsonl, write_json
from ziya_visual.eval.metrics import choice, vqa
from ziya_visual.eval.metrics.bootstrap import Floats, Statistic
from ziya_visual.eval.results import Metric, Scope, Scored
from ziya_visual.eval.rows import (
    Row,
    answer_of,
    by_id,
    check_choice,
    match_ids,
    need,
    read_object,
    read_rows,
    read_value,
    text_of,
)

ANNOTATORS = 10
SUBMISSIONS = ("vizwiz", "vqav2")
_ROUNDED = ("vqav2", "lavis")  # rules whose official tools print two decimals


def measure_answers(predictions: Path, scope: Scope, *, seed: int = 0) -> list[Metric]:
    """Return ``accuracy``, the mean over the question types, and ``type:...`` of one of our prediction files.

    An answer is right if it equals a reference after the language's normalization. Intervals resample images.
    """
    rows = [row for _, row in read_jsonl(predictions)]
    types = [row["meta"].get("question_type", "all") for row in rows]
    images = [row["image_id"] for row in rows]
    correct = [100.0 * vqa.same_answer(row["prediction"], row["answers"], row["lang"]) for row in rows]
    metrics = [scope.mean("accuracy", correct, clusters=images, groups=types, seed=seed)]
    for kind in sorted(set(types) - {"all"}):
        members = [number for number, question_type in enumerate(types) if question_type == kind]
        values, clusters = [correct[number] for number in members], [images[number] for number in members]
        metrics.append(scope.mean(f"type:{kind}", values, clusters=clusters, seed=seed))
    return metrics


def score_vqa(
    *, questions: Path, annotations: Path, predictions: Path, rule: str = "vqav2", duplicates: str = "refuse"
) -> Scored:
    """Return the VQA accuracy over all annotated questions; a missing answer is wrong and counted."""
    check_choice("--rule", rule, vqa.RULES)
    failures: Counter[str] = Counter()
    questions_by_id = by_id(read_object(questions, "questions"), "question_id", questions, failures=failures)
    truths = by_id(read_object(annotations, "annotations"), "question_id", annotations, failures=failures)
    rows = by_id(read_rows(predictions), "question_id", predictions, failures=failures, duplicates=duplicates)
    failures["annotation_without_question"] += sum(item not in questions_by_id for item in truths)
    accuracies: dict[str, float] = {}
    for item in match_ids(truths, rows, predictions, failures):
        answers = _annotators(truths[item], annotations, failures)
        text = answer_of(rows.get(item), "answer", predictions, failures)
        accuracies[item] = 0.0 if text is None else vqa.accuracy(text, answers, rule)
    groups = {"overall": list(accuracies)}
    for kind in ("answer_type", "question_type"):
        for item in accuracies:
            if kind in truths[item]:
                groups.setdefault(f"{kind}/{truths[item][kind]}", []).append(item)
    scores = {}
    for name, members in groups.items():
        # In the official order of operations, which can decide the second decimal.
        percent = 100 * sum(accuracies[item] for item in members) / len(members)
        scores[name] = round(percent, 2) if rule in _ROUNDED else percent
    items = {name: {item: 100 * accuracies[item] for item in members} for name, members in groups.items()}
    clusters = _images(truths, "image_id") | _images(questions_by_id, "image_id")
    return Scored(scores, +failures, items, rule, clusters=clusters)


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
    """Return the GQA accuracy over the balanced questions, as the official tool does."""
    check_choice("--rule", rule, choice.GQA_RULES)
    failures: Counter[str] = Counter()
    questions = read_json(annotations)
    if not isinstance(questions, dict) or not all(isinstance(row, dict) for row in questions.values()):
        raise DataError(f"{annotations}: expected a JSON object of questions by their id")
    truths = {item: row for item, row in questions.items() if row.get("isBalanced", True)}
    if not truths:
        raise DataError(f"{annotations}: has no balanced question")
    rows = by_id(read_rows(predictions), "questionId", predictions, failures=failures, duplicates=duplicates)
    correct = {}
    for item in match_ids(truths, rows, predictions, failures, known=questions):
        text = answer_of(rows.get(item), "prediction", predictions, failures)
        answer = text_of(truths[item], "answer", annotations)
        correct[item] = 100.0 * (text is not None and choice.gqa_correct(text, answer, rule))
    items, notes = {"accuracy": correct}, {"unbalanced_left_out": len(questions) - len(truths)}
    clusters = _images(truths, "imageId")
    return Scored(_item_means(items), +failures, items, rule, notes=notes, clusters=clusters)


def write_submission(
    kind: str, out: Path, *, questions: Path, predictions: Path, duplicates: str = "refuse"
) -> Scored:
    """Write the file that an evaluation server takes: an answer to every question, in their order.

    Answers are normalized by EvalAI's processor, as users of both leaderboards do before the upload.
    A question without an answer gets an empty one and is counted.

    The rows have ``question_id`` (vqav2) or ``image`` (vizwiz). ``questions`` are VQA's JSON, or rows
    with ``question_id`` and, for VizWiz, ``image`` (the file name); ``predictions`` name them by either.
    """
    check_choice("--submission", kind, SUBMISSIONS)
    failures: Counter[str] = Counter()
    value = read_value(questions)
    listed = read_object(questions, "questions") if isinstance(value, dict) else read_rows(questions)
    predicted = read_rows(predictions)
    # VizWiz asks one question per image, and its own files name the image only.
    key = "image" if kind == "vizwiz" and "question_id" not in predicted[0] else "question_id"
    questions_by_id = by_id(listed, key, questions, failures=failures)
    answered = by_id(predicted, key, predictions, failures=failures, duplicates=duplicates)
    name = "image" if kind == "vizwiz" else "question_id"
    upload = []
    for item in match_ids(questions_by_id, answered, predictions, failures):
        answer = vqa.normalize_evalai(answer_of(answered.get(item), "answer", predictions, failures) or "")
        upload.append({name: need(questions_by_id[item], name, questions), "answer": answer})
    write_json(out, upload)
    return Scored({"answers": float(len(upload))}, +failures, rule=f"upload for {kind}, answers as EvalAI's")


def score_pope(*, predictions: Path, duplicates: str = "refuse") -> Scored:
    """Return POPE by category and as the mean of the categories; a missing prediction counts as wrong."""
    failures: Counter[str] = Counter()
    options = {"duplicates": duplicates, "within": "category"}  # the original files count from 1 in each
    rows = by_id(read_rows(predictions), "question_id", predictions, failures=failures, **options)
    categories = list(dict.fromkeys(str(row["category"]) for row in rows.values()))
    width = len(choice.POPE_COUNTS)
    counts = np.zeros((len(rows), len(categories) * width))
    correct = {}
    for number, (item, row) in enumerate(rows.items()):
        label = text_of(row, "label", predictions).strip().lower()
        if label not in ("yes", "no"):
            raise DataError(f"{predictions}: question {item} has label {label!r}, expected yes or no")
        text = answer_of(row, "prediction", predictions, failures)
        # An empty answer is wrong, not "yes" as the official reading would have it.
        yes = choice.pope_yes(text) if text is not None and text.strip() else label == "no"
        failures["neither_yes_nor_no"] += bool(text and text.strip()) and choice.pope_unparsed(str(text))
        start = categories.index(str(row["category"])) * width
        counts[number, start : start + width] = choice.pope_count(yes, label == "yes")
        correct[item] = 100.0 * (yes == (label == "yes"))
    statistic = _pope_statistic(categories, list(rows), counts)
    scores = dict(zip(statistic.names, statistic.score(counts.sum(axis=0)[None])[0].tolist(), strict=True))
    clusters = {item: str(row["image"]) for item, row in rows.items() if "image" in row}
    items = {"all/accuracy": correct}
    return Scored(scores, +failures, items, "LLaVA eval_pope", statistics=[statistic], clusters=clusters)


def _pope_statistic(categories: list[str], items: list[str], counts: Floats) -> Statistic:
    def score(sums: Floats) -> Floats:
        each = sums.reshape(len(sums), len(categories), -1)
        scores = choice.pope_scores(each.reshape(-1, each.shape[-1])).reshape(*each.shape[:2], -1)
        return np.concatenate([scores, scores.mean(axis=1, keepdims=True)], axis=1).reshape(len(sums), -1)

    names = [f"{category}/{name}" for category in (*categories, "mean") for name in choice.POPE_SCORES]
    return Statistic(names, items, counts, score)


def score_scienceqa(*, problems: Path, predictions: Path, duplicates: str = "refuse") -> Scored:
    """Return ScienceQA accuracy; an answer that names no option is wrong and counted as ``unparsed``."""
    failures: Counter[str] = Counter()
    truths = by_id(read_rows(problems), "question_id", problems, failures=failures)
    rows = by_id(read_rows(predictions), "question_id", predictions, failures=failures, duplicates=duplicates)
    correct, unparsed = {}, 0
    for item in match_ids(truths, rows, predictions, failures):
        options, answer = _problem(truths[item], problems)
        text = answer_of(rows.get(item), "text", predictions, failures)
        letter = None if text is None else choice.scienceqa_letter(text)
        unparsed += text is not None and letter is None
        failures["letter_beyond_options"] += letter is not None and letter not in options
        correct[item] = 100.0 * (letter == answer)
    items = {"accuracy": correct}
    with_image = {item: correct[item] for item in correct if need(truths[item], "has_image", problems)}
    if with_image:
        items["image_accuracy"] = with_image
    failures["unparsed"] += unparsed
    scores = _item_means(items) | {"unparsed": float(unparsed)}
    return Scored(scores, +failures, items, "LLaVA eval_science_qa, no guesses")


def _item_means(items: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(values.values()) / len(values) for name, values in items.items()}


def _problem(row: Row, path: Path) -> tuple[str, str]:
    """Return the letters of a problem's options, and the right one."""
    count, answer = need(row, "n_choices", path), text_of(row, "answer", path)
    if not isinstance(count, int) or not 1 <= count <= 26:
        raise DataError(f"{path}: 'n_choices' is {count!r}, expected a number from 1 to 26")
    options = choice.LETTERS[:count]
    if len(answer) != 1 or answer not in options:
        raise DataError(f"{path}: 'answer' is {answer!r}, expected one of {', '.join(options)}")
    return options, answer


def score_mcq(*, predictions: Path, duplicates: str = "refuse") -> Scored:
    """Return multiple-choice accuracy: over all rows, over first rows, and right in every rotation."""
    failures: Counter[str] = Counter()
    rows = by_id(read_rows(predictions), "index", predictions, failures=failures, duplicates=duplicates)
    correct: dict[str, bool] = {}
    rotations: dict[int, dict[int, str]] = defaultdict(dict)
    for item, row in rows.items():
        correct[item] = _chosen(row, predictions, failures)
        try:
            rotation, question = divmod(int(item), choice.ROTATION)
        except ValueError as error:
            raise DataError(f"{predictions}: index {item!r} is not an integer") from error
        rotations[question][rotation] = item
    first, circular = {}, {}
    for members in rotations.values():
        # Rotations count from 0: a gap is a row without a prediction.
        gaps = max(members) + 1 - len(members)
        failures["missing"] += gaps
        name = members[min(members)]
        first[name] = 100.0 * (0 in members and correct[members[0]])
        circular[name] = 100.0 * (not gaps and all(correct[item] for item in members.values()))
    accuracy = {item: 100.0 * value for item, value in correct.items()}
    items = {"accuracy": accuracy, "first_pass": first, "circular": circular}
    for item, value in circular.items():
        if rows[item].get("category") is not None:
            items.setdefault(f"category/{rows[item]['category']}", {})[item] = value
    clusters = {item: str(int(item) % choice.ROTATION) for item in rows}
    return Scored(_item_means(items), +failures, items, "VLMEvalKit can_infer", clusters=clusters)


def _chosen(row: Row, path: Path, failures: Counter[str]) -> bool:
    """Return whether a row's text chooses the right option."""
    options, answer = choice.options(row), text_of(row, "answer", path).strip()
    if not options:
        raise DataError(f"{path}: question {row['index']} has no options in 'A', 'B' ...")
    failures["answer_is_no_option"] += answer not in options
    text = answer_of(row, "prediction", path, failures)
    if text is None or not text.strip():
        return False
    letter = choice.infer_option(text, options)
    failures["unread"] += letter is None
    failures["refusal"] += letter == "Z" and "Z" not in options
    return letter == answer

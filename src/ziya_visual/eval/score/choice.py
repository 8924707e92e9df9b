"""``score pope``, ``score scienceqa`` and ``score mcq``: free text read as one of a few choices."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ziya_visual.core.errors import DataError
from ziya_visual.eval.metrics import choice
from ziya_visual.eval.metrics.bootstrap import Floats, Statistic
from ziya_visual.eval.score.files import Row, Scored, answer_of, by_id, match_ids, need, read_rows, text_of


def score_pope(*, predictions: Path, duplicates: str = "refuse") -> Scored:
    """POPE by category and as the mean of its categories; a missing prediction counts as wrong."""
    failures: Counter[str] = Counter()
    rows = by_id(
        read_rows(predictions),
        "question_id",
        predictions,
        failures=failures,
        duplicates=duplicates,
        within="category",  # the original files count from 1 in each
    )
    categories = list(dict.fromkeys(str(row["category"]) for row in rows.values()))
    width = len(choice.POPE_COUNTS)
    counts = np.zeros((len(rows), len(categories) * width))
    right = {}
    for number, (item, row) in enumerate(rows.items()):
        label = text_of(row, "label", predictions).strip().lower()
        if label not in ("yes", "no"):
            raise DataError(f"{predictions}: question {item} has label {label!r}, expected yes or no")
        text = answer_of(row, "prediction", predictions, failures)
        # Silence is wrong, not "yes" as the official reading would have it.
        said = choice.pope_yes(text) if text is not None and text.strip() else label == "no"
        failures["neither_yes_nor_no"] += bool(text and text.strip()) and choice.pope_unparsed(str(text))
        start = categories.index(str(row["category"])) * width
        counts[number, start : start + width] = choice.pope_count(said, label == "yes")
        right[item] = 100.0 * (said == (label == "yes"))
    statistic = _pope_statistic(categories, list(rows), counts)
    scores = dict(zip(statistic.names, statistic.score(counts.sum(axis=0)[None])[0].tolist(), strict=True))
    return Scored(
        scores,
        +failures,
        {"all/accuracy": right},
        "LLaVA eval_pope",
        statistics=[statistic],
        clusters={item: str(row["image"]) for item, row in rows.items() if "image" in row},
    )


def _pope_statistic(categories: list[str], items: list[str], counts: Floats) -> Statistic:
    def score(sums: Floats) -> Floats:
        each = sums.reshape(len(sums), len(categories), -1)
        found = choice.pope_scores(each.reshape(-1, each.shape[-1])).reshape(*each.shape[:2], -1)
        return np.concatenate([found, found.mean(axis=1, keepdims=True)], axis=1).reshape(len(sums), -1)

    names = [f"{category}/{name}" for category in (*categories, "mean") for name in choice.POPE_SCORES]
    return Statistic(names, items, counts, score)


def score_scienceqa(*, problems: Path, predictions: Path, duplicates: str = "refuse") -> Scored:
    """ScienceQA accuracy; what cannot be read as an option is wrong and counted in ``unparsed``."""
    failures: Counter[str] = Counter()
    truths = by_id(read_rows(problems), "question_id", problems, failures=failures)
    said = by_id(read_rows(predictions), "question_id", predictions, failures=failures, duplicates=duplicates)
    right, unparsed = {}, 0
    for item in match_ids(truths, said, predictions, failures):
        options, answer = _problem(truths[item], problems)
        text = answer_of(said.get(item), "text", predictions, failures)
        letter = None if text is None else choice.scienceqa_letter(text)
        unparsed += text is not None and letter is None
        failures["letter_beyond_options"] += letter is not None and letter not in options
        right[item] = 100.0 * (letter == answer)
    items = {"accuracy": right}
    pictured = {item: right[item] for item in right if need(truths[item], "has_image", problems)}
    if pictured:
        items["image_accuracy"] = pictured
    scores = {name: sum(values.values()) / len(values) for name, values in items.items()}
    failures["unparsed"] += unparsed
    return Scored(
        scores | {"unparsed": float(unparsed)}, +failures, items, "LLaVA eval_science_qa, no guesses"
    )


def _problem(row: Row, path: Path) -> tuple[str, str]:
    """The letters of a problem's options, and the right one."""
    count, answer = need(row, "n_choices", path), text_of(row, "answer", path)
    if not isinstance(count, int) or not 1 <= count <= 26:
        raise DataError(f"{path}: 'n_choices' is {count!r}, expected a number from 1 to 26")
    options = choice.LETTERS[:count]
    if len(answer) != 1 or answer not in options:
        raise DataError(f"{path}: 'answer' is {answer!r}, expected one of {', '.join(options)}")
    return options, answer


def score_mcq(*, predictions: Path, duplicates: str = "refuse") -> Scored:
    """Multiple choice with rotations: over all rows, over first rows, and right in every rotation."""
    failures: Counter[str] = Counter()
    rows = by_id(read_rows(predictions), "index", predictions, failures=failures, duplicates=duplicates)
    right: dict[str, bool] = {}
    rotations: dict[int, dict[int, str]] = defaultdict(dict)
    for item, row in rows.items():
        right[item] = _chosen(row, predictions, failures)
        try:
            rotation, question = divmod(int(item), choice.ROTATION)
        except ValueError as error:
            raise DataError(f"{predictions}: index {item!r} is no integer") from error
        rotations[question][rotation] = item
    first, circular = {}, {}
    for members in rotations.values():
        # Rotations count from 0: a gap is a row without a prediction.
        gaps = max(members) + 1 - len(members)
        failures["missing"] += gaps
        name = members[min(members)]
        first[name] = 100.0 * (0 in members and right[members[0]])
        circular[name] = 100.0 * (not gaps and all(right[item] for item in members.values()))
    items = {
        "accuracy": {item: 100.0 * hit for item, hit in right.items()},
        "first_pass": first,
        "circular": circular,
    } | _by_category(rows, circular)
    return Scored(
        {name: sum(values.values()) / len(values) for name, values in items.items()},
        +failures,
        items,
        "VLMEvalKit can_infer",
        clusters={item: str(int(item) % choice.ROTATION) for item in rows},
    )


def _chosen(row: Row, path: Path, failures: Counter[str]) -> bool:
    """Whether the option that a row's text chooses is the right one."""
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


def _by_category(rows: Mapping[str, Row], circular: Mapping[str, float]) -> dict[str, dict[str, float]]:
    items: dict[str, dict[str, float]] = {}
    for item, value in circular.items():
        if rows[item].get("category") is not None:
            items.setdefault(f"category/{rows[item]['category']}", {})[item] = value
    return items

"""Judgments (a judge's reply to one question, a row of ``reviews.jsonl``) and the battles that they decide.

A row is a LLaVA review row (``question_id``, ``category``, ``content`` or ``text``, ``tuple`` or ``score``)
with optional ``protocol``, ``judge``, ``sees``, ``lang``, ``image``, ``question``, ``context`` and, in the
order shown to the judge, ``models`` and ``answers``. ``swapped`` marks the second order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.eval.judge.score_parsing import HIGHEST, read_scores
from ziya_visual.eval.rows import Row, read_rows

RELATIVE, PAIRWISE, RUBRIC, RULE = "relative", "pairwise", "rubric", "rule"
PROTOCOLS = (RELATIVE, PAIRWISE, RUBRIC)
REVIEWS, CARD = "reviews.jsonl", "judge.json"  # files of a judged folder
MAX_FAILURES = 0.05  # a table is withheld if a larger share of judgments has no scores
LIMITS = {
    "picture": "This judge received the picture. It may still have misread it; it was not asked what it saw.",
    "text": "This judge did not see the picture; it read what others wrote about it. It cannot know whether"
    " anything beyond those words is true of the picture: an invented detail that fits them passes, a true"
    " detail that they lack may be penalized, and unmentioned text, colours, counts and positions are judged"
    " by plausibility. A reference answer written from the same words shares their gaps.",
    "nothing": "This judge saw neither the picture nor a description of it. It can judge wording,"
    " plausibility and agreement with a reference answer if it had one, but not truth to the picture.",
    "truth": "This judge compares with the true answer by rule. It knows nothing of style or helpfulness.",
    "": "These reviews do not record what the judge was told about the picture. LLaVA's judge reads captions"
    " and, in qa90, boxes; it cannot know whether anything beyond them is true of the picture.",
}
_LLAVA_MODELS = ("reference", "candidate")


@dataclass(frozen=True, slots=True)
class Judgment:
    """One reply of a judge.

    Attributes:
        scores: read from the text, in the order of ``models``: two of 0 to 10, or a rubric's of 0 to 1.
        stored_scores: scores from the row's ``tuple`` or ``score``.
        models: names, the reference first; one for a rubric.
        answers: answers in the order of ``models``; empty if the row has none.
        swapped: whether the judge saw the answers in reverse order.
        sees: what the judge received of the picture, a key of :data:`LIMITS`.
        failure: why there are no scores.
    """

    question_id: str
    text: str
    scores: tuple[float, ...] | None
    stored_scores: tuple[float, ...] | None
    models: tuple[str, ...]
    answers: tuple[str, ...] = ()
    swapped: bool = False
    repeat: int = 0
    protocol: str = RELATIVE
    judge: str = ""
    sees: str = ""
    lang: str = ""
    categories: tuple[str, ...] = ()
    image: str = ""
    question: str = ""
    context: str = ""
    failure: str = ""

    @property
    def question_key(self) -> tuple[str, str, str]:
        """Return a key that is unique across languages and question files, which reuse ids."""
        return self.lang, self.question_id, self.question

    @property
    def lead(self) -> float:
        """Return the first model's score minus the second's."""
        assert self.scores is not None
        return self.scores[0] - self.scores[1]

    @property
    def battle_key(self) -> tuple[str, ...]:
        """Return a key that both orders and all repeats of a comparison share."""
        return *self.question_key, *sorted(self.models)


@dataclass(frozen=True, slots=True)
class Battle:
    """Two models on one question under one judge.

    ``margin`` is a's mean lead over both orders, so a judge's preference for a position cancels out.
    """

    question_id: str
    a: str
    b: str
    margin: float
    lang: str = ""
    categories: tuple[str, ...] = ()
    image: str = ""
    lengths: tuple[int, int] = (0, 0)
    judgments: tuple[Judgment, ...] = ()

    @property
    def winner(self) -> str:
        """Return ``a``, ``b`` or ``tie``."""
        return "tie" if self.margin == 0 else "a" if self.margin > 0 else "b"


def read_judgments(path: Path) -> list[Judgment]:
    """Read judgments from a file of LLaVA rows or our own."""
    return [_from_row(row, number, path) for number, row in enumerate(read_rows(path), start=1)]


def withhold_reason(failures: int, reviews: int) -> str:
    """Return why a table is withheld, or an empty string if enough of the judgments have scores."""
    if failures <= MAX_FAILURES * reviews:
        return ""
    return f"no scores in {failures} of {reviews} reviews, more than {MAX_FAILURES:.0%}"


def _from_row(row: Row, number: int, path: Path) -> Judgment:
    protocol = str(row.get("protocol", RELATIVE))
    text = row.get("content", row.get("text"))
    if not isinstance(text, str) and not {"tuple", "score"} & set(row):
        raise DataError(f"{path}: row {number} has no review in 'content' or 'text'; found {sorted(row)[:8]}")
    text = text if isinstance(text, str) else ""
    models = tuple(map(str, row.get("models", _LLAVA_MODELS)))
    size = 1 if protocol == RUBRIC else 2
    if len(models) != size:
        raise DataError(f"{path}: row {number}: {protocol} needs {size} in 'models', found {list(models)}")
    category = row.get("category")
    categories = category if isinstance(category, list) else [] if category is None else [category]
    judgment = Judgment(
        question_id=str(row.get("question_id", number)),
        text=text,
        scores=read_scores(text, rubric=protocol == RUBRIC),
        stored_scores=_stored_scores(row, size),
        models=models,
        answers=tuple(map(str, row.get("answers", ()))),
        swapped=row.get("swapped") is True,
        repeat=int(row.get("repeat", 0)),
        protocol=protocol,
        categories=tuple(map(str, categories)),
        **{name: str(row.get(name, "")) for name in _TEXT_FIELDS},
    )
    return reverse_order(judgment) if judgment.swapped else judgment


_TEXT_FIELDS = ("judge", "sees", "lang", "image", "question", "context", "failure")


def _stored_scores(row: Row, size: int) -> tuple[float, ...] | None:
    value = row.get("tuple", row.get("score"))
    if not isinstance(value, list) or len(value) != size:
        return None
    if not all(isinstance(score, int | float) and not isinstance(score, bool) for score in value):
        return None
    scores = tuple(float(score) for score in value)
    return scores if min(scores) >= 0 and max(scores) <= HIGHEST else None


def reverse_order(judgment: Judgment) -> Judgment:
    """Return the judgment with models, answers and scores in reverse order."""
    return replace(
        judgment,
        models=judgment.models[::-1],
        answers=judgment.answers[::-1],
        scores=judgment.scores and judgment.scores[::-1],
        stored_scores=judgment.stored_scores and judgment.stored_scores[::-1],
    )


def to_row(judgment: Judgment, number: int) -> dict[str, Any]:
    """Return a row for ``reviews.jsonl``; without scores it has no ``tuple``, so nobody averages a -1."""
    shown = reverse_order(judgment) if judgment.swapped else judgment
    row: dict[str, Any] = {"id": number, "question_id": shown.question_id}
    for place, model in enumerate(shown.models, start=1):
        row[f"answer{place}_id"] = f"{model}/{shown.question_id}"
    single = len(shown.categories) == 1
    row["category"] = shown.categories[0] if single else list(shown.categories) or None
    row["content"] = shown.text
    if shown.scores is not None:
        row["tuple"] = list(shown.scores)
    if shown.failure:
        row["failure"] = shown.failure
    row |= {name: getattr(shown, name) for name in ("protocol", "judge", "sees", "lang", "image")}
    row |= {"models": list(shown.models), "swapped": shown.swapped, "repeat": shown.repeat}
    return row | {"question": shown.question, "answers": list(shown.answers), "context": shown.context}


def decide_battles(judgments: Iterable[Judgment]) -> list[Battle]:
    """Return the battles of one judge and protocol, in question order.

    A pairwise battle needs scores in both orders. Two models' rubric grades for one question are one too.
    """
    groups: dict[tuple[str, ...], list[Judgment]] = {}
    for judgment in judgments:
        if judgment.scores is not None:
            groups.setdefault(judgment.battle_key, []).append(judgment)
    if any(len(group[0].models) == 1 for group in groups.values()):
        return _rubric_battles(list(groups.values()))
    battles = []
    for group in groups.values():
        if group[0].protocol != PAIRWISE or {judgment.swapped for judgment in group} == {True, False}:
            models = group[0].models
            leads = [judgment.lead if judgment.models == models else -judgment.lead for judgment in group]
            battles.append(_battle(group, leads, models))
    return battles


def _rubric_battles(groups: Sequence[Sequence[Judgment]]) -> list[Battle]:
    by_question: dict[tuple[str, str, str], dict[str, Sequence[Judgment]]] = {}
    for group in groups:
        by_question.setdefault(group[0].question_key, {})[group[0].models[0]] = group
    battles = []
    for by_model in by_question.values():
        for a, b in itertools.combinations(sorted(by_model), 2):
            margin = _mean_grade(by_model[a]) - _mean_grade(by_model[b])
            answers = by_model[a][0].answers + by_model[b][0].answers
            both = [replace(judgment, answers=answers) for judgment in (*by_model[a], *by_model[b])]
            battles.append(_battle(both, [margin], (a, b)))
    return battles


def _mean_grade(judgments: Sequence[Judgment]) -> float:
    grades = [judgment.scores[0] for judgment in judgments if judgment.scores is not None]
    return sum(grades) / len(grades)


def _battle(judgments: Sequence[Judgment], margins: Sequence[float], models: Sequence[str]) -> Battle:
    first = judgments[0]
    a, b = (len(answer) for answer in first.answers) if len(first.answers) == 2 else (0, 0)
    return Battle(
        question_id=first.question_id,
        a=models[0],
        b=models[1],
        margin=round(sum(margins) / len(margins), 9),
        lang=first.lang,
        categories=first.categories,
        image=first.image,
        lengths=(a, b),
        judgments=tuple(judgments),
    )

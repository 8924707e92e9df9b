"""Reviews: what a judge said about one question, as rows of ``reviews.jsonl``, and the battles they decide.

A row is a LLaVA review row (``question_id``, ``category``, ``content`` or ``text``, ``tuple`` or ``score``)
and may say more: ``protocol``, ``judge``, ``sees``, ``lang``, ``image``, ``question``, ``context``, and, in
the order in which the judge saw them, ``models`` and ``answers``; ``swapped`` marks the second order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.eval.judge.score_parsing import HIGHEST, parse_grade, parse_scores
from ziya_visual.eval.score.files import Row, read_rows

RELATIVE, PAIRWISE, RUBRIC, RULE = "relative", "pairwise", "rubric", "rule"
PROTOCOLS = (RELATIVE, PAIRWISE, RUBRIC)
REVIEWS, CARD = "reviews.jsonl", "judge.json"  # what a judged folder holds
MAX_FAILURES = 0.05  # above this share of reviews without scores a table is withheld
CANNOT_KNOW = {
    "picture": "This judge was sent the picture. It may still misread it, and it was not asked what it saw.",
    "text": "This judge did not see the picture: it read what others wrote of it. Whether anything that an"
    " answer says beyond those words is in the picture it cannot know: an invented detail that fits them"
    " passes, a true detail that they lack may be punished, and text, colours, counts and places that"
    " nobody wrote down are judged by how plausible they sound. A reference answer written from the same"
    " words shares their gaps.",
    "nothing": "This judge saw neither the picture nor any description of it. It can judge wording and"
    " plausibility, and agreement with a right answer where it was given one; whether an answer is true of"
    " the picture it cannot know.",
    "truth": "This judge compares with the true answer by rule. It knows nothing of style or helpfulness.",
    "": "These reviews do not say what the judge was told of the picture. LLaVA's judge reads captions, and"
    " in qa90 boxes: whether what an answer says beyond them is in the picture it cannot know.",
}
_LLAVA_MODELS = ("reference", "candidate")


@dataclass(frozen=True, slots=True)
class Review:
    """One reply of a judge.

    Attributes:
        question: its id.
        text: of the reply; empty where the endpoint gave none.
        scores: read from the text, in the order of ``models``: two of 0 to 10, or one of 0 to 1 (rubric).
        stored: the same from the row's ``tuple`` or ``score``.
        models: the reference first; a rubric has one.
        answers: in the order of ``models``; empty where the row has none.
        swapped: the judge saw them the other way round.
        sees: what the judge was told of the picture: ``picture``, ``text``, ``nothing``, ``truth`` or ``""``.
    """

    question: str
    text: str
    scores: tuple[float, ...] | None
    stored: tuple[float, ...] | None
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
    asked: str = ""
    context: str = ""
    reason: str = ""

    @property
    def asking(self) -> tuple[str, str, str]:
        """What tells questions apart: ids repeat in other languages and other question files."""
        return self.lang, self.question, self.asked


@dataclass(frozen=True, slots=True)
class Battle:
    """Two models on one question under one judge; ``margin`` is a's mean score minus b's, over all orders.

    The margin and not each order's verdict decides, so that what a judge gives to a place cancels out.
    """

    question: str
    a: str
    b: str
    margin: float
    lang: str = ""
    categories: tuple[str, ...] = ()
    image: str = ""
    lengths: tuple[int, int] = (0, 0)
    reviews: tuple[Review, ...] = ()

    @property
    def winner(self) -> str:
        """``a``, ``b`` or ``tie``."""
        return "tie" if self.margin == 0 else "a" if self.margin > 0 else "b"


def read_reviews(path: Path) -> list[Review]:
    """The reviews of a file of LLaVA rows or of ours.

    Raises:
        DataError: a row with neither text nor scores; a number of models that the protocol does not have.
    """
    return [_review(row, number, path) for number, row in enumerate(read_rows(path), start=1)]


def _review(row: Row, number: int, path: Path) -> Review:
    protocol = str(row.get("protocol", RELATIVE))
    text = row.get("content", row.get("text"))
    stored = _stored(row, 1 if protocol == RUBRIC else 2)
    if not isinstance(text, str) and not {"tuple", "score"} & set(row):
        raise DataError(
            f"{path}: row {number} has no review in 'content' or 'text', it has {sorted(row)[:8]}"
        )
    text = text if isinstance(text, str) else ""
    models = tuple(map(str, row.get("models", _LLAVA_MODELS)))
    if len(models) != (1 if protocol == RUBRIC else 2):
        raise DataError(f"{path}: row {number}: {protocol} with models {list(models)}")
    category = row.get("category")
    categories = category if isinstance(category, list) else [] if category is None else [category]
    review = Review(
        question=str(row.get("question_id", number)),
        text=text,
        scores=read_scores(text, protocol),
        stored=stored,
        models=models,
        answers=tuple(map(str, row.get("answers", ()))),
        swapped=row.get("swapped") is True,
        repeat=int(row.get("repeat", 0)),
        protocol=protocol,
        categories=tuple(map(str, categories)),
        asked=str(row.get("question", "")),
        reason=str(row.get("failure", "")),
        **{name: str(row.get(name, "")) for name in ("judge", "sees", "lang", "image", "context")},
    )
    return turned(review) if review.swapped else review


def read_scores(text: str, protocol: str) -> tuple[float, ...] | None:
    """The scores in a reply, in the order in which the judge saw the answers."""
    if protocol != RUBRIC:
        return parse_scores(text)
    grade = parse_grade(text)
    return None if grade is None else (grade,)


def turned(review: Review) -> Review:
    """Models, answers and scores the other way round."""
    return replace(
        review,
        models=review.models[::-1],
        answers=review.answers[::-1],
        scores=review.scores and review.scores[::-1],
        stored=review.stored and review.stored[::-1],
    )


def _stored(row: Row, count: int) -> tuple[float, ...] | None:
    value = row.get("tuple", row.get("score"))
    if not isinstance(value, list) or len(value) != count:
        return None
    if not all(isinstance(part, int | float) and not isinstance(part, bool) for part in value):
        return None
    scores = tuple(float(part) for part in value)
    return scores if min(scores) >= 0 and max(scores) <= HIGHEST else None


def to_row(review: Review, number: int) -> dict[str, Any]:
    """A row for ``reviews.jsonl``; without scores there is no ``tuple``, so that nobody averages a -1."""
    shown = turned(review) if review.swapped else review
    row: dict[str, Any] = {"id": number, "question_id": review.question}
    for place, model in enumerate(shown.models, start=1):
        row[f"answer{place}_id"] = f"{model}/{review.question}"
    row |= {"category": _category(review.categories), "content": review.text}
    if shown.scores is not None:
        row["tuple"] = list(shown.scores)
    if review.reason:
        row["failure"] = review.reason
    row |= {name: getattr(shown, name) for name in ("protocol", "judge", "sees", "lang", "image")}
    row |= {"models": list(shown.models), "swapped": review.swapped, "repeat": review.repeat}
    return row | {"question": review.asked, "answers": list(shown.answers), "context": review.context}


def _category(categories: Sequence[str]) -> Any:
    return categories[0] if len(categories) == 1 else list(categories) or None


def battles(reviews: Iterable[Review]) -> list[Battle]:
    """The battles of one judge and one protocol, in the order of the questions.

    Pairwise needs both orders of a question: with one missing or unread there is no battle. Rubric grades of
    two models for the same question are a battle as well.
    """
    groups: dict[tuple[str, ...], list[Review]] = {}
    for review in reviews:
        if review.scores is not None:
            groups.setdefault((*review.asking, *sorted(review.models)), []).append(review)
    if any(len(group[0].models) == 1 for group in groups.values()):
        return _graded_battles(list(groups.values()))
    found = []
    for group in groups.values():
        if group[0].protocol != PAIRWISE or {review.swapped for review in group} == {True, False}:
            found.append(_battle(group, [_margin(r, group[0].models) for r in group], group[0].models))
    return found


def _margin(review: Review, models: tuple[str, ...]) -> float:
    assert review.scores is not None
    ahead = review.scores[0] - review.scores[1]
    return ahead if review.models == models else -ahead


def _graded_battles(groups: Sequence[Sequence[Review]]) -> list[Battle]:
    by_question: dict[tuple[str, str, str], dict[str, Sequence[Review]]] = {}
    for group in groups:
        by_question.setdefault(group[0].asking, {})[group[0].models[0]] = group
    found = []
    for models in by_question.values():
        names = sorted(models)
        for place, a in enumerate(names):
            for b in names[place + 1 :]:
                margin = _mean_grade(models[a]) - _mean_grade(models[b])
                both = [*models[a], *models[b]]
                answers = models[a][0].answers + models[b][0].answers
                found.append(_battle([replace(r, answers=answers) for r in both], [margin], (a, b)))
    return found


def _mean_grade(reviews: Sequence[Review]) -> float:
    grades = [review.scores[0] for review in reviews if review.scores is not None]
    return sum(grades) / len(grades)


def _battle(reviews: Sequence[Review], margins: Sequence[float], models: Sequence[str]) -> Battle:
    first = reviews[0]
    lengths = tuple(len(answer) for answer in first.answers) if len(first.answers) == 2 else (0, 0)
    return Battle(
        question=first.question,
        a=models[0],
        b=models[1],
        margin=round(sum(margins) / len(margins), 9),
        lang=first.lang,
        categories=first.categories,
        image=first.image,
        lengths=(lengths[0], lengths[1]),
        reviews=tuple(reviews),
    )


def by_judge(reviews: Iterable[Review]) -> Mapping[tuple[str, str, str], list[Review]]:
    """Reviews by judge, protocol and what the judge sees: what may be compared."""
    groups: dict[tuple[str, str, str], list[Review]] = {}
    for review in reviews:
        groups.setdefault((review.judge, review.protocol, review.sees), []).append(review)
    return groups

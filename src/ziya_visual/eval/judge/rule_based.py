"""The offline judge: where the truth is known, answers are compared by rule, not by opinion.

Its reviews are rows like a language model's. It ranks Base against Chat in the quickstart, and beside an LLM
judge's reviews of the same answers it shows how far that judge may be trusted on such questions.
"""

from __future__ import annotations

from collections.abc import Sequence

from ziya_visual.core.errors import DataError
from ziya_visual.eval.judge.files import OR, Contender, Question
from ziya_visual.eval.judge.verdicts import RULE, Review
from ziya_visual.eval.metrics.caption import keyword_f1
from ziya_visual.eval.metrics.vqa import same_answer
from ziya_visual.scenes.parsing import keywords


def review(asked: Sequence[Question], first: Contender, second: Contender) -> list[Review]:
    """A review of every question that both answered, with 0 to 10 for each answer.

    Raises:
        DataError: no question in common, or one without its true answer.
    """
    reviews = []
    for question in asked:
        if question.id not in first.answers or question.id not in second.answers:
            continue
        if not question.truth:
            raise DataError(f"question {question.id} has no true answer; only a language model can judge it")
        answers = first.answers[question.id], second.answers[question.id]
        scores = tuple(round(10 * quality(question, answer), 2) for answer in answers)
        reviews.append(
            Review(
                question=question.id,
                text=f"{scores[0]:g} {scores[1]:g}\nTrue answer: {question.truth}",
                scores=scores,
                stored=scores,
                models=(first.name, second.name),
                answers=answers,
                protocol=RULE,
                judge=RULE,
                sees="truth",
                lang=question.lang,
                categories=question.categories,
                image=question.image,
                asked=question.text,
            )
        )
    if not reviews:
        raise DataError(f"{first.name} and {second.name} answered no question in common")
    return reviews


def quality(question: Question, answer: str) -> float:
    """0 to 1: F1 of the scenes' keywords for a caption or a dialogue, right or wrong for any other answer."""
    truths = question.truth.split(OR)
    if question.task in ("caption", "dialogue"):
        return float(keyword_f1([answer], [truths], lambda text: keywords(text, question.lang))[0])
    return float(same_answer(answer, truths, question.lang))

"""The offline judge: where the truth is known, two models' answers are compared by rule, not by opinion.

It ranks Base against Chat in the quickstart, and shows how far an LLM judge may be trusted on such questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Prediction
from ziya_visual.eval.leaderboard import Verdict
from ziya_visual.eval.metrics.caption import keyword_f1
from ziya_visual.eval.metrics.vqa import same_answer

Keywords = Callable[[str, str], Sequence[str]]


def judge_pair(
    first: Sequence[Prediction], second: Sequence[Prediction], names: tuple[str, str], keywords: Keywords
) -> list[Verdict]:
    """One verdict for every question that both answered; equal quality is a tie.

    Args:
        first: predictions of model ``names[0]``, with the true answers.
        second: those of ``names[1]`` to the same questions.
        names: the models.
        keywords: the keywords of a text in a language, for captions and whole sentences.

    Raises:
        DataError: no question in common.
    """
    others = {row.id: row for row in second}
    verdicts = []
    for row in first:
        if row.id in others:
            a, b = quality(row, keywords), quality(others[row.id], keywords)
            winner = "tie" if a == b else "a" if a > b else "b"
            category = row.meta.get("question_type", row.task)
            verdicts.append(Verdict(row.id, *names, winner, row.lang, category))
    if not verdicts:
        raise DataError(f"{names[0]} and {names[1]} answered no question in common")
    return verdicts


def quality(row: Prediction, keywords: Keywords) -> float:
    """0 to 1: right or wrong for a short answer, keyword F1 for a caption or a sentence."""
    if row.task == "vqa":
        return float(same_answer(row.prediction, row.answers, row.lang))
    return float(keyword_f1([row.prediction], [row.answers], lambda text: keywords(text, row.lang))[0])

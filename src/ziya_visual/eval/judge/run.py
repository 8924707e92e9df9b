"""``judge``: a language model, or the truth of the scenes, judges answers; every reply is a row to be read.

Requests go through the forge's client and ledger: what was answered once is never paid for again, also after
a kill. Protocols: ``relative`` (LLaVA: the reference is assistant 1), ``pairwise`` (every two models in both
orders; with a reference and a description of the picture it is TouchStone's), ``rubric`` (MM-Vet: a grade
from 0 to 1 by the right answer).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import ConfigError, DataError, nearest
from ziya_visual.core.files import hash_file, write_json, write_jsonl
from ziya_visual.core.log import logger, progress
from ziya_visual.eval.judge import diagnostics, rule_based
from ziya_visual.eval.judge.files import Question, read_contender, read_context, read_questions, read_rules
from ziya_visual.eval.judge.requests import Setting, Shown, prompt_for, requests, shown_together
from ziya_visual.eval.judge.verdicts import (
    CANNOT_KNOW,
    CARD,
    MAX_FAILURES,
    PAIRWISE,
    PROTOCOLS,
    REVIEWS,
    RUBRIC,
    RULE,
    Review,
    read_scores,
    to_row,
    turned,
)
from ziya_visual.forge.ask.client import ask_all
from ziya_visual.forge.ask.ledger import Ledger, Outcome


def judge(
    *,
    questions: Path,
    answers: Sequence[Path],
    protocol: str,
    judge: str,
    out: Path,
    reference: Path | None = None,
    context: Path | None = None,
    rules: Path | None = None,
    images: Path | None = None,
    repeats: int = 1,
    concurrency: int = 8,
    **sending: Any,
) -> dict[str, Any]:
    """Judge answers; write ``reviews.jsonl`` and ``judge.json`` into ``out``, beside the ledger.

    A killed run goes on where it was when called again with the same arguments: only what was under way at
    that instant is sent again.

    Args:
        questions: LLaVA or qa90 JSONL, MM-Vet JSON, TouchStone TSV or our predictions.
        answers: one file a model.
        protocol: ``relative``, ``pairwise`` or ``rubric``.
        judge: ``MODEL@URL`` of an OpenAI-compatible endpoint, or ``rule`` where the questions hold the truth.
        out: the folder.
        reference: its answers are 100 % in ``relative``, a contender like any other in ``pairwise``, and the
            right answers in ``rubric``.
        context: captions and boxes by picture.
        rules: LLaVA's rule file, instead of our instructions.
        images: folder of the pictures, for a judge that sees them.
        repeats: how often every request is asked, to see whether the judge agrees with itself.
        concurrency: requests in flight at once: what a kill can cost.
        sending: options of :class:`ziya_visual.forge.ask.client.Client`.

    Returns:
        The card, as in ``judge.json``.

    Raises:
        ConfigError, DataError, EndpointError: nothing that was answered is lost.
    """
    started = time.monotonic()
    if protocol not in PROTOCOLS:
        raise ConfigError(f"--protocol {protocol!r} is unknown{nearest(protocol, PROTOCOLS)}")
    asked = read_questions(questions)
    if protocol == RUBRIC and reference is not None:
        truths = read_contender(reference).answers
        asked = [replace(question, truth=truths.get(question.id, question.truth)) for question in asked]
    shown = shown_together(asked, answers, protocol, reference)
    spent: dict[str, Any] = {}
    if judge == RULE:
        if protocol != PAIRWISE:
            raise ConfigError("--judge rule compares two models by the truth; use --protocol pairwise")
        reviews = [r for one in shown if not one.swapped for r in rule_based.review(asked, *one.contenders)]
    else:
        model, base_url = _endpoint(judge)
        setting = Setting(
            model,
            protocol,
            read_context(context) if context else {},
            read_rules(rules) if rules else None,
            rules or Path(),
            images,
            repeats,
            "picture" if images else "text" if context or any(q.context for q in asked) else "nothing",
        )
        reviews, spent = _ask(asked, shown, setting, out, concurrency, {"base_url": base_url, **sending})
        spent["endpoint"] = re.sub(r"(?<=//)[^/]*@|[?#].*", "", base_url)  # no password
    inputs = {"questions": questions, "reference": reference, "context": context, "rules": rules}
    inputs |= {f"answers {place}": path for place, path in enumerate(answers, start=1)}
    card = card_of(reviews, files={name: path for name, path in inputs.items() if path is not None})
    card |= {"unanswered": _unanswered(asked, shown), **spent}
    card["seconds"] = round(time.monotonic() - started, 3)
    write(reviews, card, out)
    return card


def judge_predictions(folder: Path, models: tuple[str, str], *, out: Path) -> dict[str, Any]:
    """The rule judge over all that two models answered about scenes, written as :func:`judge` writes it.

    Args:
        folder: the ``predictions`` of ``eval`` or of the quickstart.
        models: the first parts of the files' names.
        out: the folder to write into.

    Raises:
        DataError: no file of both.
    """
    reviews: list[Review] = []
    files: dict[str, Path] = {}
    for path in sorted(folder.glob(f"{models[0]}.*.jsonl")):
        other = path.with_name(models[1] + path.name.removeprefix(models[0]))
        if other.is_file():
            reviews += rule_based.review(read_questions(path), read_contender(path), read_contender(other))
            files |= {path.name: path, other.name: other}
    if not reviews:
        raise DataError(f"{folder}: no questions that both {models[0]} and {models[1]} answered")
    card = card_of(reviews, files=files)
    write(reviews, card, out)
    return card


def _endpoint(judge: str) -> tuple[str, str]:
    found = re.fullmatch(r"(.+)@(https?://.+)", judge)
    if not found:
        raise ConfigError(
            f"--judge {judge!r}: expected MODEL@URL, e.g. gpt-4@https://api.openai.com/v1, or rule"
        )
    return found[1], found[2]


def _ask(
    asked: Sequence[Question],
    shown: Sequence[Shown],
    setting: Setting,
    out: Path,
    concurrency: int,
    sending: Mapping[str, Any],
) -> tuple[list[Review], dict[str, Any]]:
    """Every review, from the ledger or from the endpoint, and what was spent."""
    waiting_for, bodies = zip(*(job for one in shown for job in requests(asked, one, setting)), strict=True)
    with Ledger(out) as ledger:
        keys = ledger.add(bodies)
        total, left = len(set(keys)), len(ledger.waiting(keys))
        with progress("judge", total, done=total - left) as bar:
            # Replies of a judge are dear: each is committed at once, so that a kill loses none.
            sent = ask_all(
                ledger,
                keys,
                concurrency=concurrency,
                on_done=lambda outcome: bar.advance(),
                **sending,
            )
        replies = [_read(review, ledger.outcome(key)) for review, key in zip(waiting_for, keys, strict=True)]
        totals = ledger.totals()
    prompts = {
        f"{setting.protocol} {lang}": prompt_for(setting.protocol, lang).hash for lang in _langs(asked)
    }
    spent = {"requests": total, "sent": sent, "prompts": prompts}
    return replies, spent | {name: totals[name] for name in ("prompt_tokens", "completion_tokens")}


def _langs(asked: Iterable[Question]) -> list[str]:
    return sorted({question.lang for question in asked})


def _read(review: Review, outcome: Outcome) -> Review:
    """The review with the reply and its scores, models in the file's order."""
    text = outcome.answer or ""
    reason = ""
    scores = read_scores(text, review.protocol)
    if not text.strip():
        reason = outcome.reason or f"empty reply ({outcome.finish_reason})"
    elif scores is None:
        reason = "no scores in the text"
    review = replace(review, text=text, scores=scores, stored=scores, reason=reason)
    return turned(review) if review.swapped else review


def _unanswered(asked: Sequence[Question], shown: Iterable[Shown]) -> dict[str, int]:
    """Questions without an answer, by contender."""
    contenders = {c.name: c for one in shown for c in one.contenders}
    missing = {name: sum(q.id not in c.answers for q in asked) for name, c in contenders.items()}
    return {name: count for name, count in missing.items() if count}


def card_of(reviews: Sequence[Review], *, files: Mapping[str, Path]) -> dict[str, Any]:
    """What was judged, by whom, what speaks against it, and what that judge cannot know."""
    first = reviews[0]
    found = diagnostics.controls(reviews)
    said = diagnostics.warnings(found, first.protocol)
    if found["failures"] > MAX_FAILURES * len(reviews):
        example = next(review.reason for review in reviews if review.scores is None)
        said.insert(0, f"No scores in {found['failures']} of {len(reviews)} reviews, e.g. for: {example}.")
    kinds = list(dict.fromkeys(review.sees for review in reviews))
    return {
        "protocol": first.protocol,
        "judge": first.judge,
        "models": list(dict.fromkeys(name for review in reviews for name in review.models)),
        "questions": len({review.asking for review in reviews}),
        "reviews": len(reviews),
        "failures": found["failures"],
        "controls": found,
        "warnings": said,
        "cannot_know": {kind: CANNOT_KNOW[kind] for kind in kinds},
        "files": {name: {"path": str(path), "sha256": hash_file(path)} for name, path in files.items()},
    }


def write(reviews: Sequence[Review], card: Mapping[str, Any], out: Path) -> None:
    """Write ``reviews.jsonl`` and ``judge.json``, the card last."""
    write_jsonl(out / REVIEWS, (to_row(review, number) for number, review in enumerate(reviews, start=1)))
    write_json(out / CARD, card)
    logger.info("judge: %d reviews, %d without scores (%s)", card["reviews"], card["failures"], out)

"""``judge``: a language model, or a rule where the truth is known, judges answers; every reply is a row.

Requests go through the forge's client and ledger, so an answered request is never paid for again, even after
a kill. A Chinese question is judged with a Chinese prompt. Protocols: ``relative`` (LLaVA: the reference is
assistant 1), ``pairwise`` (every two models in both orders; TouchStone's, with a reference and a description
of the picture), ``rubric`` (MM-Vet: a grade from 0 to 1 against the right answer). Next to an LLM judge of
the same answers, the rule judge shows how far that judge can be trusted.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ziya_visual.core.errors import ConfigError, DataError, nearest
from ziya_visual.core.files import hash_file, write_json, write_jsonl
from ziya_visual.core.log import logger
from ziya_visual.core.pictures import file_data_uri
from ziya_visual.eval.judge import diagnostics, files
from ziya_visual.eval.judge.judgments import (
    CARD,
    LIMITS,
    MAX_FAILURES,
    PAIRWISE,
    PROTOCOLS,
    RELATIVE,
    REVIEWS,
    RUBRIC,
    RULE,
    Judgment,
    reverse_order,
    to_row,
)
from ziya_visual.eval.judge.score_parsing import read_scores
from ziya_visual.eval.metrics.caption import keyword_f1
from ziya_visual.eval.metrics.vqa import same_answer
from ziya_visual.forge.ask.client import ask_all
from ziya_visual.forge.ask.endpoint import Sending, split_endpoint
from ziya_visual.forge.ask.ledger import Ledger, Outcome
from ziya_visual.forge.prompting import Prompt, load_prompt
from ziya_visual.scenes.parsing import keywords

LIMIT_BYTES = 20_000_000  # of a picture
TEMPERATURE = 0.2  # as LLaVA's judge
_PROMPTS = Path(__file__).parent / "prompts"


class Matchup(NamedTuple):
    """The models of a request, in the order shown to the judge: one for a rubric, else two."""

    models: tuple[files.ModelAnswers, ...]
    swapped: bool = False


class JudgeSettings(NamedTuple):
    """Settings that all requests of a run share.

    ``rules`` are the instructions by category from LLaVA's rule file at ``rules_path``, which replace ours.
    ``images`` is the folder of the pictures for a judge that ``sees`` them, not ``text`` or ``nothing``.
    """

    model: str
    protocol: str
    contexts: Mapping[str, files.Context]
    rules: Mapping[str, str] | None
    rules_path: Path
    images: Path | None
    repeats: int
    sees: str


def judge(
    *,
    questions: Path,
    answers: Sequence[Path],
    protocol: str,
    judge: str | Sending,
    out: Path,
    reference: Path | None = None,
    context: Path | None = None,
    rules: Path | None = None,
    images: Path | None = None,
    repeats: int = 1,
    concurrency: int = 8,
) -> dict[str, Any]:
    """Judge answers, write ``reviews.jsonl`` and ``judge.json`` beside the ledger, and return the card.

    Calling it again with the same arguments resumes a killed run; only requests in flight are sent again.

    Args:
        questions: LLaVA or qa90 JSONL, MM-Vet JSON, TouchStone TSV or our predictions.
        answers: one file for each model.
        protocol: ``relative``, ``pairwise`` or ``rubric``.
        judge: ``MODEL@URL`` of an OpenAI-compatible endpoint, or all its sending options, or ``rule`` if the
            questions hold the truth.
        out: output folder.
        reference: answers that are 100 % in ``relative``, a model in ``pairwise``, the truth in ``rubric``.
        context: captions and boxes by picture.
        rules: LLaVA's rule file, which replaces our instructions.
        images: folder of the pictures, for a judge that sees them.
        repeats: how often to send each request, to measure the judge's agreement with itself.
        concurrency: requests in flight at once, which is what a kill can cost.

    Bad input or a failing endpoint raises; answered requests are never lost.
    """
    started = time.monotonic()
    if protocol not in PROTOCOLS:
        raise ConfigError(f"--protocol {protocol!r} is unknown{nearest(protocol, PROTOCOLS)}")
    if judge == RULE and protocol != PAIRWISE:
        raise ConfigError("--judge rule compares two models by the truth; use --protocol pairwise")
    parsed = files.read_questions(questions)
    if protocol == RUBRIC and reference is not None:
        truths = files.read_model_answers(reference).answers
        parsed = [replace(q, truth=truths.get(q.id, q.truth)) for q in parsed]
    matchups = plan_matchups(parsed, answers, protocol, reference)
    if judge == RULE:
        judgments = [j for matchup in matchups if not matchup.swapped for j in judge_by_rule(parsed, matchup)]
        spent: dict[str, Any] = {}
    else:
        sending = judge if isinstance(judge, Sending) else _parse_judge(judge, concurrency)
        sees = "picture" if images else "text" if context or any(q.context for q in parsed) else "nothing"
        contexts = files.read_contexts(context) if context else {}
        instructions = files.read_rules(rules) if rules else None
        settings = JudgeSettings(
            sending.model, protocol, contexts, instructions, rules or Path(), images, repeats, sees
        )
        judgments, spent = _ask(parsed, matchups, settings, out, sending)
    inputs = {"questions": questions, "reference": reference, "context": context, "rules": rules}
    inputs |= {f"answers {number}": path for number, path in enumerate(answers, start=1)}
    card = _card(judgments, inputs) | {"unanswered": _count_unanswered(parsed, matchups), **spent}
    return _write(judgments, card | {"seconds": round(time.monotonic() - started, 3)}, out)


def judge_predictions(folder: Path, models: tuple[str, str], *, out: Path) -> dict[str, Any]:
    """Compare two models' predictions about scenes with the rule judge; write and return as :func:`judge`.

    ``folder`` is ``predictions`` of ``eval`` or of the quickstart; its file names start with the models.
    """
    judgments: list[Judgment] = []
    inputs: dict[str, Path | None] = {}
    for path in sorted(folder.glob(f"{models[0]}.*.jsonl")):
        other = path.with_name(models[1] + path.name.removeprefix(models[0]))
        if other.is_file():
            matchup = Matchup((files.read_model_answers(path), files.read_model_answers(other)))
            judgments += judge_by_rule(files.read_questions(path), matchup)
            inputs |= {path.name: path, other.name: other}
    if not judgments:
        raise DataError(f"{folder}: no questions that both {models[0]} and {models[1]} answered")
    return _write(judgments, _card(judgments, inputs), out)


def judge_by_rule(questions: Sequence[files.Question], matchup: Matchup) -> list[Judgment]:
    """Compare the answers of two models with the truth, and return judgments with 0 to 10 for each answer."""
    judgments = []
    for question in questions:
        if not all(question.id in model.answers for model in matchup.models):
            continue
        if not question.truth:
            raise DataError(f"question {question.id} has no true answer; only a language model can judge it")
        scores = tuple(round(10 * _quality(question, m.answers[question.id]), 2) for m in matchup.models)
        text = f"{scores[0]:g} {scores[1]:g}\nTrue answer: {question.truth}"
        fields = {"text": text, "scores": scores, "stored_scores": scores, "sees": "truth"}
        judgments.append(new_judgment(question, matchup, protocol=RULE, judge=RULE, **fields))
    if not judgments:
        raise DataError(f"{' and '.join(m.name for m in matchup.models)} answered no question in common")
    return judgments


def _quality(question: files.Question, answer: str) -> float:
    """Return 0 to 1: keyword F1 for a caption or dialogue about scenes, right or wrong for other answers."""
    truths = question.truth.split(files.OR)
    if question.task in ("caption", "dialogue"):
        return float(keyword_f1([answer], [truths], lambda text: keywords(text, question.lang))[0])
    return float(same_answer(answer, truths, question.lang))


def _parse_judge(judge: str, concurrency: int) -> Sending:
    endpoint = split_endpoint(judge)
    if endpoint is None:
        raise ConfigError(
            f"--judge {judge!r}: expected MODEL@URL, e.g. gpt-4@https://api.openai.com/v1, or rule"
        )
    return Sending(*endpoint, concurrency)


def _ask(
    questions: Sequence[files.Question],
    matchups: Sequence[Matchup],
    settings: JudgeSettings,
    out: Path,
    sending: Sending,
) -> tuple[list[Judgment], dict[str, Any]]:
    """Return every judgment, from the ledger or the endpoint, and what was spent."""
    pending = [request for matchup in matchups for request in build_requests(questions, matchup, settings)]
    with Ledger(out) as ledger:
        keys = ledger.add([body for _, body in pending])
        sent = ask_all(ledger, keys, sending, title="judge")
        judgments = [
            _complete(judgment, ledger.outcome(key)) for (judgment, _), key in zip(pending, keys, strict=True)
        ]
        totals = ledger.totals()
    protocol, langs = settings.protocol, sorted({question.lang for question in questions})
    return judgments, {
        "requests": len(set(keys)),
        "sent": sent,
        "prompts": {f"{protocol} {lang}": load_judge_prompt(protocol, lang).hash for lang in langs},
        "prompt_tokens": totals["prompt_tokens"],
        "completion_tokens": totals["completion_tokens"],
        "endpoint": re.sub(r"(?<=//)[^/]*@|[?#].*", "", sending.urls[0]),  # without a password
    }


def _complete(judgment: Judgment, outcome: Outcome) -> Judgment:
    """Add the reply and its scores to a pending judgment, and put its models into file order."""
    text = outcome.answer or ""
    scores = read_scores(text, rubric=judgment.protocol == RUBRIC)
    failure = "no scores in the text" if scores is None else ""
    if not text.strip():
        failure = outcome.reason or f"empty reply ({outcome.finish_reason})"
    judgment = replace(judgment, text=text, scores=scores, stored_scores=scores, failure=failure)
    return reverse_order(judgment) if judgment.swapped else judgment


def _count_unanswered(questions: Sequence[files.Question], matchups: Iterable[Matchup]) -> dict[str, int]:
    """Count the questions without an answer for each model that has any."""
    models = {model.name: model for matchup in matchups for model in matchup.models}
    counts = {name: sum(q.id not in m.answers for q in questions) for name, m in models.items()}
    return {name: count for name, count in counts.items() if count}


def _card(judgments: Sequence[Judgment], inputs: Mapping[str, Path | None]) -> dict[str, Any]:
    """Return what was judged by whom, the warnings, and the limits of the judge."""
    first = judgments[0]
    controls = diagnostics.compute_controls(judgments)
    warnings = diagnostics.list_warnings(controls, first.protocol)
    failures = controls["failures"]
    if failures > MAX_FAILURES * len(judgments):
        example = next(judgment.failure for judgment in judgments if judgment.scores is None)
        warnings.insert(0, f"No scores in {failures} of {len(judgments)} reviews, e.g. because: {example}.")
    return {
        "protocol": first.protocol,
        "judge": first.judge,
        "models": list(dict.fromkeys(name for judgment in judgments for name in judgment.models)),
        "questions": len({judgment.question_key for judgment in judgments}),
        "reviews": len(judgments),
        "failures": failures,
        "controls": controls,
        "warnings": warnings,
        "cannot_know": {sees: LIMITS[sees] for sees in dict.fromkeys(j.sees for j in judgments)},
        "files": {
            name: {"path": str(path), "sha256": hash_file(path)} for name, path in inputs.items() if path
        },
    }


def _write(judgments: Sequence[Judgment], card: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write ``reviews.jsonl``, then ``judge.json``, and return the card."""
    write_jsonl(out / REVIEWS, (to_row(judgment, number) for number, judgment in enumerate(judgments, 1)))
    write_json(out / CARD, card)
    logger.info("judge: %d reviews, %d without scores (%s)", card["reviews"], card["failures"], out)
    return card


def plan_matchups(
    questions: Sequence[files.Question], answers: Sequence[Path], protocol: str, reference: Path | None
) -> list[Matchup]:
    """Return the matchups for the judge; too few answer files, or two of one model, are an error."""
    models = [files.read_model_answers(path) for path in answers]
    if protocol != RUBRIC:
        truths = {question.id: question.truth for question in questions if question.truth}
        if reference is not None:
            models.insert(0, files.read_model_answers(reference))
        elif truths and (protocol == RELATIVE or len(models) == 1):
            models.insert(0, files.ModelAnswers("reference", truths))
        elif protocol == RELATIVE:
            raise ConfigError("--protocol relative needs --reference, the answers that count as 100 %")
    names = [model.name for model in models]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise DataError(
            f"two files hold answers of {duplicate!r}; rename one, or give its rows another model_id"
        )
    if len(models) < (1 if protocol == RUBRIC else 2):
        raise ConfigError(f"--protocol {protocol} compares two models; give --answers twice, or --reference")
    if protocol == RUBRIC:
        return [Matchup((model,)) for model in models]
    if protocol == RELATIVE:
        return [Matchup((models[0], candidate)) for candidate in models[1:]]
    pairs = itertools.combinations(models, 2)
    return [matchup for a, b in pairs for matchup in (Matchup((a, b)), Matchup((b, a), swapped=True))]


def new_judgment(question: files.Question, matchup: Matchup, **fields: Any) -> Judgment:
    """Return a judgment of the matchup's answers to a question, without text and scores unless given."""
    return Judgment(
        question_id=question.id,
        models=tuple(model.name for model in matchup.models),
        answers=tuple(model.answers[question.id] for model in matchup.models),
        swapped=matchup.swapped,
        lang=question.lang,
        categories=question.categories,
        image=question.image,
        question=question.text,
        **{"text": "", "scores": None, "stored_scores": None, **fields},
    )


def build_requests(
    questions: Sequence[files.Question], matchup: Matchup, settings: JudgeSettings
) -> Iterator[tuple[Judgment, dict[str, Any]]]:
    """Yield the pending judgment, in shown order, and the request body of each question that all answered."""
    answered = [q for q in questions if all(q.id in model.answers for model in matchup.models)]
    if not answered:
        names = " and ".join(model.name for model in matchup.models)
        raise DataError(
            f"no question is answered by {names}; their question ids do not match --questions,"
            f" e.g. {questions[0].id!r} against {next(iter(matchup.models[-1].answers), 'none')!r}"
        )
    for question in answered:
        own_context = files.Context(question.context, boxes=False)
        context = settings.contexts.get(Path(question.image).stem, own_context)
        fields = {"protocol": settings.protocol, "judge": settings.model, "sees": settings.sees}
        judgment = new_judgment(question, matchup, context=context.text, **fields)
        body = _body(judgment, question, context, settings)
        for repeat in range(settings.repeats):
            # The seed makes a repeat a different request for the ledger and for the endpoint's cache.
            yield replace(judgment, repeat=repeat), body | ({"seed": repeat} if repeat else {})


def load_judge_prompt(protocol: str, lang: str) -> Prompt:
    """Load our prompt in the language of the question, or in English if there is none."""
    language = "zh" if lang.split("-")[0] == "zh" else "en"
    return load_prompt(str(_PROMPTS / f"{'rubric' if protocol == RUBRIC else 'pair'}.{language}.jinja"))


def _body(
    judgment: Judgment, question: files.Question, context: files.Context, settings: JudgeSettings
) -> dict[str, Any]:
    rules, path = settings.rules, settings.rules_path
    rule = files.rule_for(question, rules, boxes=context.boxes, path=path) if rules else None
    values: dict[str, Any] = {"context": context.text, "question": question.text, "rule": rule}
    values["picture"] = settings.images is not None
    if settings.protocol == RUBRIC:
        values |= {"truth": question.truth, "answer": judgment.answers[0]}
    else:
        values |= dict(zip(("first", "second"), judgment.answers, strict=True))
    content: Any = load_judge_prompt(settings.protocol, question.lang).render(values)
    if settings.images is not None:
        path = settings.images / question.image
        if not question.image or not path.is_file():
            place = f"question {question.id}: no picture {path}"
            raise DataError(f"{place}; a judge that sees needs every picture")
        url = file_data_uri(path, limit_bytes=LIMIT_BYTES)
        content = [{"type": "text", "text": content}, {"type": "image_url", "image_url": {"url": url}}]
    messages = [{"role": "user", "content": content}]
    return {"model": settings.model, "messages": messages, "temperature": TEMPERATURE, "max_tokens": 1024}

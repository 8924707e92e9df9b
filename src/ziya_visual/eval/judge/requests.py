"""Requests to a judge: which answers it compares, in which order, and in which words.

Pairwise shows every two answers in both orders. A Chinese question is judged with a Chinese prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.pictures import file_data_uri
from ziya_visual.eval.judge.files import Context, ModelAnswers, Question, read_model_answers, rule_for
from ziya_visual.eval.judge.judgments import RELATIVE, RUBRIC, Judgment
from ziya_visual.forge.prompting import Prompt, load_prompt

LIMIT_BYTES = 20_000_000  # of a picture
TEMPERATURE = 0.2  # as LLaVA's judge
_PROMPTS = Path(__file__).parent / "prompts"


class Matchup(NamedTuple):
    """The models of a request, in the order shown to the judge: one for a rubric, else two."""

    models: tuple[ModelAnswers, ...]
    swapped: bool = False


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """Settings that all requests of a run share.

    Attributes:
        model: name of the judge at its endpoint.
        contexts: picture -> text about it.
        rules: category -> instruction of LLaVA's rule file, which replaces ours.
        rules_path: path of that file, for messages.
        images: folder of the pictures, for a judge that sees them.
        sees: ``picture``, ``text`` (the context) or ``nothing``.
    """

    model: str
    protocol: str
    contexts: Mapping[str, Context]
    rules: Mapping[str, str] | None
    rules_path: Path
    images: Path | None
    repeats: int
    sees: str


def plan_matchups(
    questions: Sequence[Question], answers: Sequence[Path], protocol: str, reference: Path | None
) -> list[Matchup]:
    """Return the matchups for the judge; too few answer files, or two of one model, are an error."""
    models = [read_model_answers(path) for path in answers]
    if protocol != RUBRIC:
        truths = {question.id: question.truth for question in questions if question.truth}
        if reference is not None:
            models.insert(0, read_model_answers(reference))
        elif truths and (protocol == RELATIVE or len(models) == 1):
            models.insert(0, ModelAnswers("reference", truths))
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


def new_judgment(question: Question, matchup: Matchup, **fields: Any) -> Judgment:
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
    questions: Sequence[Question], matchup: Matchup, settings: JudgeSettings
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
        own_context = Context(question.context, boxes=False)
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
    judgment: Judgment, question: Question, context: Context, settings: JudgeSettings
) -> dict[str, Any]:
    rules = settings.rules
    values = {
        "context": context.text,
        "question": question.text,
        "picture": settings.images is not None,
        "rule": rule_for(question, rules, boxes=context.boxes, path=settings.rules_path) if rules else None,
    }
    if settings.protocol == RUBRIC:
        values |= {"truth": question.truth, "answer": judgment.answers[0]}
    else:
        values |= dict(zip(("first", "second"), judgment.answers, strict=True))
    content: Any = load_judge_prompt(settings.protocol, question.lang).render(values)
    if settings.images is not None:
        path = settings.images / question.image
        if not question.image or not path.is_file():
            raise DataError(
                f"question {question.id}: no picture {path}; a judge that sees needs every picture"
            )
        url = file_data_uri(path, limit_bytes=LIMIT_BYTES)
        content = [{"type": "text", "text": content}, {"type": "image_url", "image_url": {"url": url}}]
    messages = [{"role": "user", "content": content}]
    return {"model": settings.model, "messages": messages, "temperature": TEMPERATURE, "max_tokens": 1024}

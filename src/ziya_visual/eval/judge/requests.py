"""What is put to a judge: which answers are shown together, in which order, in which words.

Pairwise shows every two answers in both orders; a Chinese question is judged through a Chinese prompt.
"""

from __future__ import annotations

import base64
import itertools
import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.eval.judge.files import Contender, Context, Question, context_of, read_contender, rule_for
from ziya_visual.eval.judge.verdicts import RELATIVE, RUBRIC, Review
from ziya_visual.forge.prompting import Prompt, load_prompt

MAX_PICTURE_BYTES = 20_000_000
TEMPERATURE = 0.2  # as LLaVA's judge
_PROMPTS = Path(__file__).parent / "prompts"


@dataclass(frozen=True, slots=True)
class Shown:
    """Contenders in the order in which a judge sees them; one in a rubric, else two."""

    contenders: tuple[Contender, ...]
    swapped: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """What all requests of a run have in common.

    Attributes:
        model: the endpoint's name of the judge.
        protocol: relative, pairwise or rubric.
        contexts: picture -> what is known of it.
        rules: category -> instruction of LLaVA's rule file, instead of ours; ``rules_path`` for messages.
        images: folder of the pictures, for a judge that sees them.
        repeats: how often every request is asked.
        sees: ``picture``, ``text`` (what is known of it) or ``nothing``.
    """

    model: str
    protocol: str
    contexts: Mapping[str, Context] = field(default_factory=dict)
    rules: Mapping[str, str] | None = None
    rules_path: Path = Path()
    images: Path | None = None
    repeats: int = 1
    sees: str = "nothing"


def shown_together(
    asked: Sequence[Question], answers: Sequence[Path], protocol: str, reference: Path | None
) -> list[Shown]:
    """What the judge will compare.

    Raises:
        ConfigError: too few answer files for the protocol.
        DataError: two files of one model.
    """
    contenders = [read_contender(path) for path in answers]
    if protocol != RUBRIC:
        truths = {question.id: question.truth for question in asked if question.truth}
        if reference is not None:
            contenders.insert(0, read_contender(reference))
        elif truths and (protocol == RELATIVE or len(contenders) == 1):
            contenders.insert(0, Contender("reference", truths))
        elif protocol == RELATIVE:
            raise ConfigError("--protocol relative needs --reference, the answers that count as 100 %")
    names = [contender.name for contender in contenders]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"two files hold answers of {twice!r}; rename one, or give its rows another model_id")
    if len(contenders) < (1 if protocol == RUBRIC else 2):
        raise ConfigError(f"--protocol {protocol} compares two models; give --answers twice, or --reference")
    if protocol == RUBRIC:
        return [Shown((contender,)) for contender in contenders]
    if protocol == RELATIVE:
        return [Shown((contenders[0], candidate)) for candidate in contenders[1:]]
    pairs = itertools.combinations(contenders, 2)
    return [shown for a, b in pairs for shown in (Shown((a, b)), Shown((b, a), swapped=True))]


def requests(
    asked: Sequence[Question], shown: Shown, setting: Setting
) -> Iterator[tuple[Review, dict[str, Any]]]:
    """For every question that all contenders answered: the review to come, in shown order, and the body.

    Raises:
        DataError: no question is answered by all of them; a picture that is missing.
    """
    answered = [q for q in asked if all(q.id in contender.answers for contender in shown.contenders)]
    names = tuple(contender.name for contender in shown.contenders)
    if not answered:
        raise DataError(
            f"no question is answered by {' and '.join(names)}; their question ids match none of --questions,"
            f" e.g. {asked[0].id!r} against {next(iter(shown.contenders[-1].answers), 'none')!r}"
        )
    for question in answered:
        known = context_of(question, setting.contexts)
        review = Review(
            question=question.id,
            text="",
            scores=None,
            stored=None,
            models=names,
            answers=tuple(contender.answers[question.id] for contender in shown.contenders),
            swapped=shown.swapped,
            protocol=setting.protocol,
            judge=setting.model,
            sees=setting.sees,
            lang=question.lang,
            categories=question.categories,
            image=question.image,
            asked=question.text,
            context=known.text,
        )
        body = _body(review, question, known, setting)
        for repeat in range(setting.repeats):
            # The seed makes a repeat another request, for the ledger as for the endpoint's cache.
            yield replace(review, repeat=repeat), body | ({"seed": repeat} if repeat else {})


def prompt_for(protocol: str, lang: str) -> Prompt:
    """Our prompt in the language of the question; English where we have none in it."""
    language = "zh" if lang.split("-")[0] == "zh" else "en"
    return load_prompt(str(_PROMPTS / f"{'rubric' if protocol == RUBRIC else 'pair'}.{language}.jinja"))


def _body(review: Review, question: Question, known: Context, setting: Setting) -> dict[str, Any]:
    rules = setting.rules
    values = {
        "context": known.text,
        "question": question.text,
        "picture": setting.images is not None,
        "rule": rule_for(question, rules, boxes=known.boxes, path=setting.rules_path) if rules else None,
    }
    if setting.protocol == RUBRIC:
        values |= {"truth": question.truth, "answer": review.answers[0]}
    else:
        values |= dict(zip(("first", "second"), review.answers, strict=True))
    content: Any = prompt_for(setting.protocol, question.lang).render(values)
    if setting.images is not None:
        url = _picture(setting.images, question)
        content = [{"type": "text", "text": content}, {"type": "image_url", "image_url": {"url": url}}]
    return {
        "model": setting.model,
        "messages": [{"role": "user", "content": content}],
        "temperature": TEMPERATURE,
        "max_tokens": 1024,
    }


def _picture(folder: Path, question: Question) -> str:
    """The picture as it is, in a data URL."""
    path = folder / question.image
    kind = mimetypes.guess_type(path.name)[0] or ""
    if not question.image or not path.is_file():
        raise DataError(f"question {question.id}: no picture {path}; a judge that sees needs every picture")
    if not kind.startswith("image/") or path.stat().st_size > MAX_PICTURE_BYTES:
        raise DataError(
            f"{path}: {kind or 'no picture'}, {path.stat().st_size} bytes; expected a picture below 20 MB"
        )
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"

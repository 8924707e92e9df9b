"""Captions and boxes become conversations by in-context learning (as LLaVA and Ziya-Visual were made)."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ziya_visual.core.errors import ConfigError, nearest
from ziya_visual.core.io import read_examples, read_text, write_json, write_jsonl, write_records
from ziya_visual.core.log import progress
from ziya_visual.core.records import Box, Example, ImageRef, Message, Provenance
from ziya_visual.forge import checks
from ziya_visual.forge.client import ask_all
from ziya_visual.forge.ledger import Ledger, Outcome
from ziya_visual.forge.planning import refuse_unusable
from ziya_visual.forge.prompting import FOLDER, Prompt, language_name, load_prompt, read_json_reply
from ziya_visual.forge.translate import ACCEPTED, REJECTED, REPORT

KINDS = ("conversation", "detail", "reasoning")
CHECKS = ("language", "refusal", "repetition", "placeholders", "mentions_source", "same_question")
_SOURCE_WORDS = re.compile(
    r"\bcaptions?\b|\bbounding box|\bthe descriptions?\b|\bcoordinates?\b|根据描述|描述中|标题"
    r"|说明文字|坐标|边界框",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that is known in words about one picture."""

    image_id: str
    image: ImageRef | None
    captions: tuple[str, ...]
    boxes: tuple[Box, ...]
    source: str


def pictures_of(examples: Sequence[Example]) -> list[Picture]:
    """Captions (assistant turns of ``caption`` examples) and boxes by picture, in order of appearance."""
    grouped: dict[str, list[Example]] = {}
    for example in examples:
        if example.task == "caption":
            grouped.setdefault(example.image_id or example.id, []).append(example)
    found = []
    for image_id, group in grouped.items():
        said = [m.content.strip() for example in group for m in example.messages if m.role == "assistant"]
        boxes = dict.fromkeys(box for example in group for box in example.boxes)
        captions = tuple(dict.fromkeys(text for text in said if text))
        if captions:
            found.append(Picture(image_id, group[0].image, captions, tuple(boxes), group[0].source))
    return found


def instruct(
    examples: Sequence[Example],
    *,
    lang: str,
    out: Path,
    model: str,
    base_url: str,
    kinds: Sequence[str] = KINDS,
    turns: int = 3,
    prompt: str = "instruct",
    params: Mapping[str, Any] | None = None,
    **sending: Any,
) -> dict[str, Any]:
    """Make a dialogue of every kind for every captioned picture; accepted.jsonl, rejected.jsonl, report.json.

    Args:
        examples: those of task ``caption`` are used, in any language.
        lang: of the conversations.
        out: the folder, with the ledger; a second run with the same arguments sends nothing.
        model: the endpoint's name of it.
        base_url: of an OpenAI-compatible endpoint, with ``/v1``.
        kinds: of :data:`KINDS`.
        turns: questions in a conversation.
        prompt: a name or a ``.jinja`` file.
        params: more of the request's body; temperature 0.7 unless given.
        sending: ``concurrency`` and the options of :class:`ziya_visual.forge.client.Client`.

    Returns:
        The report: pictures, records, accepted, rejected by reason, requests, sent, tokens, seconds.

    Raises:
        ConfigError, DataError, EndpointError: as :func:`ziya_visual.forge.translate.translate`.
    """
    started = time.monotonic()
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"no kind of conversation {kind!r}{nearest(kind, KINDS)}")
    refuse_unusable(examples)
    template, pictures = load_prompt(prompt), pictures_of(examples)
    jobs = [(picture, kind) for picture in pictures for kind in kinds]
    made: list[Example] = []
    rejected: list[dict[str, Any]] = []
    with Ledger(out) as ledger:
        bodies = (_body(p, kind, template, lang, model, turns, params or {}) for p, kind in jobs)
        keys = ledger.add(bodies)
        with progress("forge instruct", total=len(ledger.waiting(keys))) as bar:
            sent = ask_all(
                ledger,
                keys,
                base_url=base_url,
                on_done=lambda outcome: bar.advance(bar.task_ids[0]),
                **sending,
            )
        for (picture, kind), key in zip(jobs, keys, strict=True):
            outcome = ledger.outcome(key)
            dialogue, reasons = read_dialogue(outcome, lang)
            if reasons:
                name = f"{picture.image_id}:{kind}:{lang}"
                row = {"id": name, "reasons": reasons, "source": picture.captions, "target": outcome.answer}
                rejected.append(row)
            else:
                made.append(
                    _example(picture, kind, dialogue, lang=lang, model=model, prompt_hash=template.hash)
                )
        ledger.reject({key: "checks" for key in keys if read_dialogue(ledger.outcome(key), lang)[1]})
        totals = ledger.totals()
    write_records(out / ACCEPTED, made)
    write_jsonl(out / REJECTED, rejected)
    reasons_by_count = Counter(reason.split(":")[0] for row in rejected for reason in row["reasons"])
    report = {
        "pictures": len(pictures),
        "records": len(jobs),
        "accepted": len(made),
        "rejected": dict(reasons_by_count.most_common()),
        "accepted_percent": round(100 * len(made) / max(1, len(jobs)), 2),
        "requests": len(set(keys)),
        "sent": sent,
        "prompt_tokens": totals["prompt_tokens"],
        "completion_tokens": totals["completion_tokens"],
        "seconds": round(time.monotonic() - started, 3),
    }
    write_json(out / REPORT, report)
    return report


def instruct_file(
    in_path: Path, *, lang: str, out: Path, model: str, base_url: str, **options: Any
) -> dict[str, Any]:
    """:func:`instruct` over a JSONL file of examples."""
    return instruct(read_examples(in_path), lang=lang, out=out, model=model, base_url=base_url, **options)


def read_dialogue(outcome: Outcome, lang: str) -> tuple[tuple[Message, ...], list[str]]:
    """The dialogue in a reply, and the reasons against it (then the dialogue may be empty)."""
    if outcome.answer is None:
        return (), [f"endpoint_{outcome.state}: {outcome.reason}"]
    if outcome.finish_reason == "length":
        return (), ["truncated"]
    value = read_json_reply(outcome.answer)
    turns = value.get("turns") if isinstance(value, dict) else None
    if not isinstance(turns, list) or not turns:
        return (), ["refusal" if checks.refuses(outcome.answer) else "not_json"]
    messages: list[Message] = []
    for turn in turns:
        asked, answered = (
            (turn.get("question"), turn.get("answer")) if isinstance(turn, dict) else (None, None)
        )
        if (
            not isinstance(asked, str)
            or not isinstance(answered, str)
            or not asked.strip()
            or not answered.strip()
        ):
            return (), ["turn_without_question_or_answer"]
        messages += [Message("user", asked.strip()), Message("assistant", answered.strip())]
    return tuple(messages), _judge(messages, lang)


def _judge(messages: Sequence[Message], lang: str) -> list[str]:
    texts = [message.content for message in messages]
    questions = [message.content for message in messages if message.role == "user"]
    found = {
        "language": not all(checks.in_language(text, lang) for text in texts),
        "refusal": any(checks.refuses(text) for text in texts),
        "repetition": any(checks.repeats(text) for text in texts),
        "placeholders": any("<image>" in text for text in texts),
        "mentions_source": any(_SOURCE_WORDS.search(text) for text in texts),
        "same_question": len(set(questions)) < len(questions),
    }
    assert tuple(found) == CHECKS
    return [reason for reason, holds in found.items() if holds]


def _body(
    picture: Picture,
    kind: str,
    template: Prompt,
    lang: str,
    model: str,
    turns: int,
    params: Mapping[str, Any],
) -> dict[str, Any]:
    examples = yaml.safe_load(read_text(FOLDER / "instruct_examples.yaml"))
    shown = examples.get(lang.split("-")[0], examples["en"])[kind]
    values = {
        "language": language_name(lang),
        "kind": kind,
        "turns": turns,
        "examples": [shown],
        "captions": picture.captions,
        "boxes": picture.boxes,
    }
    messages = [{"role": "user", "content": template.render(values)}]
    return {"model": model, "messages": messages, "max_tokens": 1024, "temperature": 0.7, **params}


def _example(
    picture: Picture, kind: str, dialogue: tuple[Message, ...], *, lang: str, model: str, prompt_hash: str
) -> Example:
    return Example(
        id=f"{picture.image_id}:{kind}:{lang}",
        lang=lang,
        task="dialogue",
        messages=dialogue,
        image=picture.image,
        image_id=picture.image_id,
        meta={"kind": kind},
        source=picture.source,
        provenance=Provenance(origin="forge", model=model, prompt_hash=prompt_hash, checks=CHECKS),
    )

"""Captions, boxes and questions become dialogues by in-context learning (as for LLaVA and Ziya-Visual)."""

from __future__ import annotations

import functools
import itertools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ziya_visual.core.errors import ConfigError, nearest
from ziya_visual.core.files import read_examples, read_text, write_json, write_jsonl, write_records
from ziya_visual.core.log import progress
from ziya_visual.core.records import Box, Example, ImageRef, Message, Provenance
from ziya_visual.forge.ask import batch_api
from ziya_visual.forge.ask.client import ask_all
from ziya_visual.forge.ask.cost import Price, dollars
from ziya_visual.forge.ask.ledger import Ledger
from ziya_visual.forge.checks.near_duplicates import near_duplicates
from ziya_visual.forge.dialogue import CHECKS, GROUNDED, read_dialogue
from ziya_visual.forge.planning import batched, vetted
from ziya_visual.forge.prompting import FOLDER, Prompt, language_name, load_prompt
from ziya_visual.forge.review import picture
from ziya_visual.forge.translate import ACCEPTED, REJECTED, REPORT, budget_of

KINDS = ("conversation", "detail", "reasoning", GROUNDED, "false_premise")


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that is known in words about one picture; ``asked`` are questions with their answers."""

    image_id: str
    image: ImageRef | None
    captions: tuple[str, ...]
    boxes: tuple[Box, ...]
    asked: tuple[tuple[str, str], ...]
    source: str


@dataclass(frozen=True, slots=True)
class _Job:
    """One dialogue to make."""

    picture: Picture
    kind: str
    lang: str

    @property
    def id(self) -> str:
        return f"{self.picture.image_id}:{self.kind}:{self.lang}"


def pictures_of(examples: Sequence[Example]) -> list[Picture]:
    """Captions, boxes, questions and answers by picture, in order of appearance; without a caption, none."""
    grouped: dict[str, list[Example]] = {}
    for example in examples:
        if example.task in ("caption", "vqa", "grounded"):
            grouped.setdefault(example.image_id or example.id, []).append(example)
    found = []
    for image_id, group in grouped.items():
        captions = [e for e in group if e.task == "caption"]
        said = [m.content.strip() for e in captions for m in e.messages if m.role == "assistant"]
        asked = [pair for e in group if e.task != "caption" for pair in _turns(e.messages)]
        boxes = dict.fromkeys(box for example in group for box in example.boxes)
        texts = tuple(dict.fromkeys(text for text in said if text))
        if texts:
            first = captions[0]
            found.append(
                Picture(image_id, first.image, texts, tuple(boxes), tuple(dict.fromkeys(asked)), first.source)
            )
    return found


def _turns(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [
        (ask.content.strip(), reply.content.strip())
        for ask, reply in itertools.pairwise(messages)
        if (ask.role, reply.role) == ("user", "assistant")
    ]


def instruct(
    examples: Sequence[Example],
    *,
    lang: str,
    out: Path,
    model: str,
    base_url: str | Sequence[str],
    kinds: Sequence[str] = KINDS,
    turns: int = 3,
    prompt: str = "instruct",
    with_image: bool = False,
    params: Mapping[str, Any] | None = None,
    price: Price | None = None,
    budget_usd: float | None = None,
    use_batches: bool = False,
    **sending: Any,
) -> dict[str, Any]:
    """Make a dialogue of every kind for every captioned picture; accepted.jsonl, rejected.jsonl, report.json.

    Args:
        examples: captions, in any language, and what else is known of their pictures.
        lang: of the conversations.
        out: the folder, with the ledger; a second run with the same arguments sends nothing.
        model: the endpoint's name of it.
        base_url: of an OpenAI-compatible endpoint, with ``/v1``; of several, the first that works is asked.
        kinds: of :data:`KINDS`; ``grounded`` for pictures with boxes alone.
        turns: questions in a conversation.
        prompt: a name or a ``.jinja`` file.
        with_image: show the picture too.
        params: more of the request's body; temperature 0.7 unless given.
        price: dollars per million tokens of prompt and completion.
        budget_usd: what the folder may cost in all; needs ``price``.
        use_batches: through the Batch API.
        sending: ``concurrency`` and the options of :class:`ziya_visual.forge.ask.endpoint.Client`.

    Returns:
        The report: pictures, records, accepted, rejected by reason, requests, sent, tokens, usd, seconds.

    Raises:
        ConfigError, DataError, EndpointError: as :func:`ziya_visual.forge.translate.translate`.
    """
    started = time.monotonic()
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"no kind of conversation {kind!r}{nearest(kind, KINDS)}")
    template, pictures = load_prompt(prompt), pictures_of(list(vetted(examples)))
    jobs = [_Job(p, kind, lang) for p in pictures for kind in kinds if p.boxes or kind != GROUNDED]
    with Ledger(out) as ledger:
        sending = {"base_url": base_url, **sending}
        if budget_usd is not None:
            sending["budget"] = budget_of(ledger, budget_usd, price)
        bodies = (
            body_of(j.picture, j.kind, template, lang, model, turns, params or {}, with_image=with_image)
            for j in jobs
        )
        keys = [key for some in batched(bodies, 100) for key in ledger.add(some)]
        with progress("forge instruct", total=len(ledger.waiting(keys))) as bar:
            send = batch_api.ask_all if use_batches else ask_all
            sent = send(ledger, keys, on_done=lambda outcome: bar.advance(), **sending)
        made, rejected = _read(ledger, jobs, keys, model, template.hash)
        totals = ledger.totals()
    write_records(out / ACCEPTED, made)
    write_jsonl(out / REJECTED, rejected)
    reasons = Counter(reason.split(":")[0] for row in rejected for reason in row["reasons"])
    tokens = {name: totals[name] for name in ("prompt_tokens", "completion_tokens")}
    report = {
        "pictures": len(pictures),
        "records": len(jobs),
        "accepted": len(made),
        "rejected": dict(reasons.most_common()),
        "accepted_percent": round(100 * len(made) / max(1, len(jobs)), 2),
        "requests": len(set(keys)),
        "sent": sent,
        **tokens,
        "usd": None if price is None else round(dollars(price, **tokens), 6),
        "seconds": round(time.monotonic() - started, 3),
    }
    write_json(out / REPORT, report)
    return report


def instruct_file(
    in_path: Path, *, lang: str, out: Path, model: str, base_url: str | Sequence[str], **options: Any
) -> dict[str, Any]:
    """:func:`instruct` over a JSONL file of examples."""
    return instruct(read_examples(in_path), lang=lang, out=out, model=model, base_url=base_url, **options)


def _read(
    ledger: Ledger, jobs: Sequence[_Job], keys: Sequence[str], model: str, prompt_hash: str
) -> tuple[list[Example], list[dict[str, Any]]]:
    """What passed, and rows of what did not; one that nearly repeats an earlier one does not."""
    made: list[Example] = []
    rejected: list[dict[str, Any]] = []
    for job, key in zip(jobs, keys, strict=True):
        outcome = ledger.outcome(key)
        dialogue, reasons = read_dialogue(outcome, job.lang, kind=job.kind, boxes=job.picture.boxes)
        if reasons:
            if outcome.answer is not None:
                ledger.reject({key: reasons[0]})
            source = job.picture.captions
            rejected.append({"id": job.id, "reasons": reasons, "source": source, "target": outcome.answer})
        else:
            made.append(_example(job, dialogue, model=model, prompt_hash=prompt_hash))
    texts = ["\n".join(message.content for message in example.messages) for example in made]
    twins = {later: earlier for earlier, later in near_duplicates(texts)}
    for later, earlier in twins.items():
        reason = f"near_duplicate: {made[earlier].id}"
        source = tuple(message.content for message in made[earlier].messages)
        rejected.append({"id": made[later].id, "reasons": [reason], "source": source, "target": texts[later]})
    return [example for place, example in enumerate(made) if place not in twins], rejected


def body_of(
    known: Picture,
    kind: str,
    template: Prompt,
    lang: str,
    model: str,
    turns: int,
    params: Mapping[str, Any],
    *,
    with_image: bool = False,
) -> dict[str, Any]:
    """The request for one dialogue."""
    examples = _shown()
    shown = examples.get(lang.split("-")[0], examples["en"])[kind]
    values = {
        "language": language_name(lang),
        "kind": kind,
        "turns": turns,
        "examples": [shown],
        "captions": known.captions,
        "boxes": known.boxes,
        "asked": known.asked,
    }
    content: Any = template.render(values)
    if with_image:
        seen = Example(known.image_id, lang, "caption", (), image=known.image)
        content = [{"type": "text", "text": content}, picture(seen)]
    messages = [{"role": "user", "content": content}]
    return {"model": model, "messages": messages, "max_tokens": 1024, "temperature": 0.7, **params}


@functools.cache
def _shown() -> dict[str, Any]:
    """One example of each kind, by language."""
    examples: dict[str, Any] = yaml.safe_load(read_text(FOLDER / "instruct_examples.yaml"))
    return examples


def _example(job: _Job, dialogue: tuple[Message, ...], *, model: str, prompt_hash: str) -> Example:
    grounded = job.kind == GROUNDED
    return Example(
        id=job.id,
        lang=job.lang,
        task="grounded" if grounded else "dialogue",
        messages=dialogue,
        image=job.picture.image,
        image_id=job.picture.image_id,
        boxes=job.picture.boxes if grounded else (),
        meta={"kind": job.kind},
        source=job.picture.source,
        provenance=Provenance(origin="forge", model=model, prompt_hash=prompt_hash, checks=CHECKS),
    )

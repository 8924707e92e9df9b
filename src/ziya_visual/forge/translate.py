"""Translate examples of any task through an LLM endpoint; what fails the checks is a row with its reasons.

Two rounds: short records together, then every record that did not pass once more by itself. Verdicts are
always formed anew from the raw answers in the ledger, so improved checks apply to answers already paid for.
The examples are gone through several times and never held, so that a million of them fit a laptop.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import ConfigError, nearest
from ziya_visual.core.files import atomic_path, write_json
from ziya_visual.core.log import logger
from ziya_visual.core.records import Example, Message, Provenance, to_dict
from ziya_visual.forge.ask.cost import Budget, Price, dollars
from ziya_visual.forge.ask.ledger import Ledger
from ziya_visual.forge.checks import any_pair
from ziya_visual.forge.job import AT_ONCE, Job
from ziya_visual.forge.planning import ExampleFile, Settings, batched, record_of, refusal
from ziya_visual.forge.prompting import load_prompt
from ziya_visual.forge.replies import Verdict
from ziya_visual.forge.review import REVIEWS

ACCEPTED, REJECTED, REPORT = "accepted.jsonl", "rejected.jsonl", "report.json"


@dataclass(frozen=True, slots=True)
class TranslationReport:
    """What a run made; ``rejected`` counts records by reason (one record may have several).

    ``requests`` are those that serve these records, ``sent`` those that this run paid for; tokens and ``usd``
    (None without a price) are the ledger's whole.
    """

    records: int
    unique_records: int
    accepted: int
    rejected: dict[str, int]
    accepted_percent: float
    requests: int
    sent: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None
    seconds: float


def translate(
    examples: Iterable[Example],
    *,
    to: str,
    out: Path,
    model: str,
    base_url: str | Sequence[str],
    prompt: str = "translate",
    texts_per_request: int = 6,
    params: Mapping[str, Any] | None = None,
    glossary: tuple[tuple[str, str], ...] = (),
    shots: tuple[tuple[str, str], ...] = (),
    extra_checks: Sequence[str] = (),
    price: Price | None = None,
    budget_usd: float | None = None,
    use_batches: bool = False,
    **sending: Any,
) -> TranslationReport:
    """Translate into ``to``; a killed run goes on where it was when called again with the same arguments.

    Args:
        examples: of any task and language; ids unique, pictures by path. Gone through more than once.
        to: BCP-47 tag of the target language.
        out: folder for accepted.jsonl, rejected.jsonl, report.json and ledger.sqlite.
        model: the endpoint's name of it.
        base_url: of an OpenAI-compatible endpoint, with ``/v1``; of several, the first that works is asked.
        prompt: ``translate`` (JSON replies), ``translate_plain`` (numbered lines), or a ``.jinja`` file; a
            file whose name ends in ``_plain`` has replies in numbered lines.
        texts_per_request: lines of short records sent together.
        params: more of the request's body; temperature 0 unless given.
        glossary: (source term, how it must be said); shown where it occurs, and checked.
        shots: (source, target) translations that are put in context.
        extra_checks: of :data:`ziya_visual.forge.review.REVIEWS`; each costs a request a record.
        price: dollars per million tokens of prompt and completion.
        budget_usd: what this folder may cost in all; needs ``price``.
        use_batches: through the Batch API: half the price at OpenAI, within a day.
        sending: ``concurrency`` and the options of :class:`ziya_visual.forge.ask.endpoint.Client`.

    Raises:
        ConfigError, DataError, EndpointError: nothing that was answered is lost.
    """
    started = time.monotonic()
    template = load_prompt(prompt)
    for name in extra_checks:
        if name not in REVIEWS:
            raise ConfigError(f"no extra check {name!r}{nearest(name, REVIEWS)}")
    if template.plain and (glossary or shots):
        raise ConfigError(f"prompt {prompt!r} has no place for a glossary or examples; use 'translate'")
    settings = Settings(to, model, template, {"temperature": 0, **(params or {})}, glossary, shots)
    with Ledger(out) as ledger:
        sending = {"base_url": base_url, **sending}
        if budget_usd is not None:
            sending["budget"] = budget_of(ledger, budget_usd, price)
        job = Job(ledger, settings, sending, use_batches=use_batches)
        job.first(examples, texts_per_request)
        job.repair(examples)
        for name in extra_checks:
            job.review(examples, name)
        report = _write(job, examples, out)
        totals = ledger.totals()
    tokens = {name: totals[name] for name in ("prompt_tokens", "completion_tokens")}
    finished = TranslationReport(
        **report,
        accepted_percent=round(100 * report["accepted"] / max(1, report["records"]), 2),
        requests=len(job.used),
        sent=job.sent,
        **tokens,
        usd=None if price is None else round(dollars(price, **tokens), 6),
        seconds=round(time.monotonic() - started, 3),
    )
    write_json(out / REPORT, asdict(finished))
    logger.info("forge: %d of %d records accepted (%s)", finished.accepted, finished.records, out)
    return finished


def translate_file(
    in_path: Path, *, to: str, out: Path, model: str, base_url: str | Sequence[str], **options: Any
) -> TranslationReport:
    """:func:`translate` over a JSONL file of examples, which need not fit into memory."""
    return translate(ExampleFile(in_path), to=to, out=out, model=model, base_url=base_url, **options)


def budget_of(ledger: Ledger, limit_usd: float, price: Price | None) -> Budget:
    """A cap on what a ledger's requests cost over its whole life; ``ConfigError`` without a price."""
    if price is None:
        raise ConfigError("--budget-usd needs --prices, a file with what the model's tokens cost")
    totals = ledger.totals()
    spent = dollars(price, totals["prompt_tokens"], totals["completion_tokens"])
    return Budget(limit_usd, price, spent_usd=spent)


def _write(job: Job, examples: Iterable[Example], out: Path) -> dict[str, Any]:
    """Both files, an example at a time; the counts for the report."""
    reasons: Counter[str] = Counter()
    unique: set[int] = set()
    records = accepted = 0
    with (
        atomic_path(out / ACCEPTED) as accepted_path,
        atomic_path(out / REJECTED) as rejected_path,
        accepted_path.open("w", encoding="utf-8") as good,
        rejected_path.open("w", encoding="utf-8") as bad,
    ):
        for group in batched(examples, AT_ONCE):
            verdicts = job.verdicts(group)
            for example in group:
                verdict = verdicts[example.id]
                record = record_of(example, job.settings)
                records += 1
                if refusal(record, job.settings) is None:
                    unique.add(hash(record.key))
                if verdict.reasons:
                    reasons.update({reason.split(":")[0] for reason in verdict.reasons})
                    row = _rejected(example, verdict)
                else:
                    assert verdict.target is not None
                    accepted += 1
                    row = to_dict(_translated(example, record.texts, verdict.target, job.settings))
                (bad if verdict.reasons else good).write(json.dumps(row, ensure_ascii=False) + "\n")
    return {
        "records": records,
        "unique_records": len(unique),
        "accepted": accepted,
        "rejected": dict(reasons.most_common()),
    }


def _rejected(example: Example, verdict: Verdict) -> dict[str, Any]:
    source = [message.content for message in example.messages]
    target = list(verdict.target) if verdict.target is not None else verdict.raw
    return {"id": example.id, "reasons": list(verdict.reasons), "source": source, "target": target}


def _translated(
    example: Example, source: Sequence[str], target: Sequence[str], settings: Settings
) -> Example:
    words = dict(zip(source, target, strict=True))
    messages = tuple(
        Message(message.role, text) for message, text in zip(example.messages, target, strict=False)
    )
    replies = [message.content for message in messages if message.role == "assistant"]
    answers = tuple(words[answer] for answer in example.answers)
    if example.task == "vqa" and not answers:
        answers = tuple(replies[-1:])
    return example.with_messages(
        messages,
        id=f"{example.id}:{settings.to}",
        lang=settings.to,
        answers=answers,
        provenance=Provenance(
            origin="forge",
            translated_from=example.id,
            model=settings.model,
            prompt_hash=settings.prompt.hash,
            checks=any_pair.names(example.lang, settings.to),
        ),
    )

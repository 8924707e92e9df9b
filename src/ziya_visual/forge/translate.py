"""Translate examples of any task through an LLM endpoint; what fails the checks is a row with its reasons.

Two rounds: short records together, then every record that did not pass once more by itself. Verdicts are
always formed anew from the raw answers in the ledger, so improved checks apply to answers already paid for.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ziya_visual.core.io import read_examples, write_json, write_jsonl, write_records
from ziya_visual.core.log import logger, progress
from ziya_visual.core.records import Example, Message, Provenance
from ziya_visual.forge import checks
from ziya_visual.forge.client import ask_all
from ziya_visual.forge.ledger import Ask, Ledger, Outcome
from ziya_visual.forge.planning import (
    Record,
    Settings,
    body_of,
    plan_first,
    record_of,
    refusal,
    refuse_unusable,
)
from ziya_visual.forge.prompting import load_prompt, read_json_reply, read_numbered

WRONG_NUMBER = "wrong_number_of_items"
ACCEPTED, REJECTED, REPORT = "accepted.jsonl", "rejected.jsonl", "report.json"


@dataclass(frozen=True, slots=True)
class TranslationReport:
    """What a run made; ``rejected`` counts records by reason (one record may have several).

    ``requests`` are those that serve these records, ``sent`` those that this run paid for; tokens are the
    ledger's whole.
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
    seconds: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A record's translation, or what came instead, with the reasons against it."""

    target: tuple[str, ...] | None
    reasons: tuple[str, ...]
    raw: str | None = None


def translate(
    examples: Sequence[Example],
    *,
    to: str,
    out: Path,
    model: str,
    base_url: str,
    prompt: str = "translate",
    texts_per_request: int = 6,
    concurrency: int = 64,
    params: Mapping[str, Any] | None = None,
    **client_options: Any,
) -> TranslationReport:
    """Translate into ``to``; a killed run goes on where it was when called again with the same arguments.

    Args:
        examples: of any task and language; ids unique, pictures by path.
        to: BCP-47 tag of the target language.
        out: folder for accepted.jsonl, rejected.jsonl, report.json and ledger.sqlite.
        model: the endpoint's name of it.
        base_url: of an OpenAI-compatible endpoint, with ``/v1``.
        prompt: ``translate`` (JSON replies), ``translate_plain`` (numbered lines), or a ``.jinja`` file; a
            file whose name ends in ``_plain`` has replies in numbered lines.
        texts_per_request: lines of short records sent together.
        concurrency: requests in flight at once.
        params: more of the request's body; temperature 0 unless given.
        client_options: of :class:`ziya_visual.forge.client.Client`.

    Raises:
        ConfigError, DataError, EndpointError: nothing that was answered is lost.
    """
    started = time.monotonic()
    settings = Settings(to, model, load_prompt(prompt), {"temperature": 0, **(params or {})})
    refuse_unusable(examples)
    refused = {example.id: reason for example in examples if (reason := refusal(example, settings))}
    of = {example.id: record_of(example, settings) for example in examples if example.id not in refused}
    records = list({record.key: record for record in of.values()}.values())
    with Ledger(out) as ledger:
        job = _Job(ledger, settings, dict(client_options, base_url=base_url, concurrency=concurrency))
        verdicts = job.run(records, texts_per_request)
        totals = ledger.totals()
    report = _write(examples, of, refused, verdicts, settings, out)
    finished = TranslationReport(
        records=len(examples),
        unique_records=len(records),
        accepted=report["accepted"],
        rejected=report["rejected"],
        accepted_percent=round(100 * report["accepted"] / max(1, len(examples)), 2),
        requests=len(job.used),
        sent=job.sent,
        prompt_tokens=totals["prompt_tokens"],
        completion_tokens=totals["completion_tokens"],
        seconds=round(time.monotonic() - started, 3),
    )
    write_json(out / REPORT, asdict(finished))
    logger.info("forge: %d of %d records accepted (%s)", finished.accepted, finished.records, out)
    return finished


def translate_file(
    in_path: Path, *, to: str, out: Path, model: str, base_url: str, **options: Any
) -> TranslationReport:
    """:func:`translate` over a JSONL file of examples."""
    return translate(read_examples(in_path), to=to, out=out, model=model, base_url=base_url, **options)


class _Job:
    """The two rounds over one open ledger."""

    def __init__(self, ledger: Ledger, settings: Settings, sending: dict[str, Any]) -> None:
        self.ledger = ledger
        self.settings = settings
        self.sending = sending
        self.used: set[str] = set()
        self.sent = 0

    def run(self, records: Sequence[Record], texts_per_request: int) -> dict[str, Verdict]:
        """A verdict for every record."""
        asks = plan_first(self.ledger, records, self.settings, texts_per_request)
        self._send([asks[record.key].request for record in records], "forge translate")
        shared = Counter(ask.request for ask in asks.values())
        verdicts, unreadable = {}, {}
        for record in records:
            ask = asks[record.key]
            verdict = self._judge(record, ask)
            verdicts[record.key] = verdict
            if verdict.target is None:
                unreadable[ask.request] = verdict.reasons[0]
        self.ledger.reject(unreadable)
        again = [record for record in records if self._may_improve(verdicts[record.key])]
        alone = {record.key for record in again if shared[asks[record.key].request] == 1}
        verdicts.update(self._repair(again, verdicts, alone))
        return verdicts

    def _may_improve(self, verdict: Verdict) -> bool:
        """What the endpoint failed to answer is asked again by the next run, not by the repair round."""
        return bool(verdict.reasons) and not verdict.reasons[0].startswith("endpoint_failed")

    def _send(self, keys: Sequence[str], title: str) -> None:
        self.used.update(keys)
        total = len(set(keys))
        with progress(title, total=total) as bar:
            waiting = len(self.ledger.waiting(keys))
            bar.update(bar.task_ids[0], completed=total - waiting)
            self.sent += ask_all(
                self.ledger, keys, on_done=lambda outcome: bar.advance(bar.task_ids[0]), **self.sending
            )

    def _repair(
        self, records: Sequence[Record], before: Mapping[str, Verdict], alone: set[str]
    ) -> dict[str, Verdict]:
        """Ask for each record by itself, or line by line where the prompt could not differ."""
        parts: dict[str, list[str]] = {}
        for record in records:
            by_line = self.settings.prompt.plain and record.key in alone
            units = [(text,) for text in record.texts] if by_line else [record.texts]
            bodies = [
                body_of(
                    unit,
                    self.settings,
                    lang=record.lang,
                    dialogue=record.task == "dialogue",
                    reasons=[r for r in before[record.key].reasons if not r.startswith("endpoint")],
                )
                for unit in units
            ]
            parts[record.key] = self.ledger.add(bodies)
        if records:
            self._send([key for keys in parts.values() for key in keys], "forge repair")
        verdicts = {}
        for record in records:
            verdict = self._join(record, [self.ledger.outcome(key) for key in parts[record.key]])
            verdicts[record.key] = verdict
            if verdict.target is None:
                self.ledger.reject(dict.fromkeys(parts[record.key], verdict.reasons[0]))
        return verdicts

    def _join(self, record: Record, outcomes: Sequence[Outcome]) -> Verdict:
        """The verdict over a record's own requests: one for all its lines, or one a line."""
        each = len(record.texts) // len(outcomes)
        target: list[str] = []
        for outcome in outcomes:
            lines, reason = self._read(outcome, each)
            if lines is None:
                return Verdict(None, (reason,), outcome.answer)
            target += lines
        return self._check(record, tuple(target))

    def _judge(self, record: Record, ask: Ask) -> Verdict:
        outcome = self.ledger.outcome(ask.request)
        lines, reason = self._read(outcome, ask.lines)
        if lines is None:
            return Verdict(None, (reason,), outcome.answer)
        return self._check(record, tuple(lines[ask.line : ask.line + len(record.texts)]))

    def _read(self, outcome: Outcome, count: int) -> tuple[list[str] | None, str]:
        """The reply's ``count`` lines, or the reason why there are none."""
        if outcome.answer is None:
            return None, f"endpoint_{outcome.state}: {outcome.reason}"
        if outcome.finish_reason == "length":
            return None, "truncated"
        if self.settings.prompt.plain:
            lines = read_numbered(outcome.answer, count)
        else:
            value = read_json_reply(outcome.answer)
            if value is None:
                return None, "refusal" if checks.refuses(outcome.answer) else "not_json"
            lines = value.get("translations") if isinstance(value, dict) else None
            if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
                return None, "not_json"
        if lines is None or len(lines) != count:
            return None, WRONG_NUMBER
        return [line.strip() for line in lines], ""

    def _check(self, record: Record, target: tuple[str, ...]) -> Verdict:
        reasons: dict[str, None] = {}
        for source, translated in zip(record.texts, target, strict=True):
            found = checks.check(source, translated, source_lang=record.lang, target_lang=self.settings.to)
            reasons.update(dict.fromkeys(found))
        return Verdict(target, tuple(reasons))


def _write(
    examples: Sequence[Example],
    of: Mapping[str, Record],
    refused: Mapping[str, str],
    verdicts: Mapping[str, Verdict],
    settings: Settings,
    out: Path,
) -> dict[str, Any]:
    accepted: list[Example] = []
    rejected: list[dict[str, Any]] = []
    reasons: Counter[str] = Counter()
    for example in examples:
        verdict = verdicts[of[example.id].key] if example.id in of else Verdict(None, (refused[example.id],))
        if not verdict.reasons:
            assert verdict.target is not None
            accepted.append(_translated(example, of[example.id].texts, verdict.target, settings))
            continue
        reasons.update({reason.split(":")[0] for reason in verdict.reasons})
        source = [message.content for message in example.messages]
        target = list(verdict.target) if verdict.target is not None else verdict.raw
        rejected.append(
            {"id": example.id, "reasons": list(verdict.reasons), "source": source, "target": target}
        )
    write_records(out / ACCEPTED, accepted)
    write_jsonl(out / REJECTED, rejected)
    return {"accepted": len(accepted), "rejected": dict(reasons.most_common())}


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
            checks=checks.NAMES,
        ),
    )

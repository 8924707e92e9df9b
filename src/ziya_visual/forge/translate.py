"""Translate examples of any task through an LLM endpoint; what fails the checks is a row with its reasons.

A run has two rounds: short records together, then every record that did not pass once more by itself.
Verdicts are formed anew from the raw answers in the ledger, so improved checks apply to answers already paid
for. The examples are read several times and never held, so that a million of them fit on a laptop.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import ConfigError, nearest
from ziya_visual.core.files import atomic_path, write_json
from ziya_visual.core.log import logger
from ziya_visual.core.records import Example, Message, Provenance, to_dict
from ziya_visual.forge import planning
from ziya_visual.forge.ask.client import ask_all, open_budget
from ziya_visual.forge.ask.endpoint import Sending
from ziya_visual.forge.ask.ledger import NOT_SENT, Ask, Ledger, Outcome
from ziya_visual.forge.checks import any_pair
from ziya_visual.forge.planning import Pairs, Record, Settings, batched, record_of
from ziya_visual.forge.prompting import read_json_reply, read_numbered
from ziya_visual.forge.report import ACCEPTED, REJECTED, REPORT, reason_names, summary
from ziya_visual.forge.second_opinions import OPINIONS, objection, opinion_request

AT_ONCE = 500  # examples whose answers are held together


@dataclass(frozen=True, slots=True)
class TranslationReport:
    """The result of a run.

    ``rejected`` counts records by reason (a record may have several). ``requests`` serve these records,
    ``sent`` were paid for by this run; tokens and ``usd`` (None without a price) cover the ledger's life.
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


@dataclass(frozen=True, slots=True)
class Verdict:
    """A record's translation, or the raw reply in its place, with the reasons against it."""

    target: tuple[str, ...] | None
    reasons: tuple[str, ...]
    raw: str | None = None

    @property
    def repairable(self) -> bool:
        """Return whether asking once more may help; a failure of the endpoint is left to the next run."""
        return bool(self.reasons) and not self.reasons[0].startswith(("endpoint_failed", NOT_SENT))

    @property
    def unreadable(self) -> bool:
        """Return whether a reply came that has no translation in it."""
        return self.target is None and not self.reasons[0].startswith(NOT_SENT)


def translate(
    examples: Iterable[Example],
    *,
    to: str,
    out: Path,
    sending: Sending,
    prompt: str = "translate",
    texts_per_request: int = 6,
    glossary: Pairs = (),
    shots: Pairs = (),
    extra_checks: Sequence[str] = (),
) -> TranslationReport:
    """Translate examples; a killed run continues when called again with the same arguments.

    Args:
        examples: Examples with unique ids and images by path, read more than once; for a file that is larger
            than memory, :class:`ziya_visual.forge.planning.ExampleFile`.
        to: BCP-47 tag of the target language.
        out: Folder for accepted.jsonl, rejected.jsonl, report.json and ledger.sqlite.
        sending: The model, its endpoint, and how to send requests.
        prompt: ``translate`` (JSON replies), ``translate_plain`` (numbered lines), or a ``.jinja`` file,
            whose replies are numbered lines if its name ends in ``_plain``.
        texts_per_request: Lines of short records sent together.
        glossary: (source term, required translation) pairs, shown where the term occurs, and checked.
        shots: (source, target) example translations that are put in context.
        extra_checks: Names from ``second_opinions.OPINIONS``; each costs one request per record.

    Raises:
        ConfigError, DataError, EndpointError: Nothing that was answered is lost.
    """
    started = time.monotonic()
    for name in extra_checks:
        if name not in OPINIONS:
            raise ConfigError(f"no extra check {name!r}{nearest(name, OPINIONS)}")
    settings = Settings.of(to, sending, prompt, glossary, shots)
    with Ledger(out) as ledger:
        rounds = Rounds(ledger, settings, sending)
        rounds.send_first(examples, texts_per_request)
        rounds.repair(examples)
        for name in extra_checks:
            rounds.get_opinions(examples, name)
        counts, reasons = _write(rounds, examples, out)
        counts |= {"requests": len(rounds.requests), "sent": rounds.sent}
        report = TranslationReport(**summary(ledger, sending, counts, reasons, started))
    write_json(out / REPORT, asdict(report))
    logger.info("forge: %d of %d records accepted (%s)", report.accepted, report.records, out)
    return report


class Rounds:
    """The rounds of a translation over an open ledger: together, then alone, then second opinions.

    ``requests`` has the keys of all requests that serve the records, ``sent`` counts those sent by this run.
    """

    def __init__(self, ledger: Ledger, settings: Settings, sending: Sending) -> None:
        """Open the budget, if ``sending`` has one; nothing is sent yet."""
        self.ledger = ledger
        self.settings = settings
        self.requests: set[str] = set()
        self.sent = 0
        self._sending = sending
        self._budget = open_budget(ledger, sending)
        self._opinions: list[str] = []

    def send_first(self, examples: Iterable[Example], texts_per_request: int) -> None:
        """Plan and send the shared requests."""
        records = planning.sendable(planning.vetted(examples), self.settings)
        self._send(
            planning.plan_first(self.ledger, records, self.settings, texts_per_request), "forge translate"
        )

    def repair(self, examples: Iterable[Example]) -> None:
        """Ask for each record that did not pass by itself, or text by text if no prompt could differ."""
        keys: list[str] = []
        for group in batched(examples, AT_ONCE):
            records = {record.key: record for record in planning.sendable(group, self.settings)}
            asks = self.ledger.planned(list(records))
            unreadable: dict[str, str] = {}
            repairs: list[tuple[Ask, dict[str, Any]]] = []
            for key, verdict in self._first_verdicts(records, asks).items():
                if verdict.unreadable:
                    unreadable[asks[key][0].request] = verdict.reasons[0]
                if verdict.repairable and len(asks[key]) == 1:
                    repairs += self._repairs(records[key], asks[key][0], verdict)
                elif verdict.repairable:
                    keys += [ask.request for ask in asks[key][1:]]
            self.ledger.reject(unreadable)
            repair_keys = self.ledger.add(body for _, body in repairs)
            self.ledger.plan(
                ask._replace(request=key) for (ask, _), key in zip(repairs, repair_keys, strict=True)
            )
            keys += repair_keys
        self._send(keys, "forge repair")

    def get_opinions(self, examples: Iterable[Example], name: str) -> None:
        """Ask for a second opinion on every record that has passed so far."""
        keys: list[str] = []
        for group in batched(examples, AT_ONCE):
            keys += self._opinion_requests(name, group, self.verdicts(group)).values()
        self._opinions.append(name)
        self._send(keys, f"forge {name}")

    def verdicts(self, examples: Sequence[Example]) -> dict[str, Verdict]:
        """Return a verdict by example id, also for examples that could not be sent."""
        record_by_id = {e.id: record_of(e, self.settings) for e in examples}
        verdicts: dict[str, Verdict] = {}
        records: dict[str, Record] = {}
        for name, record in record_by_id.items():
            reason = planning.refusal(record, self.settings)
            if reason:
                verdicts[name] = Verdict(None, (reason,))
            else:
                records[record.key] = record
        asks = self.ledger.planned(list(records))
        by_key = self._first_verdicts(records, asks)
        unreadable: dict[str, str] = {}
        for key, verdict in by_key.items():
            own = asks[key][1:]
            if verdict.repairable and own:
                outcomes = self.ledger.outcomes([ask.request for ask in own])
                by_key[key] = repaired = judge(records[key], own, outcomes, self.settings)
                if repaired.unreadable:
                    unreadable.update(dict.fromkeys(outcomes, repaired.reasons[0]))
        self.ledger.reject(unreadable)
        verdicts |= {n: by_key[record.key] for n, record in record_by_id.items() if n not in verdicts}
        for opinion in self._opinions:
            requests = self._opinion_requests(opinion, examples, verdicts)
            outcomes = self.ledger.outcomes(list(requests.values()))
            for name, request in requests.items():
                reason = objection(opinion, outcomes[request], record_by_id[name])
                if reason:
                    verdicts[name] = replace(verdicts[name], reasons=(reason,))
        return verdicts

    def _first_verdicts(
        self, records: Mapping[str, Record], asks: Mapping[str, list[Ask]]
    ) -> dict[str, Verdict]:
        outcomes = self.ledger.outcomes([asks[key][0].request for key in records])
        return {key: judge(record, asks[key][:1], outcomes, self.settings) for key, record in records.items()}

    def _repairs(self, record: Record, ask: Ask, verdict: Verdict) -> Iterator[tuple[Ask, dict[str, Any]]]:
        """Yield what to ask for a record next, with the bodies; the keys are not known yet."""
        by_text = self.settings.prompt.plain and ask.lines == len(record.texts)
        reasons = [r for r in verdict.reasons if not r.startswith("endpoint")]
        dialogue = record.task == "dialogue"
        for number, texts in enumerate([(t,) for t in record.texts] if by_text else [record.texts], start=1):
            body = planning.body_of(
                texts, self.settings, lang=record.lang, dialogue=dialogue, reasons=reasons
            )
            yield Ask(record.key, number, "", 0, len(texts)), body

    def _opinion_requests(
        self, name: str, examples: Sequence[Example], verdicts: Mapping[str, Verdict]
    ) -> dict[str, str]:
        """Return by example id the keys of the requests for an opinion on every record that has passed."""
        passed = [(e, v.target) for e in examples if (v := verdicts[e.id]).target and not v.reasons]
        keys = self.ledger.add(opinion_request(name, e, target, self.settings) for e, target in passed)
        return {example.id: key for (example, _), key in zip(passed, keys, strict=True)}

    def _send(self, keys: Sequence[str], title: str) -> None:
        self.requests.update(keys)
        self.sent += ask_all(self.ledger, keys, self._sending, title=title, budget=self._budget)


# --- from a raw reply to a verdict ---


def read_lines(outcome: Outcome, count: int, *, plain: bool) -> tuple[list[str] | None, str]:
    """Return the ``count`` lines of a reply, or None and the reason."""
    if outcome.unusable:
        return None, outcome.unusable
    reply = str(outcome.answer)
    if plain:
        lines = read_numbered(reply, count)
    else:
        value = read_json_reply(reply)
        lines = value.get("translations")
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            return None, "refusal" if not value and any_pair.refuses(reply) else "not_json"
    if lines is None or len(lines) != count:
        return None, "wrong_number_of_items"
    return [line.strip() for line in lines], ""


def judge(
    record: Record, asks: Sequence[Ask], outcomes: Mapping[str, Outcome], settings: Settings
) -> Verdict:
    """Judge a record by its lines of a shared request, or by its own requests, and against the glossary."""
    target: list[str] = []
    for ask in asks:
        outcome = outcomes[ask.request]
        lines, reason = read_lines(outcome, ask.lines, plain=settings.prompt.plain)
        if lines is None:
            return Verdict(None, (reason,), outcome.answer)
        target += lines[ask.line : ask.line + len(record.texts)]
    reasons: dict[str, None] = {}
    for source, translated in zip(record.texts, target, strict=True):
        failed = any_pair.check(source, translated, source_lang=record.lang, target_lang=settings.to)
        reasons.update(dict.fromkeys(failed))
        if any(term.lower() not in translated.lower() for _, term in settings.terms([source])):
            reasons["glossary"] = None
    return Verdict(tuple(target), tuple(reasons))


# --- the files of a run ---


def _write(rounds: Rounds, examples: Iterable[Example], out: Path) -> tuple[dict[str, int], Counter[str]]:
    """Write the accepted and rejected rows; return the numbers of records, and the reasons."""
    reasons: Counter[str] = Counter()
    unique: set[int] = set()
    records = accepted = 0
    with (
        atomic_path(out / ACCEPTED) as accepted_path,
        atomic_path(out / REJECTED) as rejected_path,
        accepted_path.open("w", encoding="utf-8") as accepted_file,
        rejected_path.open("w", encoding="utf-8") as rejected_file,
    ):
        for group in batched(examples, AT_ONCE):
            verdicts = rounds.verdicts(group)
            for example in group:
                verdict = verdicts[example.id]
                record = record_of(example, rounds.settings)
                records += 1
                if planning.refusal(record, rounds.settings) is None:
                    unique.add(hash(record.key))
                if verdict.reasons or verdict.target is None:
                    source = [message.content for message in example.messages]
                    target = verdict.raw if verdict.target is None else verdict.target
                    row = {"id": example.id, "reasons": verdict.reasons, "source": source, "target": target}
                    reasons.update(reason_names(row))
                else:
                    accepted += 1
                    row = to_dict(_translated(example, record.texts, verdict.target, rounds.settings))
                file = rejected_file if verdict.reasons else accepted_file
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return {"records": records, "unique_records": len(unique), "accepted": accepted}, reasons


def _translated(
    example: Example, source: Sequence[str], target: Sequence[str], settings: Settings
) -> Example:
    translation = dict(zip(source, target, strict=True))
    turns = zip(example.messages, target, strict=False)
    messages = tuple(Message(message.role, text) for message, text in turns)
    answers = tuple(translation[answer] for answer in example.answers)
    if example.task == "vqa" and not answers:
        answers = tuple([message.content for message in messages if message.role == "assistant"][-1:])
    provenance = Provenance(
        origin="forge",
        translated_from=example.id,
        model=settings.model,
        prompt_hash=settings.prompt.hash,
        checks=any_pair.names(example.lang, settings.to),
    )
    name, to = f"{example.id}:{settings.to}", settings.to
    return example.with_messages(messages, id=name, lang=to, answers=answers, provenance=provenance)

"""The rounds of a translation over one ledger: together, then alone, then what others say of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ziya_visual.core.log import progress
from ziya_visual.core.records import Example
from ziya_visual.forge import review
from ziya_visual.forge.ask import batch_api
from ziya_visual.forge.ask.client import ask_all
from ziya_visual.forge.ask.ledger import Ask, Ledger
from ziya_visual.forge.planning import (
    Record,
    Settings,
    askable,
    batched,
    body_of,
    plan_first,
    record_of,
    refusal,
    vetted,
)
from ziya_visual.forge.replies import Verdict, judge_own, judge_shared

AT_ONCE = 500  # examples whose answers are held together


class Job:
    """The rounds over one open ledger. ``used`` are the keys of all requests that serve the records."""

    def __init__(
        self, ledger: Ledger, settings: Settings, sending: dict[str, Any], *, use_batches: bool
    ) -> None:
        self.ledger = ledger
        self.settings = settings
        self.used: set[str] = set()
        self.sent = 0
        self._sending = sending
        self._use_batches = use_batches
        self._reviews: list[str] = []

    def first(self, examples: Iterable[Example], texts_per_request: int) -> None:
        """Plan and send the shared requests."""
        records = askable(vetted(examples), self.settings)
        self._send(plan_first(self.ledger, records, self.settings, texts_per_request), "forge translate")

    def repair(self, examples: Iterable[Example]) -> None:
        """Ask for each record that did not pass by itself, or text by text where no prompt could differ."""
        keys: list[str] = []
        for records in self._records(examples):
            asks = self.ledger.planned(list(records))
            unreadable: dict[str, str] = {}
            bodies: list[tuple[str, dict[str, Any]]] = []
            for key, verdict in self._first_verdicts(records, asks).items():
                if verdict.target is None and not verdict.reasons[0].startswith("not_sent"):
                    unreadable[asks[key][0].request] = verdict.reasons[0]
                if verdict.repairable and len(asks[key]) == 1:
                    bodies += [(key, body) for body in self._repairs(records[key], asks[key][0], verdict)]
                elif verdict.repairable:
                    keys += [ask.request for ask in asks[key][1:]]
            self.ledger.reject(unreadable)
            keys += self._plan(records, bodies)
        self._send(keys, "forge repair")

    def review(self, examples: Iterable[Example], name: str) -> None:
        """Ask for one more opinion on every record that passed so far."""
        keys: list[str] = []
        for group in batched(examples, AT_ONCE):
            verdicts = self.verdicts(group)
            passed = [
                (e, v.target) for e in group if (v := verdicts.get(e.id)) and v.target and not v.reasons
            ]
            keys += self.ledger.add(review.body(name, e, target, self.settings) for e, target in passed)
        self._reviews.append(name)
        self._send(keys, f"forge {name}")

    def _plan(self, records: Mapping[str, Record], bodies: list[tuple[str, dict[str, Any]]]) -> list[str]:
        keys = self.ledger.add(body for _, body in bodies)
        rounds: Counter[str] = Counter()
        asks = []
        of_record = Counter(record for record, _ in bodies)
        for (record, _), key in zip(bodies, keys, strict=True):
            rounds[record] += 1
            lines = len(records[record].texts) // of_record[record]
            asks.append(Ask(record, rounds[record], key, 0, lines))
        self.ledger.plan(asks)
        return keys

    def _repairs(self, record: Record, ask: Ask, verdict: Verdict) -> Iterator[dict[str, Any]]:
        by_text = self.settings.prompt.plain and ask.lines == len(record.texts)
        for unit in [(text,) for text in record.texts] if by_text else [record.texts]:
            yield body_of(
                unit,
                self.settings,
                lang=record.lang,
                dialogue=record.task == "dialogue",
                reasons=[r for r in verdict.reasons if not r.startswith("endpoint")],
            )

    def _send(self, keys: Sequence[str], title: str) -> None:
        self.used.update(keys)
        total = len(set(keys))
        send = batch_api.ask_all if self._use_batches else ask_all
        with progress(title, total, done=total - len(self.ledger.waiting(keys))) as bar:
            self.sent += send(self.ledger, keys, on_done=lambda outcome: bar.advance(), **self._sending)

    def _records(self, examples: Iterable[Example]) -> Iterator[dict[str, Record]]:
        for group in batched(examples, AT_ONCE):
            yield {record.key: record for record in askable(group, self.settings)}

    def _first_verdicts(
        self, records: Mapping[str, Record], asks: Mapping[str, list[Ask]]
    ) -> dict[str, Verdict]:
        outcomes = self.ledger.outcomes([asks[key][0].request for key in records])
        return {
            key: judge_shared(
                record,
                outcomes[asks[key][0].request],
                self.settings,
                line=asks[key][0].line,
                lines=asks[key][0].lines,
            )
            for key, record in records.items()
        }

    def verdicts(self, examples: Sequence[Example]) -> dict[str, Verdict]:
        """By example id; an example that could not be asked for has one too."""
        of = {e.id: record_of(e, self.settings) for e in examples}
        refused = {name: reason for name, record in of.items() if (reason := refusal(record, self.settings))}
        of = {name: record for name, record in of.items() if name not in refused}
        records = {record.key: record for record in of.values()}
        asks = self.ledger.planned(list(records))
        found = self._first_verdicts(records, asks)
        unreadable: dict[str, str] = {}
        for key, verdict in found.items():
            own = [ask.request for ask in asks[key][1:]]
            if verdict.repairable and own:
                outcomes = self.ledger.outcomes(own)
                found[key] = judge_own(records[key], [outcomes[name] for name in own], self.settings)
                if found[key].target is None and not found[key].reasons[0].startswith("not_sent"):
                    unreadable.update(dict.fromkeys(own, found[key].reasons[0]))
        self.ledger.reject(unreadable)
        verdicts = {name: found[record.key] for name, record in of.items()}
        verdicts |= {name: Verdict(None, (reason,)) for name, reason in refused.items()}
        return self._reviewed(examples, verdicts)

    def _reviewed(self, examples: Sequence[Example], verdicts: dict[str, Verdict]) -> dict[str, Verdict]:
        for name in self._reviews:
            passed = [(e, t) for e in examples if (t := verdicts[e.id].target) and not verdicts[e.id].reasons]
            keys = self.ledger.add(review.body(name, e, target, self.settings) for e, target in passed)
            outcomes = self.ledger.outcomes(keys)
            for (example, target), key in zip(passed, keys, strict=True):
                reason = review.judge(name, outcomes[key], record_of(example, self.settings), self.settings)
                if reason:
                    verdicts[example.id] = Verdict(target, (reason,))
        return verdicts

"""From a raw reply to a verdict: the lines of a translation, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ziya_visual.forge.ask.ledger import Outcome
from ziya_visual.forge.checks import any_pair
from ziya_visual.forge.planning import Record, Settings
from ziya_visual.forge.prompting import read_json_reply, read_numbered

WRONG_NUMBER = "wrong_number_of_items"
NOT_SENT = "not_sent"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A record's translation, or what came instead, with the reasons against it."""

    target: tuple[str, ...] | None
    reasons: tuple[str, ...]
    raw: str | None = None

    @property
    def repairable(self) -> bool:
        """Whether asking once more may help: what the endpoint failed at is for the next run."""
        return bool(self.reasons) and not self.reasons[0].startswith(("endpoint_failed", NOT_SENT))


def read_lines(outcome: Outcome, count: int, *, plain: bool) -> tuple[list[str] | None, str]:
    """The reply's ``count`` lines, or None and the reason."""
    if outcome.state in ("pending", "in_flight"):
        return None, f"{NOT_SENT}: budget"
    if outcome.answer is None:
        return None, f"endpoint_{outcome.state}: {outcome.reason}"
    if outcome.finish_reason == "length":
        return None, "truncated"
    if plain:
        lines = read_numbered(outcome.answer, count)
    else:
        value = read_json_reply(outcome.answer)
        if value is None:
            return None, "refusal" if any_pair.refuses(outcome.answer) else "not_json"
        lines = value.get("translations") if isinstance(value, dict) else None
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            return None, "not_json"
    if lines is None or len(lines) != count:
        return None, WRONG_NUMBER
    return [line.strip() for line in lines], ""


def judge_shared(record: Record, outcome: Outcome, settings: Settings, *, line: int, lines: int) -> Verdict:
    """The verdict on a record whose texts start at ``line`` of the ``lines`` of a shared request."""
    found, reason = read_lines(outcome, lines, plain=settings.prompt.plain)
    if found is None:
        return Verdict(None, (reason,), outcome.answer)
    return judge_texts(record, tuple(found[line : line + len(record.texts)]), settings)


def judge_own(record: Record, outcomes: Sequence[Outcome], settings: Settings) -> Verdict:
    """The verdict on a record's own requests: one for all its texts, or one a text."""
    each = len(record.texts) // len(outcomes)
    target: list[str] = []
    for outcome in outcomes:
        lines, reason = read_lines(outcome, each, plain=settings.prompt.plain)
        if lines is None:
            return Verdict(None, (reason,), outcome.answer)
        target += lines
    return judge_texts(record, tuple(target), settings)


def judge_texts(record: Record, target: tuple[str, ...], settings: Settings) -> Verdict:
    """Every text of a record against its translation, and against the glossary."""
    reasons: dict[str, None] = {}
    for source, translated in zip(record.texts, target, strict=True):
        found = any_pair.check(source, translated, source_lang=record.lang, target_lang=settings.to)
        reasons.update(dict.fromkeys(found))
        if any(said.lower() not in translated.lower() for _, said in settings.terms([source])):
            reasons["glossary"] = None
    return Verdict(target, tuple(reasons))

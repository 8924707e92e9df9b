"""A made dialogue: read from a reply, and judged by what its picture is known to show."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ziya_visual.core.records import Box, Message
from ziya_visual.forge.ask.ledger import Outcome
from ziya_visual.forge.checks import any_pair
from ziya_visual.forge.prompting import read_json_reply
from ziya_visual.forge.replies import NOT_SENT

FALSE_PREMISE, GROUNDED = "false_premise", "grounded"
CHECKS = (
    "language", "refusal", "repetition", "placeholders", "mentions_source", "same_question", "boxes",
)  # fmt: skip
_SOURCE_WORDS = re.compile(
    r"\bcaptions?\b|\bbounding box|\bthe descriptions?\b|\bcoordinates?\b|根据描述|描述中|标题"
    r"|说明文字|坐标|边界框",
    re.IGNORECASE,
)
_BOX = re.compile(r"\[\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*\]")


def read_dialogue(
    outcome: Outcome, lang: str, *, kind: str = "conversation", boxes: Sequence[Box] = ()
) -> tuple[tuple[Message, ...], list[str]]:
    """The dialogue in a reply, and the reasons against it (then the dialogue may be empty)."""
    if outcome.state in ("pending", "in_flight"):
        return (), [f"{NOT_SENT}: budget"]
    if outcome.answer is None:
        return (), [f"endpoint_{outcome.state}: {outcome.reason}"]
    if outcome.finish_reason == "length":
        return (), ["truncated"]
    value = read_json_reply(outcome.answer)
    turns = value.get("turns") if isinstance(value, dict) else None
    if not isinstance(turns, list) or not turns:
        return (), ["refusal" if any_pair.refuses(outcome.answer) else "not_json"]
    messages: list[Message] = []
    for turn in turns:
        pair = (turn.get("question"), turn.get("answer")) if isinstance(turn, dict) else (None, None)
        if not all(isinstance(text, str) and text.strip() for text in pair):
            return (), ["turn_without_question_or_answer"]
        messages += [Message("user", str(pair[0]).strip()), Message("assistant", str(pair[1]).strip())]
    return tuple(messages), _judge(messages, lang, kind, boxes)


def _judge(messages: Sequence[Message], lang: str, kind: str, boxes: Sequence[Box]) -> list[str]:
    texts = [message.content for message in messages]
    questions = [message.content for message in messages if message.role == "user"]
    found = {
        "language": not all(any_pair.in_language(text, lang) for text in texts),
        "refusal": kind != FALSE_PREMISE and any(any_pair.refuses(text) for text in texts),
        "repetition": any(any_pair.repeats(text) for text in texts),
        "placeholders": any("<image>" in text for text in texts),
        "mentions_source": any(_SOURCE_WORDS.search(text) for text in texts),
        "same_question": len(set(questions)) < len(questions),
        "boxes": not _boxes_are_given(texts, boxes, needed=kind == GROUNDED),
    }
    assert tuple(found) == CHECKS
    return [reason for reason, holds in found.items() if holds]


def _boxes_are_given(texts: Sequence[str], boxes: Sequence[Box], *, needed: bool) -> bool:
    """Whether every box that is named is one of the picture's, and one is named where that is the point."""
    named = [tuple(map(float, match)) for text in texts for match in _BOX.findall(text)]
    known = {tuple(map(float, box.xyxy)) for box in boxes}
    return known.issuperset(named) and (bool(named) or not needed)

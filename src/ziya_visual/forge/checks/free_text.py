"""Do two freely translated texts contradict each other? English and Chinese, in either direction.

People translate freely, so a concept that is missing is no fault by itself. A fault is a swap: one text says
``left``, the other lacks it and says ``right``, which the first lacks. Long texts are compared sentence by
sentence.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ziya_visual.forge.checks.dictionary import Dictionary
from ziya_visual.forge.checks.free_numbers import numbers_differ

_FILE = Path(__file__).parent / "concepts.yaml"
_NUMERAL = r"[\d零〇一二两俩三四五六七八九十百千万亿半几多余数]\s*(?:多|余|来)?"
MAX_WORDS = 45  # a longer piece says too much of everything to be compared
REASONS = {
    "colour": "color", "horizontal": "direction", "vertical": "direction", "depth": "direction",
    "north_south": "direction", "east_west": "direction", "inside": "direction", "size": "size",
    "amount": "amount", "sex": "who", "rank": "amount", "weekday": "date", "season": "date", "units": "units",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Concept:
    """Patterns of one concept."""

    sure: re.Pattern[str]
    maybe: re.Pattern[str]
    zh: tuple[str, ...]
    maybe_zh: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Concepts:
    """The file, compiled."""

    groups: Mapping[str, Mapping[str, Concept]]
    negative: re.Pattern[str]
    not_negative: re.Pattern[str]
    deny: re.Pattern[str]
    maybe_negative: re.Pattern[str]
    zh_negative: re.Pattern[str]
    zh_firm: re.Pattern[str]
    zh_deny: re.Pattern[str]
    zh_neutral: re.Pattern[str]

    @staticmethod
    @functools.cache
    def load() -> Concepts:
        """Read the file beside this one, once."""
        data: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
        negation = data.pop("negation")
        return Concepts(
            groups={
                group: {name: _concept(spec) for name, spec in concepts.items()}
                for group, concepts in data.items()
            },
            negative=_words(_list(negation["en"])),
            not_negative=_words(_list(negation["not_negative"])),
            deny=_words(_list(negation["en_deny"])),
            maybe_negative=_words(_list(negation["en_deny"]) + _list(negation["en_maybe"])),
            zh_negative=re.compile("|".join(_list(negation["zh"]))),
            zh_firm=re.compile("|".join(_list(negation["zh_firm"]))),
            zh_deny=re.compile("|".join(_list(negation["zh_deny"]))),
            zh_neutral=re.compile("|".join(sorted(_list(negation["zh_neutral"]), key=len, reverse=True))),
        )


def _list(words: str | None) -> list[str]:
    return words.split(", ") if words else []


def _concept(spec: Mapping[str, Any]) -> Concept:
    sure = _list(spec["en"])
    maybe = [*sure, *_list(spec.get("en_maybe"))]
    zh = tuple(_list(spec["zh"]))
    return Concept(_words(sure), _words(maybe), zh, (*zh, *_list(spec.get("maybe_zh"))))


def _words(patterns: Iterable[str]) -> re.Pattern[str]:
    parts = [rf"(?<![a-z]){p}(?![a-z])" if p[-1].isalnum() or p[-1] in "*?})" else p for p in patterns]
    return re.compile("|".join(parts), re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Place:
    """An English sentence and the Chinese that it should be, each alone and with what stands around it."""

    english: str
    chinese: str
    english_around: str
    chinese_around: str


def contradictions(english: str, chinese: str) -> list[str]:
    """Reasons why a Chinese and an English text do not say the same; each once."""
    english = english.replace("’", "'")
    found: dict[str, None] = {}
    for place in _places(english, chinese):
        if len(place.english.split()) <= MAX_WORDS:
            found.update(dict.fromkeys(_swaps(place)))
            alone = place.english == place.english_around
            if alone and _negation_differs(place.english, place.chinese):
                found["negation"] = None
    if numbers_differ(english, chinese):
        found["numbers"] = None
    return list(found)


def _places(english: str, chinese: str) -> list[Place]:
    """As many sentences on both sides belong to each other; else those at about the same place."""
    ours = [s for s in re.split(r"(?<=[.!?])[\"'”)]*\s+(?=[\"'“(]?[A-Z\d])", english) if s.strip()]
    theirs = [s for s in re.split(r"(?<=[。！？!?])[”’\"）]*", chinese) if s.strip()]
    if len(ours) == len(theirs):
        return [Place(a, b, a, b) for a, b in zip(ours, theirs, strict=True)]
    if min(len(ours), len(theirs)) < 2:
        return [Place(english, chinese, english, chinese)]
    starts, ends = _shares(theirs)
    places = []
    for i, (start, end) in enumerate(zip(*_shares(ours), strict=True)):
        here = [j for j in range(len(theirs)) if starts[j] < end and ends[j] > start]
        around = theirs[max(0, here[0] - 1) : here[-1] + 2]
        core = "".join(theirs[here[0] : here[-1] + 1])
        places.append(Place(ours[i], core, " ".join(ours[max(0, i - 1) : i + 2]), "".join(around)))
    return places


def _shares(sentences: list[str]) -> tuple[list[float], list[float]]:
    """Where each sentence starts and ends, as shares of the text."""
    ends = [sum(map(len, sentences[: n + 1])) / sum(map(len, sentences)) for n in range(len(sentences))]
    return [0.0, *ends[:-1]], ends


def _swaps(place: Place) -> list[str]:
    groups = Concepts.load().groups.items()
    return [REASONS[group] for group, concepts in groups if _swapped(group, concepts, place)]


def _swapped(group: str, concepts: Mapping[str, Concept], place: Place) -> bool:
    said = {name for name, c in concepts.items() if c.sure.search(place.english)}
    lacking = {name for name in said if not _may_say(group, concepts[name], place.chinese_around)}
    if not lacking:
        return False
    return any(
        name not in said
        and _says(group, concept, place.chinese)
        and not concept.maybe.search(place.english_around)
        for name, concept in concepts.items()
    )


def _may_say(group: str, concept: Concept, chinese: str) -> bool:
    if group != "units":
        return any(word in chinese for word in concept.maybe_zh)
    return any(word in chinese if len(word) > 1 else _measured(word, chinese) for word in concept.maybe_zh)


def _says(group: str, concept: Concept, chinese: str) -> bool:
    if group == "units":
        return any(_measured(word, chinese) for word in concept.zh)
    return any(_means(word, concept, chinese) for word in concept.zh)


def _measured(unit: str, chinese: str) -> bool:
    """Whether a number stands before a unit; ``2011年`` is a date."""
    if unit == "年" and re.search(r"\d{4}年|[零〇一二三四五六七八九]{4}年", chinese):
        return False
    if unit in ("%", "％"):
        return unit in chinese
    if unit in ("百分", "千分之", "人民币"):
        return unit in chinese
    return bool(re.search(rf"{_NUMERAL}(?:平方|立方)?个?{unit}(?![轻龄级])", chinese))


def _means(word: str, concept: Concept, chinese: str) -> bool:
    """Whether ``word`` stands by itself, or in a word of the dictionary that means the concept."""
    if word not in chinese:
        return False
    if len(word) > 1:
        return True
    holders = [w for w in Dictionary.load().words(chinese) if word in w.text]
    return any(w.text == word or (not w.name and concept.maybe.search(w.gloss)) for w in holders)


def _negation_differs(english: str, chinese: str) -> bool:
    """A firm "not" on one side, and nothing like it on the other."""
    concepts = Concepts.load()
    plain = concepts.not_negative.sub(" _ ", english)
    ours = bool(concepts.negative.search(plain))
    masked = _without(chinese, long_words=True)
    masked = concepts.zh_neutral.sub(lambda m: "　" * len(m.group()), masked)
    if ours:
        return not concepts.zh_deny.search(_without(chinese, long_words=False))
    if not concepts.zh_negative.search(masked) or plain != english:
        return False
    cues = concepts.deny if concepts.zh_firm.search(masked) else concepts.maybe_negative
    return not cues.search(english)


def _without(chinese: str, *, long_words: bool) -> str:
    """The text with names blanked, and with ``long_words`` sayings of four characters and more too."""
    for w in Dictionary.load().words(chinese):
        if w.name or (long_words and len(w.text) >= 4):
            chinese = chinese[: w.start] + "　" * len(w.text) + chinese[w.end :]
    return chinese

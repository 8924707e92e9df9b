"""Closed English texts, whose every word the lexicon knows, compared strictly with their Chinese.

Every concept must occur equally often on both sides, attributes must stay with their nouns, and nouns must
keep their roles. Any other text is compared by :mod:`ziya_visual.forge.checks.free_text`.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ziya_visual.forge.checks.numbers import Numbers, read_numbers

_FILE = Path(__file__).parent / "lexicon.yaml"
_CLOSED_MAX_WORDS = 60


@dataclass(frozen=True, slots=True)
class Sense:
    """One meaning of a word."""

    category: str
    concept: str
    strong: bool


@dataclass(frozen=True, slots=True)
class Mention:
    """A word of the text, its span, and its senses (several if it is ambiguous)."""

    start: int
    end: int
    senses: tuple[Sense, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """The words of one text that the lexicon knows."""

    text: str
    lang: str
    mentions: tuple[Mention, ...]
    numbers: Numbers
    closed: bool

    def count(self, *, category: str, strong: bool = False) -> Counter[str]:
        """Count the mentions of each concept of a category; with ``strong``, only by unambiguous words."""
        return Counter(
            s.concept
            for m in self.mentions
            for s in m.senses
            if s.category == category and (s.strong or not strong)
        )


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The lexicon file, indexed by language: surface form -> senses."""

    categories: tuple[str, ...]
    attributes: frozenset[str]
    heads: frozenset[str]
    grounds: Mapping[str, tuple[str, ...]]
    plain: frozenset[str]
    plain_characters: frozenset[str]
    senses: Mapping[str, Mapping[str, tuple[Sense, ...]]]
    patterns: Mapping[str, re.Pattern[str]]

    @staticmethod
    @functools.cache
    def load() -> Lexicon:
        """Read the lexicon beside this file once."""
        data: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
        senses = {lang: _index(data, lang) for lang in ("en", "zh")}
        return Lexicon(
            categories=tuple(data["categories"]),
            attributes=frozenset(data["attributes"]),
            heads=frozenset(data["heads"]),
            grounds={lang: tuple(words) for lang, words in data["grounds"].items()},
            plain=frozenset(data["plain"]["en"]),
            plain_characters=frozenset(data["plain"]["zh"]),
            senses=senses,
            patterns={lang: _pattern(lang, senses[lang]) for lang in senses},
        )

    def read(self, text: str, lang: str) -> Reading:
        """Find the lexicon's words in a text in ``en`` or ``zh``."""
        whole = self.senses[lang].get("=" + text.strip())
        mentions = []
        for match in self.patterns[lang].finditer(text):
            senses = whole or self.senses[lang][_surface(match, lang)]
            if lang == "en" and _is_name(text, match):
                senses = tuple(Sense(s.category, s.concept, False) for s in senses)
            mentions.append(Mention(match.start(), match.end(), senses))
        if whole and not mentions:
            mentions = [Mention(0, len(text), whole)]
        # 三角形 and 一起 say no number.
        masked = _mask(text, mentions) if lang == "zh" else text
        numbers = read_numbers(masked, lang)[0]
        closed = lang == "en" and self._is_closed(text, mentions, numbers)
        return Reading(text, lang, tuple(mentions), numbers, closed)

    def _is_closed(self, text: str, mentions: list[Mention], numbers: Numbers) -> bool:
        words = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", _mask(text, mentions).lower())
        if any(len({s.concept for s in m.senses}) > 1 for m in mentions) or len(words) > _CLOSED_MAX_WORDS:
            return False
        unknown = [word for word in words if word not in self.plain and not read_numbers(word, "en")[0]]
        return not unknown and bool(numbers or any(m.senses for m in mentions) or "one" in words)


def _index(data: Mapping[str, Any], lang: str) -> dict[str, tuple[Sense, ...]]:
    index: dict[str, tuple[Sense, ...]] = {str(word): () for word in data["neutral"][lang]}

    def add(words: Iterable[str], sense: Sense) -> None:
        for word in words:
            index[str(word)] = (*index.get(str(word), ()), sense)

    for name, category in data["categories"].items():
        for concept, by_lang in category.items():
            for force in ("strong", "weak"):
                add(by_lang[lang][force], Sense(name, concept, force == "strong"))
    for force in ("strong", "weak"):
        add(data["negation"][lang][force], Sense("negation", "not", force == "strong"))
    if lang == "en":
        index["n't"] = (Sense("negation", "not", True),)
    return index


def _pattern(lang: str, index: Mapping[str, Any]) -> re.Pattern[str]:
    words = sorted((word for word in index if not word.startswith("=")), key=len, reverse=True)
    alternatives = "|".join(re.escape(word) for word in words if word != "n't")
    if lang == "zh":
        return re.compile(alternatives)
    return re.compile(rf"\b({alternatives})(?:s|es)?\b|(?<=\w)(n['’]t)\b", re.IGNORECASE)


def _surface(match: re.Match[str], lang: str) -> str:
    if lang == "zh":
        return match.group()
    return match.group(1).lower() if match.group(1) else "n't"


def _is_name(text: str, match: re.Match[str]) -> bool:
    """Return whether a match has a capital in the middle of a sentence: Red Sox."""
    before = text[: match.start()].rstrip(" \"'“‘(")
    return match.group()[0].isupper() and bool(before) and before[-1] not in ".!?:\n"


def _mask(text: str, mentions: list[Mention]) -> str:
    for m in mentions:
        text = text[: m.start] + " " * (m.end - m.start) + text[m.end :]
    return text


# --- comparing two readings ---


def compare_closed(english: Reading, chinese: Reading) -> list[str]:
    """Return the reasons why a closed English text and a Chinese text do not say the same."""
    lexicon = Lexicon.load()
    reasons = [
        category
        for category in lexicon.categories
        if english.count(category=category) != chinese.count(category=category)
    ]
    negations = [side.count(category="negation", strong=True) for side in (english, chinese)]
    if negations[0] != negations[1]:
        reasons.append("negation")
    one = re.fullmatch(r"\W*(?:one|1)\W*", english.text, re.IGNORECASE)
    if english.numbers != chinese.numbers or (one and not re.search("[一1１]", chinese.text)):
        reasons.append("numbers")
    reasons = reasons or _slips(lexicon, english.text, chinese)
    if reasons:
        return reasons
    ours, theirs = _groups(lexicon, english), _groups(lexicon, chinese)
    if Counter(group for group, _ in ours) != Counter(group for group, _ in theirs):
        return ["grouping"]
    our_grounds, their_grounds = ([g for g, ground in side if ground] for side in (ours, theirs))
    if our_grounds and their_grounds:
        return ["order"] if Counter(our_grounds) != Counter(their_grounds) else []
    if not our_grounds and not their_grounds and [g for g, _ in ours] != [g for g, _ in theirs]:
        return ["order"]
    return []


def _slips(lexicon: Lexicon, english: str, chinese: Reading) -> list[str]:
    """Return a reason for unusual characters, stutter or a missing end, which a simple text never needs."""
    rest = re.findall(r"[\u4e00-\u9fff]", _mask(chinese.text, list(chinese.mentions)))
    if not lexicon.plain_characters.issuperset(rest):
        return ["unknown_words"]
    if re.search(r"(\w{2,5})\1|([个的边色是有在一小大])\2", chinese.text):
        return ["repetition"]
    ended = [bool(re.search(r"[.?!。？！]$", text.strip())) for text in (english, chinese.text)]
    return ["truncated"] if ended == [True, False] else []


def _groups(lexicon: Lexicon, reading: Reading) -> list[tuple[frozenset[str], bool]]:
    """Return noun groups in order (``{red, small, star}``), each with whether it is a reference point."""
    groups: list[tuple[frozenset[str], bool]] = []
    held: list[str] = []
    start = 0
    for mention in reading.mentions:
        for sense in mention.senses:
            if sense.category in lexicon.attributes | lexicon.heads and not held:
                start = mention.start
            if sense.category in lexicon.attributes:
                held.append(sense.concept)
            elif sense.category in lexicon.heads:
                groups.append((frozenset([*held, sense.concept]), _is_ground(lexicon, reading, start)))
                held = []
    return groups + [(frozenset([concept]), False) for concept in held]


def _is_ground(lexicon: Lexicon, reading: Reading, start: int) -> bool:
    before = reading.text[:start].lower().rstrip()
    articles = r"\s+(?:the|an|a)$" if reading.lang == "en" else r"(?:一个|这个|那个)$"
    before = re.sub(articles, "", before)
    return before.endswith(lexicon.grounds[reading.lang])

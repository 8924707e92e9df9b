"""Closed English texts, whose every word the lexicon knows, compared strictly with their Chinese.

Every concept must occur equally often on both sides, attributes must stay with their nouns, and nouns must
keep their roles. Any other text is compared by :mod:`ziya_visual.forge.checks.free_text`.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from ziya_visual.forge.checks.dictionary import blank, starts_sentence, tables
from ziya_visual.forge.checks.numbers import Numbers, read_numbers

_LEXICON = tables("lexicon.yaml")
_CLOSED_MAX_WORDS = 60


class Sense(NamedTuple):
    """One meaning of a word."""

    category: str
    concept: str
    strong: bool


class Mention(NamedTuple):
    """A word of the text, its span, and its senses (several if it is ambiguous)."""

    span: tuple[int, int]
    senses: tuple[Sense, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """The words of one text that the lexicon knows."""

    text: str
    lang: str
    mentions: tuple[Mention, ...]
    numbers: Numbers
    closed: bool

    def count(self, category: str, *, strong: bool = False) -> Counter[str]:
        """Count the mentions of each concept of a category; with ``strong``, only by unambiguous words."""
        senses = (sense for mention in self.mentions for sense in mention.senses)
        return Counter(s.concept for s in senses if s.category == category and (s.strong or not strong))


def read(text: str, lang: str) -> Reading:
    """Find the lexicon's words in a text in ``en`` or ``zh``."""
    index = _index(lang)
    whole = index.get("=" + text.strip())
    mentions = []
    for match in _pattern(lang).finditer(text):
        surface = match.group() if lang == "zh" else (match.group(1) or "n't").lower()
        senses = whole or index[surface]
        named = lang == "en" and match.group()[0].isupper() and not starts_sentence(text, match.start())
        if named:  # Red Sox
            senses = tuple(Sense(s.category, s.concept, False) for s in senses)
        mentions.append(Mention(match.span(), senses))
    if whole and not mentions:
        mentions = [Mention((0, len(text)), whole)]
    rest = blank(text, [mention.span for mention in mentions])
    numbers = read_numbers(rest if lang == "zh" else text, lang)[0]  # 三角形 and 一起 say no number
    closed = lang == "en" and _is_closed(rest, mentions, numbers)
    return Reading(text, lang, tuple(mentions), numbers, closed)


def _is_closed(rest: str, mentions: list[Mention], numbers: Numbers) -> bool:
    """Return whether everything is known of an English text with these mentions and this rest."""
    words = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", rest.lower())
    if any(len({s.concept for s in m.senses}) > 1 for m in mentions) or len(words) > _CLOSED_MAX_WORDS:
        return False
    plain = _LEXICON["plain"]["en"]
    unknown = [word for word in words if word not in plain and not read_numbers(word, "en")[0]]
    return not unknown and bool(numbers or any(m.senses for m in mentions) or "one" in words)


@functools.cache
def _index(lang: str) -> dict[str, tuple[Sense, ...]]:
    """Return the senses of every word of the lexicon."""
    index: dict[str, tuple[Sense, ...]] = {str(word): () for word in _LEXICON["neutral"][lang]}
    entries = [
        (name, concept, words[lang])
        for name, group in _LEXICON["categories"].items()
        for concept, words in group.items()
    ]
    for category, concept, words in [*entries, ("negation", "not", _LEXICON["negation"][lang])]:
        for force in ("strong", "weak"):
            for word in map(str, words[force]):
                index[word] = (*index.get(word, ()), Sense(category, concept, force == "strong"))
    if lang == "en":
        index["n't"] = (Sense("negation", "not", True),)
    return index


@functools.cache
def _pattern(lang: str) -> re.Pattern[str]:
    """Return a pattern that matches every word of the lexicon, the longest first."""
    words = [re.escape(word) for word in _index(lang) if not word.startswith("=") and word != "n't"]
    alternatives = "|".join(sorted(words, key=len, reverse=True))
    if lang == "zh":
        return re.compile(alternatives)
    return re.compile(rf"\b({alternatives})(?:s|es)?\b|(?<=\w)(n['’]t)\b", re.IGNORECASE)


def compare_closed(english: Reading, chinese: Reading) -> list[str]:
    """Return the reasons why a closed English text and a Chinese text do not say the same."""
    reasons = [name for name in _LEXICON["categories"] if english.count(name) != chinese.count(name)]
    if english.count("negation", strong=True) != chinese.count("negation", strong=True):
        reasons.append("negation")
    only_one = re.fullmatch(r"\W*(?:one|1)\W*", english.text, re.IGNORECASE)
    if english.numbers != chinese.numbers or (only_one and not re.search("[一1１]", chinese.text)):
        reasons.append("numbers")
    reasons = reasons or _slips(english.text, chinese)
    if reasons:
        return reasons
    en_groups, zh_groups = _groups(english), _groups(chinese)
    if Counter(group for group, _ in en_groups) != Counter(group for group, _ in zh_groups):
        return ["grouping"]
    en_grounds, zh_grounds = ([g for g, ground in side if ground] for side in (en_groups, zh_groups))
    if en_grounds and zh_grounds:
        moved = Counter(en_grounds) != Counter(zh_grounds)
    else:
        moved = not (en_grounds or zh_grounds) and [g for g, _ in en_groups] != [g for g, _ in zh_groups]
    return ["order"] if moved else []


def _slips(english: str, chinese: Reading) -> list[str]:
    """Return a reason for unusual characters, stutter or a missing end, which a simple text never needs."""
    rest = re.findall(r"[\u4e00-\u9fff]", blank(chinese.text, [m.span for m in chinese.mentions]))
    if not set(_LEXICON["plain"]["zh"]).issuperset(rest):
        return ["unknown_words"]
    if re.search(r"(\w{2,5})\1|([个的边色是有在一小大])\2", chinese.text):
        return ["repetition"]
    ended = [bool(re.search(r"[.?!。？！]$", text.strip())) for text in (english, chinese.text)]
    return ["truncated"] if ended == [True, False] else []


def _groups(reading: Reading) -> list[tuple[frozenset[str], bool]]:
    """Return noun groups in order (``{red, small, star}``), each with whether it is a reference point."""
    attributes, heads, grounds = (
        _LEXICON["attributes"],
        _LEXICON["heads"],
        tuple(_LEXICON["grounds"][reading.lang]),
    )
    articles = r"\s+(?:the|an|a)$" if reading.lang == "en" else r"(?:一个|这个|那个)$"
    groups: list[tuple[frozenset[str], bool]] = []
    attributes_so_far: list[str] = []
    start = 0
    for mention in reading.mentions:
        for sense in mention.senses:
            if sense.category in (*attributes, *heads) and not attributes_so_far:
                start = mention.span[0]
            if sense.category in attributes:
                attributes_so_far.append(sense.concept)
            elif sense.category in heads:
                before = re.sub(articles, "", reading.text[:start].lower().rstrip())
                groups.append((frozenset([*attributes_so_far, sense.concept]), before.endswith(grounds)))
                attributes_so_far = []
    return groups + [(frozenset([concept]), False) for concept in attributes_so_far]

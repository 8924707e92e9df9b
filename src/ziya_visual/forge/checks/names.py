"""Names across languages: was a name of the English text exchanged for another in the Chinese?

A name is recognized by the dictionary (塞维利亚: Sevilla) or by sound (默克尔: mo ke er, Merkel). A fault
needs both: an English name without a counterpart, and a Chinese name that no English word accounts for.
"""

from __future__ import annotations

import functools
import re
import unicodedata

from ziya_visual.forge.checks.dictionary import Dictionary, Word, starts_sentence, word_list, word_map

# Consonants that transliteration keeps apart; the rest of a name is lost in it.
_ENGLISH = (
    (r"ph|gh(?=t)", "f"), (r"tch|sch|ch|sh|j", "s"), (r"th", "t"), (r"c(?=[eiy])|z|x", "s"),
    (r"ck|c|q|k|g", "k"), (r"r(?![aeiouy])", ""), (r"b|p", "p"), (r"d|t", "t"), (r"v|f|w", "f"),
    (r"r|l", "l"), (r"m", "n"), (r"[^fstkpln]", ""),
)  # fmt: skip
_PINYIN = (
    (r"zh|ch|sh|[jqxzcs]", "s"), (r"ng|n|m", "n"), (r"b|p", "p"), (r"d|t", "t"), (r"g|k", "k"), (r"w|f", "f"),
    (r"r|l", "l"), (r"[aeiouvyh]", ""),
)  # fmt: skip
_FOREIGN_RUN = re.compile(f"[{''.join(word_list('foreign'))}]{{2,}}")
_CAPITAL = re.compile(r"\b[A-Z][a-zA-Z'’-]+")


def name_differs(english: str, chinese: str) -> bool:
    """Return whether a name was exchanged for another."""
    names = _chinese_names(chinese)
    if not names or all(_belongs(name, english) for name in names):
        return False
    return any(not _rendered(name, chinese) for name in _english_names(english))


def _english_names(english: str) -> list[str]:
    """Return capitalized words, except common words at the start of a sentence."""
    names = []
    for match in _CAPITAL.finditer(english):
        word = match.group().removesuffix("'s")
        common = starts_sentence(english, match.start()) and is_common(word.lower())
        if not (word.isupper() or common or word.lower() in word_list("no_names")):
            names.append(word)
    return names


@functools.lru_cache(maxsize=20_000)
def is_common(word: str) -> bool:
    """Return whether glosses use a word in lower case, so that its capital at a start says nothing."""
    base = re.sub(r"(?:'s|ies|es|s|ed|ing)$", "", word)
    base = re.sub(r"([lptngmr])\1$", r"\1", base) if word.endswith(("ed", "ing")) else base
    return not {word, base, f"{base}e", f"{base}y"}.isdisjoint(_common_words())


@functools.cache
def _common_words() -> frozenset[str]:
    glosses = (gloss for gloss, name in Dictionary.load().entries.values() if not name)
    return frozenset(word for gloss in glosses for word in re.findall(r"(?<![A-Za-z])[a-z]+", gloss))


def _chinese_names(chinese: str) -> list[Word]:
    """Return names that the dictionary knows, and runs of transliterating characters that it does not."""
    words = Dictionary.load().words(chinese)
    runs = {i: len(match.group()) for match in _FOREIGN_RUN.finditer(chinese) for i in range(*match.span())}
    # 西亚 in 瓦伦西亚 is a piece of a name.
    names = [w for w in words if w.name and len(w.text) >= 2 and runs.get(w.span[0], 0) < 2 * len(w.text)]
    taken = {i for w in words if len(w.text) >= 2 for i in range(*w.span)}
    for match in _FOREIGN_RUN.finditer(chinese):
        if len(match.group()) >= 3 and not taken & set(range(*match.span())):
            names.append(Word(match.span(), match.group(), "", True))
    return names


def _belongs(word: Word, english: str) -> bool:
    """Return whether anything in the English accounts for a Chinese name."""
    low = _plain_letters(english.lower())
    low += " ".join(land for people, land in word_map("lands").items() if people in low)
    glosses = re.findall(r"\b[a-z]{3,}", _full_gloss(word).lower())
    if any(gloss[:4] in low for gloss in glosses if gloss not in word_list("gloss_fillers")):
        return True
    return any(_alike(_skeleton(w.lower()), _sound(word.text)) for w in _CAPITAL.findall(english))


@functools.lru_cache(maxsize=20_000)
def _full_gloss(word: Word) -> str:
    """Return a name's gloss and that of the name in it: 英国人 contains 英国."""
    inner = Dictionary.load().entries.get(word.text[:-1], ("", False))[0] if len(word.text) > 2 else ""
    return _plain_letters(f"{word.gloss}; {inner}")


def _plain_letters(text: str) -> str:
    """Remove accents: Ōsaka becomes Osaka."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def _rendered(name: str, chinese: str) -> bool:
    """Return whether the Chinese has an English name: unchanged, by the dictionary, or by its sound."""
    if name.lower() in chinese.lower():
        return True
    name = _plain_letters(name)
    key = word_map("lands").get(name.lower(), name.lower())[:4]
    words = Dictionary.load().words(chinese)
    if any(w.name and re.search(rf"\b{re.escape(key)}", _full_gloss(w).lower()) for w in words):
        return True
    wanted = _skeleton(name.lower())
    if not wanted:
        return True
    runs = [match.group() for match in _FOREIGN_RUN.finditer(chinese)]
    return any(
        _alike(wanted, _sound(run[start : start + n]))
        for run in runs
        for start in range(len(run))
        for n in range(1 if len(wanted) > 1 else 2, min(7, len(run) - start) + 1)
    )


def _skeleton(name: str) -> str:
    """Return a name's consonants in the classes that transliteration keeps: ``merkel`` -> ``nlkl``."""
    return _classes(name, _ENGLISH)


def _sound(chinese: str) -> str:
    """Return the same classes for Chinese characters by their Mandarin syllables; empty if one has none."""
    sounds = Dictionary.load().sounds
    syllables = [sounds.get(char, "") for char in chinese]
    return _classes("".join(syllables), _PINYIN) if all(syllables) else ""


@functools.lru_cache(maxsize=70_000)
def _classes(letters: str, table: tuple[tuple[str, str], ...]) -> str:
    """Rewrite letters by a table, and write neighbours of one class once."""
    for pattern, to in table:
        letters = re.sub(pattern, to, letters)
    return re.sub(r"(.)\1+", r"\1", letters)


def _alike(a: str, b: str) -> bool:
    """Return whether two skeletons are equal or, if they are long, differ in one or two classes."""
    if not a or not b:
        return False
    longest = max(len(a), len(b))
    return _distance(a, b) <= (0 if longest <= 3 else 1 if longest <= 6 else 2)


@functools.lru_cache(maxsize=100_000)
def _distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]

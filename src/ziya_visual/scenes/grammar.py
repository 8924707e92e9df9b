"""A small bilingual language about coloured shapes: says what a meaning is, and reads the meaning back.

A language is a data file (``language/en.yaml``, ``zh.yaml``): words and ten phrasings a task, of which the
last two are kept for evaluation. English and Chinese are rendered from the same :class:`Meaning`, so a
translation is right exactly if :func:`parse` reads the same meaning out of both sides.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SIZES = ("small", "large")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "white")
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "diamond", "pentagon", "ring", "crescent")
QUESTION_TYPES = ("color", "shape", "size", "count", "exist", "relation")
TASKS = ("caption", *QUESTION_TYPES)
PHRASINGS = 10
TRAIN_PHRASINGS = range(8)
EVAL_PHRASINGS = range(8, 10)

# Shape-colour pairs that nothing is trained on in a picture: each shape and colour is met in other pairs.
HELD_OUT = frozenset(
    {("circle", "green"), ("square", "purple"), ("triangle", "blue"), ("star", "red"), ("heart", "yellow"),
     ("cross", "orange"), ("diamond", "black"), ("pentagon", "white"), ("ring", "red"), ("crescent", "blue")}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Phrase:
    """A noun phrase: the attributes that are said; ``None`` is not said ("the red object" has no shape)."""

    size: str | None = None
    color: str | None = None
    shape: str | None = None


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a sentence says: its task, the things it names in order, and, in a reply, the value."""

    task: str
    things: tuple[Phrase, ...]
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Language:
    """The words, phrasings and replies of one language, and how it forms noun phrases."""

    lang: str
    words: dict[str, Any]
    phrasings: dict[str, list[str]]
    replies: dict[str, Any]

    @staticmethod
    @functools.cache
    def load(lang: str) -> Language:
        """Read ``language/<lang>.yaml``."""
        text = (Path(__file__).parent / "language" / f"{lang}.yaml").read_text(encoding="utf-8")
        data = yaml.safe_load(text)
        assert all(len(data["phrasings"][task]) == PHRASINGS for task in TASKS), lang
        return Language(lang, data["words"], data["phrasings"], data["replies"])

    def noun(self, phrase: Phrase, *, plural: bool = False) -> str:
        """``large red circle``, ``red objects``; ``大的红色圆形``, ``红色物体``."""
        size = self.words["size"][phrase.size] if phrase.size else ""
        color = self.words["color"][phrase.color] if phrase.color else ""
        noun = self.words["shape"][phrase.shape] if phrase.shape else self.words["object"]
        if self.lang == "zh":
            return f"{size}的{color}{noun}" if size else f"{color}{noun}"
        if plural:
            noun += "es" if noun.endswith("s") else "s"
        return " ".join(word for word in (size, color, noun) if word)

    def one(self, phrase: Phrase) -> str:
        """The phrase introduced: ``an orange star``, ``一个橙色星形``."""
        noun = self.noun(phrase)
        if self.lang == "zh":
            return f"一个{noun}"
        return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"

    def listed(self, phrases: Sequence[Phrase]) -> str:
        """``a red star, a blue ring and a black heart``; ``一个红色星形、一个蓝色圆环和一个黑色心形``."""
        ones = [self.one(phrase) for phrase in phrases]
        comma, last = ("、", "和") if self.lang == "zh" else (", ", " and ")
        return comma.join(ones[:-1]) + (last if len(ones) > 1 else "") + ones[-1]

    def slots(self, things: Sequence[Phrase]) -> dict[str, str]:
        """The text of every slot that a phrasing may hold."""
        article = "" if self.lang == "zh" else "the "
        first, second = things[0], things[-1]
        the = f"{article}{self.noun(first)}"
        return {
            "the": the,
            "The": the[0].upper() + the[1:],
            "other": f"{article}{self.noun(second)}",
            "a": self.one(first),
            "many": self.noun(first, plural=True),
            "list": self.listed(things),
        }

    def say(self, meaning: Meaning, phrasing: int) -> str:
        """The caption or question in phrasing 0-9."""
        return self.phrasings[meaning.task][phrasing].format(**self.slots(meaning.things))

    def answer(self, task: str, value: str) -> str:
        """The short answer: ``red``, ``两个``."""
        return str(self.words[task][value])

    def reply(self, meaning: Meaning) -> str:
        """The answer as a whole sentence; ``meaning.value`` must be given."""
        assert meaning.value is not None
        form = self.replies[meaning.task]
        if isinstance(form, dict):
            form = form.get(meaning.value) or form["other"]
        return str(form).format(value=self.answer(meaning.task, meaning.value), **self.slots(meaning.things))


def _alternatives(words: dict[str, str]) -> str:
    return "|".join(sorted(map(re.escape, words.values()), key=len, reverse=True))


@functools.cache
def _noun_pattern(lang: str) -> str:
    words = Language.load(lang).words
    size, color = _alternatives(words["size"]), _alternatives(words["color"])
    noun = f"{_alternatives(words['shape'])}|{words['object']}"
    if lang == "zh":
        return f"(?:一个)?(?:(?:{size})的)?(?:{color})?(?:{noun})"
    return f"(?:(?:the|a|an) )?(?:(?:{size}) )?(?:(?:{color}) )?(?:{noun})(?:es|s)?"


def read_phrase(text: str, lang: str) -> Phrase:
    """The attributes that a noun phrase names; words it does not know are ignored."""
    words = Language.load(lang).words
    found = {}
    for kind in ("size", "color", "shape"):
        for name, word in words[kind].items():
            pattern = re.escape(word) if lang == "zh" else rf"\b{re.escape(word)}(?:es|s)?\b"
            if re.search(pattern, text):
                found[kind] = name
    return Phrase(**found)


@functools.cache
def _sentence_patterns(lang: str) -> list[tuple[str, str | None, re.Pattern[str]]]:
    """(task, value of a reply or None, pattern with named groups) of every sentence the language has."""
    language = Language.load(lang)
    noun = _noun_pattern(lang)
    comma, last = ("、", "和") if lang == "zh" else (", ", " and ")
    many = f"{noun}(?:(?:{comma}{noun})*{last}{noun})?"
    patterns = []

    def add(task: str, value: str | None, form: str) -> None:
        pattern = re.escape(form).replace(r"\{", "{").replace(r"\}", "}")
        for slot in ("the", "The", "a", "many"):
            pattern = pattern.replace(f"{{{slot}}}", f"(?P<first>{noun})")
        pattern = pattern.replace("{other}", f"(?P<second>{noun})").replace("{list}", f"(?P<list>{many})")
        pattern = pattern.replace("{value}", f"(?P<value>{_alternatives(language.words.get(task, {}))})")
        patterns.append((task, value, re.compile(pattern, re.IGNORECASE)))

    for task, forms in language.phrasings.items():
        for form in forms:
            add(task, None, form)
    for task, forms in language.replies.items():
        for value, form in forms.items() if isinstance(forms, dict) else [(None, forms)]:
            add(task, None if value == "other" else value, form)
    return patterns


def parse(text: str, lang: str) -> Meaning | None:
    """The meaning of a caption, question, reply or short answer; ``None`` where the grammar cannot read it.

    >>> parse("What color is the large ring?", "en") == parse("大的圆环是什么颜色？", "zh")
    True
    """
    text = text.strip()
    for task in QUESTION_TYPES:
        for value, word in Language.load(lang).words[task].items():
            if text.rstrip(".。").lower() == word:
                return Meaning(task, (), value)
    for task, value, pattern in _sentence_patterns(lang):
        match = pattern.fullmatch(text)
        if match:
            groups = match.groupdict()
            if groups.get("list"):
                things = re.findall(_noun_pattern(lang), groups["list"])
            else:
                things = [groups[name] for name in ("first", "second") if groups.get(name)]
            said = groups.get("value")
            if said is not None:
                value = next(k for k, word in Language.load(lang).words[task].items() if word == said.lower())
            return Meaning(task, tuple(read_phrase(thing.lower(), lang) for thing in things), value)
    return None


def keywords(text: str, lang: str) -> list[str]:
    """The size, colour and shape words of a text in order, as ``kind:name``: what keyword F1 compares."""
    words = Language.load(lang).words
    names = {
        word: f"{kind}:{name}" for kind in ("size", "color", "shape") for name, word in words[kind].items()
    }
    alternatives = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    pattern = alternatives if lang == "zh" else rf"\b(?:{alternatives})(?=(?:es|s)?\b)"
    return [names[word] for word in re.findall(pattern, text.lower())]


def forge_side(text: str) -> bool:
    """Whether an English sentence belongs to the image data, whose Chinese is forged.

    The others may stand in the language model's own translation text. The split is by hash, so that it
    holds for every seed and no sentence pair can be on both sides.
    """
    return hashlib.sha256(text.encode()).digest()[0] % 2 == 0


def identifying(target: Phrase, others: Sequence[Phrase], *, without: str | None = None) -> list[Phrase]:
    """All phrases for ``target`` that fit none of ``others``, never naming the attribute ``without``."""
    kinds = [kind for kind in ("size", "color", "shape") if kind != without]
    found = []
    for keep in itertools.product((True, False), repeat=len(kinds)):
        phrase = Phrase(
            **{kind: getattr(target, kind) for kind, kept in zip(kinds, keep, strict=True) if kept}
        )
        if phrase != Phrase() and not any(fits(other, phrase) for other in others):
            found.append(phrase)
    return found


def fits(thing: Phrase, phrase: Phrase) -> bool:
    """Whether a fully described thing is one of those that the phrase names."""
    said = ((phrase.size, thing.size), (phrase.color, thing.color), (phrase.shape, thing.shape))
    return all(word in (None, own) for word, own in said)

"""Parse a sentence about a scene into its meaning, and a text into its keywords.

Only the words of a noun phrase count, in any inflection; agreement is not checked.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from ziya_visual.scenes.language import QUESTION_TYPES, Language, Meaning, Phrase


def _alternatives(words: Iterable[str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


@functools.cache
def _noun_pattern(lang: str) -> str:
    language = Language.load(lang)
    kinds = {"size": ["size"], "color": ["color"], "noun": ["shape", "object"]}
    parts = {
        part: "|".join(_alternatives(language.all_forms(kind)) for kind in names)
        for part, names in kinds.items()
    }
    before = {text for slot in language.slots.values() for text in (*slot.before, *slot.vowel) if text}
    return f"(?:{_alternatives(before)})?" + "".join(
        f"(?:{around.format(f'(?:{parts[kind]})')}){'' if kind == 'noun' else '?'}"
        for kind, around in language.phrase.items()
    )


@functools.cache
def _sentence_patterns(lang: str) -> list[tuple[str, str | None, re.Pattern[str]]]:
    """List every sentence of a language: its task, the value of a reply or None, and a regex."""
    language = Language.load(lang)
    noun = _noun_pattern(lang)
    comma, last = language.joined
    noun_list = f"{noun}(?:(?:{comma}{noun})*{last}{noun})?"
    patterns = []

    def add(task: str, value: str | None, form: str) -> None:
        pattern = re.escape(form).replace(r"\{", "{").replace(r"\}", "}")
        for name, slot in language.slots.items():
            group = f"(?P<{'second' if slot.thing else 'first'}>{noun})"
            for spelling in (name, name[0].upper() + name[1:]):
                pattern = pattern.replace(f"{{{spelling}}}", group)
        pattern = pattern.replace("{list}", f"(?P<list>{noun_list})")
        values = _alternatives(language.words.get(task, {}).values())
        pattern = pattern.replace("{value}", f"(?P<value>{values})")
        patterns.append((task, value, re.compile(pattern, re.IGNORECASE)))

    for task, forms in language.phrasings.items():
        for form in forms:
            add(task, None, form)
    for task, forms in language.replies.items():
        for value, form in forms.items() if isinstance(forms, dict) else [(None, forms)]:
            add(task, None if value == "other" else value, form)
    return patterns


def parse(text: str, lang: str) -> Meaning | None:
    """Return the meaning of a caption, question, reply or short answer, or None if it is ungrammatical.

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
            answer = groups.get("value")
            if answer is not None:
                words = Language.load(lang).words[task]
                value = next(name for name, word in words.items() if word == answer.lower())
            attributes = [dict(word.split(":") for word in keywords(thing, lang)) for thing in things]
            return Meaning(task, tuple(Phrase(**words) for words in attributes), value)
    return None


@functools.cache
def _keyword_pattern(lang: str) -> tuple[dict[str, str], re.Pattern[str]]:
    language = Language.load(lang)
    names = {
        form: f"{kind}:{name}"
        for kind in ("size", "color", "shape")
        for form, name in language.all_forms(kind).items()
    }
    words = _alternatives(names)
    return names, re.compile(rf"\b(?:{words})\b" if language.spaced else words)


def keywords(text: str, lang: str) -> list[str]:
    """List the size, colour and shape words of a text as ``kind:name``, which keyword F1 compares."""
    names, pattern = _keyword_pattern(lang)
    return [names[word] for word in pattern.findall(text.lower())]

"""A small language about coloured shapes, in English, Chinese, and what else has a file: says what is meant.

A language is a data file (``language/en.yaml``, ``zh.yaml``, ``es.yaml``): words, how they form noun phrases,
and ten phrasings a task, of which the last two are kept for evaluation. All are rendered from the same
:class:`Meaning`, so a translation is right exactly if :func:`.reading.parse` reads the same meaning out of
both sides.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

from ziya_visual.core.errors import DataError

FOLDER = Path(__file__).parent / "languages"
SIZES = ("small", "large")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "white")
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "diamond", "pentagon", "ring", "crescent")
QUESTION_TYPES = ("color", "shape", "size", "count", "exist", "relation")
TASKS = ("caption", *QUESTION_TYPES)
WORDS = {
    "size": SIZES, "color": COLORS, "shape": SHAPES, "count": ("1", "2", "3", "4"), "exist": ("yes", "no"),
    "relation": ("left", "right", "above", "below"),
}  # fmt: skip
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
class Slot:
    """A place of a phrasing in which a thing is named: ``{the}``, ``{other}``, ``{many}`` ...

    Attributes:
        before: what stands before the noun phrase, by the noun's gender; the last for all further ones.
        vowel: the same before a vowel, where that differs (``a``, ``an``).
        thing: which of the things it names, 0 or -1: the first or the last.
        plural: whether in the plural.
    """

    before: Sequence[str] = ("",)
    vowel: Sequence[str] = ()
    thing: int = 0
    plural: bool = False


@dataclass(frozen=True, slots=True)
class Language:
    """The words, phrasings and replies of one language, and how it forms noun phrases.

    Attributes:
        lang: the name of its file.
        words: by kind and name, in the form that a short answer has.
        phrasings: ten a task.
        replies: a sentence a task, or one a value.
        spaced: whether spaces part its words.
        phrase: the parts of a noun phrase in order, with what stands around each: ``{size: "{} ", ...}``.
        forms: of a word that changes: by gender, then the same in the plural; all others never change.
        gender: of the shapes whose nouns are not of gender 0.
        slots: by name; each has a capitalised twin (``{The}``).
        joined: what stands between the things of a list, and before the last.
    """

    lang: str
    words: dict[str, Any]
    phrasings: dict[str, list[str]]
    replies: dict[str, Any]
    spaced: bool
    phrase: dict[str, str]
    forms: dict[str, list[str]]
    gender: dict[str, int]
    slots: dict[str, Slot]
    joined: tuple[str, str]

    @staticmethod
    @functools.cache
    def load(lang: str) -> Language:
        """Read ``language/<lang>.yaml``.

        Raises:
            DataError: there is none, or it lacks something; the message says what.
        """
        path = FOLDER / f"{lang}.yaml"
        if not path.is_file():
            known = sorted(found.stem for found in FOLDER.glob("*.yaml"))
            raise DataError(f"scenes speak {', '.join(known)}, not {lang!r}; {path} would be its file")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        lacking = _lacks(data)
        if lacking:
            raise DataError(f"{path}: lacks {lacking}")
        grammar = data.pop("grammar")
        slots = {name: Slot(**fields) for name, fields in grammar.pop("slots").items()}
        return Language(lang=lang, **data, **{"forms": {}, "gender": {}, **grammar}, slots=slots)

    def noun(self, phrase: Phrase, *, plural: bool = False) -> str:
        """``large red circle``, ``red objects``; ``大的红色圆形``; ``estrellas rojas grandes``."""
        said = {
            "size": phrase.size and self.words["size"][phrase.size],
            "color": phrase.color and self.words["color"][phrase.color],
            "noun": self.words["shape"][phrase.shape] if phrase.shape else self.words["object"],
        }
        gender = self._gender(phrase)
        return "".join(
            around.format(self._form(word, gender, plural))
            for kind, around in self.phrase.items()
            if (word := said[kind])
        )

    def _gender(self, phrase: Phrase) -> int:
        return self.gender.get(phrase.shape, 0) if phrase.shape else 0

    def _form(self, word: str, gender: int, plural: bool) -> str:
        forms = self.forms.get(word)
        if forms is None:
            return word
        genders = len(forms) // 2
        return forms[plural * genders + min(gender, genders - 1)]

    def all_forms(self, kind: str) -> dict[str, str]:
        """Every form of the words of a kind, and the name that it stands for; ``object`` is no name."""
        words = {"": self.words["object"]} if kind == "object" else self.words[kind]
        return {form: name for name, word in words.items() for form in (word, *self.forms.get(word, ()))}

    def fill(self, slot: str, things: Sequence[Phrase]) -> str:
        """A thing as a slot of a phrasing names it: ``an orange star``, ``一个橙色星形``."""
        place = self.slots[slot]
        phrase = things[place.thing]
        noun = self.noun(phrase, plural=place.plural)
        before = place.vowel if place.vowel and noun[0] in "aeiou" else place.before
        return before[min(self._gender(phrase), len(before) - 1)] + noun

    def listed(self, phrases: Sequence[Phrase]) -> str:
        """``a red star, a blue ring and a black heart``; ``一个红色星形、一个蓝色圆环和一个黑色心形``."""
        ones = [self.fill("a", [phrase]) for phrase in phrases]
        comma, last = self.joined
        return comma.join(ones[:-1]) + (last if len(ones) > 1 else "") + ones[-1]

    def say(self, meaning: Meaning, phrasing: int) -> str:
        """The caption or question in phrasing 0-9."""
        return self.phrasings[meaning.task][phrasing].format_map(_Filled(self, meaning.things))

    def answer(self, task: str, value: str) -> str:
        """The short answer: ``red``, ``两个``."""
        return str(self.words[task][value])

    def reply(self, meaning: Meaning) -> str:
        """The answer as a whole sentence; ``meaning.value`` must be given."""
        assert meaning.value is not None
        form = self.replies[meaning.task]
        if isinstance(form, dict):
            form = form.get(meaning.value) or form["other"]
        filled = _Filled(self, meaning.things)
        filled["value"] = self.answer(meaning.task, meaning.value)
        return str(form).format_map(filled)


def _lacks(data: Any) -> str:
    """The first thing that a language file lacks; empty where all is there."""
    sections = ("words", "grammar", "phrasings", "replies")
    if not isinstance(data, dict) or not all(isinstance(data.get(name), dict) for name in sections):
        return f"one of the sections {', '.join(sections)}"
    grammar, words, phrasings, replies = (data[name] for name in ("grammar", "words", "phrasings", "replies"))
    absent = [name for name in ("spaced", "phrase", "slots", "joined") if name not in grammar]
    if absent:
        return f"grammar.{absent[0]}"
    for kind, names in WORDS.items():
        missing = [name for name in names if not isinstance((words.get(kind) or {}).get(name), str)]
        if missing:
            return f"words.{kind} for {', '.join(missing)} (yes, no and numbers in quotes)"
    short = next((task for task in TASKS if len(phrasings.get(task) or ()) != PHRASINGS), None)
    if short:
        return f"{PHRASINGS} phrasings of {short}, found {len(phrasings.get(short) or ())}"
    unanswered = [task for task in QUESTION_TYPES if task not in replies]
    if unanswered:
        return f"replies to {', '.join(unanswered)}"
    told = [reply.values() if isinstance(reply, dict) else [reply] for reply in replies.values()]
    forms = itertools.chain(*phrasings.values(), *told)
    named = {"a", *(name for form in forms for _, name, *_ in Formatter().parse(form) if name)}
    slots = {"list", "value", *grammar["slots"]}
    unknown = sorted(name for name in named if name[0].lower() + name[1:] not in slots)
    return f"grammar.slots for {', '.join(unknown)}" if unknown else ""


class _Filled(dict[str, str]):
    """The text of the slots that a phrasing holds, each formed when it is met."""

    def __init__(self, language: Language, things: Sequence[Phrase]) -> None:
        super().__init__()
        self._language, self._things = language, things

    def __missing__(self, name: str) -> str:
        if name == "list":
            return self._language.listed(self._things)
        text = self._language.fill(name[0].lower() + name[1:], self._things)
        return text[0].upper() + text[1:] if name[0].isupper() else text


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

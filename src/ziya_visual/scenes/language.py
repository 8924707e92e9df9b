"""A small language about coloured shapes, which puts a meaning into English, Chinese or any other language.

A language is a data file (``languages/en.yaml``, ``zh.yaml``, ``es.yaml``) with words, noun phrases and ten
phrasings per task, the last two reserved for evaluation. All languages render the same :class:`Meaning`, so a
translation is right exactly if :func:`.parsing.parse` reads the same meaning from both sides.
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

# Shape-colour pairs that no training picture shows; each shape and colour occurs in other pairs.
HELD_OUT = frozenset(
    {("circle", "green"), ("square", "purple"), ("triangle", "blue"), ("star", "red"), ("heart", "yellow"),
     ("cross", "orange"), ("diamond", "black"), ("pentagon", "white"), ("ring", "red"), ("crescent", "blue")}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Phrase:
    """A noun phrase: the attributes it names, None for the others ("the red object" has no shape)."""

    size: str | None = None
    color: str | None = None
    shape: str | None = None


@dataclass(frozen=True, slots=True)
class Meaning:
    """The meaning of a sentence: its task, the objects it names in order, and its value if it is a reply."""

    task: str
    things: tuple[Phrase, ...]
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a phrasing that names an object: ``{the}``, ``{other}``, ``{many}`` ...

    Attributes:
        before: The article before the noun phrase, by gender; the last one serves all further genders.
        vowel: The article before a vowel, where it differs (``a``, ``an``).
        thing: The index of the object: 0 for the first, -1 for the last.
        plural: Whether the noun phrase is in the plural.
    """

    before: Sequence[str] = ("",)
    vowel: Sequence[str] = ()
    thing: int = 0
    plural: bool = False


@dataclass(frozen=True, slots=True)
class Language:
    """The words, phrasings and replies of one language, and the rules of its noun phrases.

    Attributes:
        lang: The name of its file.
        words: Words by kind and name, in the form of a short answer.
        phrasings: Ten per task.
        replies: One sentence per task, or one per value.
        spaced: Whether spaces separate words.
        phrase: The parts of a noun phrase in order, with their surroundings: ``{size: "{} ", ...}``.
        forms: Inflections of a word, by gender and then by gender in the plural; other words never change.
        gender: The gender of the shapes whose nouns do not have gender 0.
        slots: Slots by name; each has a capitalised twin (``{The}``).
        joined: The separator of a list, and the separator before its last item.
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
        """Load ``languages/<lang>.yaml``.

        Raises:
            DataError: There is no such file, or an entry is missing; the message names it.
        """
        path = FOLDER / f"{lang}.yaml"
        if not path.is_file():
            known = sorted(file.stem for file in FOLDER.glob("*.yaml"))
            raise DataError(f"scenes speak {', '.join(known)}, not {lang!r}; add {path} to teach it to them")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        missing = _missing_entry(data)
        if missing:
            raise DataError(f"{path}: lacks {missing}")
        grammar = data.pop("grammar")
        slots = {name: Slot(**fields) for name, fields in grammar.pop("slots").items()}
        return Language(lang=lang, **data, **{"forms": {}, "gender": {}, **grammar}, slots=slots)

    def noun(self, phrase: Phrase, *, plural: bool = False) -> str:
        """Return the noun phrase: ``large red circle``, ``red objects``; ``大的红色圆形``."""
        words = {
            "size": phrase.size and self.words["size"][phrase.size],
            "color": phrase.color and self.words["color"][phrase.color],
            "noun": self.words["shape"][phrase.shape] if phrase.shape else self.words["object"],
        }
        gender = self._gender(phrase)
        return "".join(
            around.format(self._form(word, gender, plural))
            for kind, around in self.phrase.items()
            if (word := words[kind])
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
        """Map every form of the words of a kind to the name it stands for; ``object`` has no name."""
        words = {"": self.words["object"]} if kind == "object" else self.words[kind]
        return {form: name for name, word in words.items() for form in (word, *self.forms.get(word, ()))}

    def fill(self, slot: str, things: Sequence[Phrase]) -> str:
        """Return an object as a slot names it: ``an orange star``, ``一个橙色星形``."""
        place = self.slots[slot]
        phrase = things[place.thing]
        noun = self.noun(phrase, plural=place.plural)
        before = place.vowel if place.vowel and noun[0] in "aeiou" else place.before
        return before[min(self._gender(phrase), len(before) - 1)] + noun

    def listed(self, phrases: Sequence[Phrase]) -> str:
        """Return a list: ``a red star, a blue ring and a black heart``; ``一个红色星形和一个黑色心形``."""
        items = [self.fill("a", [phrase]) for phrase in phrases]
        comma, last = self.joined
        return comma.join(items[:-1]) + (last if len(items) > 1 else "") + items[-1]

    def say(self, meaning: Meaning, phrasing: int) -> str:
        """Return the caption or question in phrasing 0-9."""
        return self.phrasings[meaning.task][phrasing].format_map(_SlotTexts(self, meaning.things))

    def answer(self, task: str, value: str) -> str:
        """Return the short answer: ``red``, ``两个``."""
        return str(self.words[task][value])

    def reply(self, meaning: Meaning) -> str:
        """Return the answer as a whole sentence; ``meaning.value`` must be set."""
        assert meaning.value is not None
        form = self.replies[meaning.task]
        if isinstance(form, dict):
            form = form.get(meaning.value) or form["other"]
        slots = _SlotTexts(self, meaning.things)
        slots["value"] = self.answer(meaning.task, meaning.value)
        return str(form).format_map(slots)


def _missing_entry(data: Any) -> str:
    """Return the first entry that a language file lacks, or an empty text."""
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
    sentences = [reply.values() if isinstance(reply, dict) else [reply] for reply in replies.values()]
    forms = itertools.chain(*phrasings.values(), *sentences)
    named = {"a", *(name for form in forms for _, name, *_ in Formatter().parse(form) if name)}
    slots = {"list", "value", *grammar["slots"]}
    unknown = sorted(name for name in named if name[0].lower() + name[1:] not in slots)
    return f"grammar.slots for {', '.join(unknown)}" if unknown else ""


class _SlotTexts(dict[str, str]):
    """The texts of a phrasing's slots, each made when it is looked up."""

    def __init__(self, language: Language, things: Sequence[Phrase]) -> None:
        super().__init__()
        self._language, self._things = language, things

    def __missing__(self, name: str) -> str:
        if name == "list":
            return self._language.listed(self._things)
        text = self._language.fill(name[0].lower() + name[1:], self._things)
        return text[0].upper() + text[1:] if name[0].isupper() else text


def is_image_text(text: str) -> bool:
    """Return whether an English sentence belongs to the image data, whose Chinese is forged.

    All other sentences may occur in the language model's translation text. The split is by hash, so it is the
    same for every seed and no sentence pair is on both sides.
    """
    return hashlib.sha256(text.encode()).digest()[0] % 2 == 0


def identifying(target: Phrase, others: Sequence[Phrase], *, without: str | None = None) -> list[Phrase]:
    """List the phrases that fit ``target`` and none of ``others``, without naming one attribute."""
    kinds = [kind for kind in ("size", "color", "shape") if kind != without]
    phrases = []
    for keep in itertools.product((True, False), repeat=len(kinds)):
        phrase = Phrase(**{kind: getattr(target, kind) for kind in itertools.compress(kinds, keep)})
        if phrase != Phrase() and not any(fits(other, phrase) for other in others):
            phrases.append(phrase)
    return phrases


def fits(thing: Phrase, phrase: Phrase) -> bool:
    """Return whether a fully described object is one that the phrase names."""
    pairs = ((phrase.size, thing.size), (phrase.color, thing.color), (phrase.shape, thing.shape))
    return all(word in (None, own) for word, own in pairs)

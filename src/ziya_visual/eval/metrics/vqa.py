"""VQA accuracy by four rules: ``vqav2`` (official), ``evalai``, ``lavis``, and ``zh`` (ours).

The rules differ in what they normalise and when; one set of TextVQA answers gives 46.80, 57.30 or 56.75.

| rule | the model's answer | the ten human answers | source |
|---|---|---|---|
| vqav2 | normalised unless all ten agree | the same | GT-Vision-Lab/VQA ``vqaEval.py`` |
| lavis | always normalised | punctuation only, unless all ten agree | LAVIS ``vqa_eval.py`` |
| evalai | always, commas and question marks dropped first | always | Pythia/MMF ``EvalAIAnswerProcessor`` |
| zh | :func:`normalize_zh` | the same | this file |
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence

from ziya_visual.eval.metrics.zh_answers import normalize_zh

RULES = ("vqav2", "evalai", "lavis", "zh")

_NUMBERS = dict(
    zip("none zero one two three four five six seven eight nine ten".split(),
        "0 0 1 2 3 4 5 6 7 8 9 10".split(), strict=True)
)  # fmt: skip
_ARTICLES = {"a", "an", "the"}
# Each is also met with one of its apostrophes missing; the official table restores exactly those.
_APOSTROPHES = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't "
    "haven't he'd he'd've he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll ma'am mightn't "
    "mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've "
    "should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've "
    "someone'll someone's something'd something'd've something'll that's there'd there'd've there're "
    "there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're "
    "what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're "
    "why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're "
    "you've"
).split()
# The official table writes "I" with a capital and looks up lower case, so its entries never apply;
# and it takes the apostrophe of one word away.
_NEVER = {"i'd've", "i'm", "i've"}
_CONTRACTIONS = {
    word[:i] + word[i + 1 :]: word
    for word in _APOSTROPHES
    if word not in _NEVER
    for i, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"(?!<=\d)\.(?!\d)")  # the official pattern, look-behind misspelt as there
_MAX_PERIODS = 32  # the official call passes re.UNICODE (32) as the count


def strip_punctuation(text: str) -> str:
    """The official treatment: a mark beside a space, or any where digits are grouped, vanishes."""
    joined = _DIGIT_COMMA.search(text) is not None
    out = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if joined or beside_space else " ")
    return _PERIOD.sub("", out, count=_MAX_PERIODS)


def normalize_words(text: str) -> str:
    """Lower case, number words to ten as digits, articles dropped, apostrophes restored."""
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@functools.lru_cache(maxsize=1 << 16)
def normalize_vqav2(text: str) -> str:
    """The full official normalisation of one answer.

    >>> normalize_vqav2("The two dogs.")
    '2 dogs'
    """
    return normalize_words(strip_punctuation(_flat(text)))


def normalize_evalai(text: str) -> str:
    """EvalAI's: commas, question marks and the tie of ``'s`` go before the official normalisation."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalize_vqav2(text)


def _flat(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _score(prediction: str, answers: Sequence[str]) -> float:
    """Mean over the annotators of min(matches among the others / 3, 1)."""
    matches = answers.count(prediction)
    accuracy = [min(1.0, (matches - (answer == prediction)) / 3) for answer in answers]
    return sum(accuracy) / len(accuracy)


def _vqav2(prediction: str, answers: Sequence[str]) -> float:
    prediction, answers = _flat(prediction), [_flat(answer) for answer in answers]
    if len(set(answers)) > 1:
        prediction, answers = normalize_vqav2(prediction), [normalize_vqav2(answer) for answer in answers]
    return _score(prediction, answers)


def _lavis(prediction: str, answers: Sequence[str]) -> float:
    if len(set(answers)) > 1:
        answers = [strip_punctuation(answer) for answer in answers]
    return _score(normalize_vqav2(prediction), answers)


def _evalai(prediction: str, answers: Sequence[str]) -> float:
    return _score(normalize_evalai(prediction), [normalize_evalai(answer) for answer in answers])


def _zh(prediction: str, answers: Sequence[str]) -> float:
    """As VQA accuracy with ten annotators; with fewer, right is what any of them said."""
    prediction, answers = normalize_zh(prediction), [normalize_zh(answer) for answer in answers]
    return _score(prediction, answers) if len(answers) >= 10 else float(prediction in answers)


_SCORERS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "vqav2": _vqav2,
    "evalai": _evalai,
    "lavis": _lavis,
    "zh": _zh,
}


def accuracy(prediction: str, answers: Sequence[str], rule: str) -> float:
    """The accuracy of one answer, 0 to 1. ``answers`` are the annotators', normally ten.

    >>> accuracy("Two.", ["2"] * 4 + ["3"] * 6, "vqav2")
    1.0
    """
    return _SCORERS[rule](prediction, list(answers))


def same_answer(prediction: str, answers: Sequence[str], lang: str) -> bool:
    """Whether a short answer equals one of the true ones after the language's normalisation."""
    normalize = normalize_zh if lang.split("-")[0] == "zh" else normalize_vqav2
    return normalize(prediction) in {normalize(answer) for answer in answers}

"""Official right-or-wrong rules: GQA, POPE, ScienceQA and multiple choice with rotations."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ziya_visual.eval.metrics.vqa import normalize_words, strip_punctuation

Floats = npt.NDArray[np.float64]

LETTERS = string.ascii_uppercase
GQA_RULES = ("exact", "llava", "lavis")
POPE_COUNTS = ("hits", "predicted_yes", "true_yes", "right", "all")
POPE_SCORES = ("accuracy", "precision", "recall", "f1", "yes_ratio")
ROTATION = 10**6  # what MMBench adds to a question's index for each rotation of its options

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


def gqa_correct(prediction: str, answer: str, rule: str) -> bool:
    """Return whether a GQA answer is right by exact match.

    ``llava`` lower-cases the prediction and drops its full stop; ``lavis`` normalizes both sides.
    Sources: GQA ``eval.py``; LLaVA ``convert_gqa_for_eval.py``; LAVIS ``GQATask``.
    """
    if rule == "llava":
        return prediction.rstrip(".").lower() == answer
    if rule == "lavis":
        prediction, answer = (normalize_words(strip_punctuation(text)) for text in (prediction, answer))
    return prediction == answer


def pope_yes(text: str) -> bool:
    """Return whether an answer counts as yes: its first sentence has no "no", "No" or "not".

    Source: LLaVA ``eval_pope.py``, after RUCAIBox/POPE.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & set(words)


def pope_unparsed(text: str) -> bool:
    """Return whether an answer has neither yes nor no as a word, which POPE counts as yes."""
    return not re.search(r"\b(yes|no|not)\b", text, re.IGNORECASE)


def pope_count(predicted: bool, true: bool) -> tuple[bool, ...]:
    """Return what one answer adds to :data:`POPE_COUNTS`."""
    return predicted and true, predicted, true, predicted == true, True


def pope_scores(counts: Floats) -> Floats:
    """Turn summed :data:`POPE_COUNTS` into :data:`POPE_SCORES` in percent: float64[R, 5], 0 if undefined."""
    hits, predicted, true, right, total = counts.T
    precision, recall = _ratio(hits, predicted), _ratio(hits, true)
    f1 = _ratio(2 * precision * recall, precision + recall)
    return 100 * np.stack([_ratio(right, total), precision, recall, f1, _ratio(predicted, total)], axis=1)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def scienceqa_letter(text: str) -> str | None:
    """Return the option letter of an answer, or ``None``; unparsed answers are wrong, never guessed.

    Accepted are a single option letter, a text that starts ``X. ``, and exactly one ``The answer is X.``.
    """
    if re.fullmatch(r"[A-E]", text.strip()):
        return text.strip()
    if re.match(r"[A-E]\. ", text):
        return text[0]
    letters = re.findall(r"The answer is ([A-Z])\.", text)
    return letters[0] if len(letters) == 1 else None


def infer_option(text: str, choices: Mapping[str, str]) -> str | None:
    """Return the option that a free text chooses by VLMEvalKit's ``can_infer``; ``Z`` is a refusal.

    The answer is the only option letter if it is among the last five words, else the only option whose
    wording occurs in the text, unless the text is over twice as long as all options. ``None`` is unparsed.
    """
    return _infer_letter(text, choices) or _infer_wording(text, choices)


def _infer_letter(text: str, choices: Mapping[str, str]) -> str | None:
    if "Failed to obtain answer via API" in text:
        return None
    if any(refusal in text for refusal in _REFUSALS):
        return "Z"
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", text).split()
    named = [letter for letter in choices if letter in words]
    if len(named) == 1:
        return named[0] if words.index(named[0]) > len(words) - 5 else None
    return "Z" if not named and "Z" in words else None


def _infer_wording(text: str, choices: Mapping[str, str]) -> str | None:
    text = text.lower()
    wordings = {letter: str(wording).lower() for letter, wording in choices.items()}
    if len(text) > 2 * sum(map(len, wordings.values())):
        return None
    matches = [letter for letter, wording in wordings.items() if wording in text]
    return matches[0] if len(matches) == 1 else None


def options(row: Mapping[str, object]) -> dict[str, str]:
    """Return the options of a question row: its non-empty single-letter fields."""
    return {
        letter: str(row[letter])
        for letter in LETTERS
        if row.get(letter) is not None and row[letter] == row[letter] and str(row[letter]) != ""
    }

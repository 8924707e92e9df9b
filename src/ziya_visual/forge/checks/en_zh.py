"""What only knowledge of both languages finds in an English and a Chinese text.

A *closed* English text, whose every word the lexicon knows, is compared strictly; any other is a free
translation, and only contradictions, exchanged names, missing ends and foreign subjects are faults.
"""

from __future__ import annotations

import re

from ziya_visual.forge.checks.closed_text import Lexicon, compare_closed
from ziya_visual.forge.checks.dictionary import shared
from ziya_visual.forge.checks.free_text import contradictions
from ziya_visual.forge.checks.names import name_differs

# Tuned on half of the labelled set (tests/forge/labelled); its other half says what they are worth.
MIN_SHARED = 0.45  # words found in the other text, as shares of both texts together (0 to 2)
MIN_WHOLE = 0.6  # length as a share of what is usual, plus 0.3 for all English words found
MISSING_END = 0.25  # what a missing full stop takes from that
_ASKING = re.compile(r"\?|\b(?:wh\w+|how|if|tell|ask\w*|please|can|could|do|is|are)\b", re.IGNORECASE)
CHARS_PER_WORD = 1.6  # Chinese characters that an English word becomes, on average


def compared(english: str, chinese: str, *, backwards: bool, end_is_missing: bool) -> list[str]:
    """Reasons against the pair; ``backwards`` where the English is the translation."""
    lexicon = Lexicon.load()
    reading = lexicon.read(english, "en")
    if reading.closed:
        return compare_closed(reading, lexicon.read(chinese, "zh"))
    reasons = contradictions(english, chinese)
    if name_differs(english, chinese):
        reasons.append("names")
    if chinese.endswith(("？", "?")) and not _ASKING.search(english):
        reasons.append("a_question")
    ours, ours_all, theirs, theirs_all = shared(english, chinese)
    if (
        ours_all >= 4
        and (theirs_all >= 3 or not ours)
        and theirs_all
        and ours / ours_all + theirs / theirs_all < MIN_SHARED
    ):
        reasons.append("other_text")
    if ours_all >= 3 and theirs_all >= 1:
        words, characters = len(re.findall(r"[^\W_]+", english)), _characters(chinese)
        usual = CHARS_PER_WORD * words
        length = usual / characters if backwards else characters / usual
        found = theirs / theirs_all if backwards else ours / ours_all
        if length + 0.3 * found - MISSING_END * end_is_missing < MIN_WHOLE:
            reasons.append("truncated")
    return reasons


def _characters(chinese: str) -> float:
    """Chinese characters, a word or number in other letters counted as it is usual."""
    han = len(re.findall("[\u4e00-\u9fff]", chinese))
    return max(1.0, han + CHARS_PER_WORD * len(re.findall(r"[A-Za-z0-9]+", chinese)))

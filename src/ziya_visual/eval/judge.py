"""Scores out of an LLM judge's reviews, and the summary that LLaVA publishes.

A review is free text about two answers. :func:`parse_scores` finds the pair of scores wherever judges put
it, and refuses a text in which it cannot be sure: a failure is counted and shown, never scored; above 5 %
failures the table is withheld. What a judge that sees captions and boxes instead of the picture cannot know
is not in these numbers.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

from ziya_visual.core.errors import DataError
from ziya_visual.eval.score_files import Row, Scored, read_rows

MAX_FAILURES = 0.05  # above this share of unread reviews the table is withheld
_HIGHEST = 10.0

_N = r"(?<![\d.])(\d{1,2}(?:\.\d+)?)"
_OUT_OF = r"(?:\s*/\s*10(?![\d.])|\s*out of 10|\s*points?|\s*分)?"
_SCORE_WORD = (
    r"(?:scores?|scoring|ratings?|tuple|grades?|marks?|evaluation|output|评分|得分|分数|打分|总分|结果)"
)
_SEPARATOR = r"(?:\s*[,;、/|&]\s*|\s+and\s+|\s*和\s*|\s+)"
_PAIR = rf"[(\[<]?\s*{_N}{_OUT_OF}{_SEPARATOR}{_N}{_OUT_OF}\s*[)\]>]?"
# A whole line that holds two scores and nothing else, perhaps after "Scores:".
_LINE = re.compile(rf"(?:[^\d\n]{{0,60}}{_SCORE_WORD}[^\d\n]{{0,40}}[:=]\s*)?{_PAIR}\s*\.?", re.IGNORECASE)
_TUPLE_AT_END = re.compile(rf"{_SCORE_WORD}[^\n]*?[(\[]\s*{_N}\s*,\s*{_N}\s*[)\]]\s*\.?$", re.IGNORECASE)
_SAYS = (
    rf"(?:'s)?\s*(?:(?:final|overall|total|的|总体|最终)?\s*{_SCORE_WORD})?\s*"
    r"(?:[:=]|is|was|gets|got|receives|为|是|得|获得)\s*(?:an? )?(?:(?:overall |total )?score of )?"
)
_END = r"(?=\s*(?:$|[,;.)\n。]|and\b|while\b|whereas\b|assistant|助手|助理|和|而))(?!\.\d)"


def _label(number: str, letter: str, chinese: str) -> str:
    who = r"(?:assistants?|answers?|responses?|models?|助手|助理|回答|答案|模型)"
    return rf"{who}\s*(?:#\s*)?(?:{number}|{letter}|{chinese})"


_LABELLED = re.compile(
    rf"{_label('1', 'a', '一')}{_SAYS}{_N}{_OUT_OF}{_END}[^\d]{{0,40}}?"
    rf"{_label('2', 'b', '二')}{_SAYS}{_N}{_OUT_OF}{_END}",
    re.IGNORECASE,
)


def parse_scores(text: str) -> tuple[float, float] | None:
    r"""The two scores (first answer, second answer) of a review, each 0 to 10, or ``None``.

    Read are: a first or last line with nothing but two scores; two scores beside the names of the answers;
    a tuple that ends the text after a word such as score. Pairs that contradict each other are refused.

    >>> parse_scores("8 10\nBoth are good.")
    (8.0, 10.0)
    >>> parse_scores("Scores:\nAssistant 1: 10\nAssistant 2: 4")
    (10.0, 4.0)
    >>> parse_scores("In 2021, 8 of 10 users agreed.") is None
    True
    """
    text = re.sub(r"[*_`#]+(?:python)?", "", unicodedata.normalize("NFKC", text))
    lines = [line.strip() for line in text.strip().split("\n") if line.strip()]
    if not lines:
        return None
    first = _LINE.fullmatch(lines[0])
    if first:
        return _checked([(first[1], first[2])])
    labelled = _LABELLED.findall("\n".join(lines))
    if labelled:
        return _checked(labelled)
    scored = [
        match for line in lines if re.search(_SCORE_WORD, line, re.I) and (match := _LINE.fullmatch(line))
    ]
    last = _LINE.fullmatch(lines[-1]) or _TUPLE_AT_END.search(lines[-1])
    return _checked([(match[1], match[2]) for match in [*scored, *([last] if last else [])]])


def _checked(pairs: list[tuple[str, str]]) -> tuple[float, float] | None:
    """The pair, if all agree and both scores are on the scale."""
    values = {(float(first), float(second)) for first, second in pairs}
    if len(values) != 1:
        return None
    pair = values.pop()
    return pair if max(pair) <= _HIGHEST else None


def stored_scores(row: Row) -> tuple[float, float] | None:
    """The pair in a row's ``tuple`` or ``score`` field, if there is one."""
    value = row.get("tuple", row.get("score"))
    if not isinstance(value, list) or len(value) != 2:
        return None
    if not all(isinstance(part, int | float) and not isinstance(part, bool) for part in value):
        return None
    pair = float(value[0]), float(value[1])
    return pair if 0 <= min(pair) and max(pair) <= _HIGHEST else None


def score_judge(*, reviews: Path, stored: bool = False) -> Scored:
    """LLaVA's summary of pairwise reviews: 100 x mean candidate / mean reference, by category and pooled.

    Args:
        reviews: LLaVA review rows; the text is in ``content`` or ``text``, answer 1 is the reference.
        stored: use the stored ``tuple`` or ``score`` instead of reading the text again.

    Raises:
        DataError: rows without a text.
    """
    pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    failures: Counter[str] = Counter()
    unread, disagreements, total = [], [], 0
    for row in read_rows(reviews):
        total += 1
        text = row.get("content", row.get("text"))
        if not isinstance(text, str) and not stored:
            raise DataError(
                f"{reviews}: row {total} has no review in 'content' or 'text', it has {sorted(row)[:8]}"
            )
        parsed, kept = parse_scores(text) if isinstance(text, str) else None, stored_scores(row)
        name = row.get("question_id", total)
        if parsed is not None and kept is not None and parsed != kept:
            disagreements.append({"question_id": name, "text": list(parsed), "stored": list(kept)})
        pair = kept if stored else parsed
        if pair is None or pair[0] < 0:
            unread.append(name)
            continue
        pairs["all"].append(pair)
        if row.get("category") is not None:
            pairs[str(row["category"])].append(pair)
    failures["unread"] = len(unread)
    failures["stored_disagrees"] = len(disagreements)
    scores, withheld = _ratios(pairs), ""
    if len(unread) > MAX_FAILURES * total:
        scores, withheld = {}, f"no scores in {len(unread)} of {total} reviews, more than {MAX_FAILURES:.0%}"
    notes = {"unread_questions": unread, "stored_disagrees": disagreements, "withheld": withheld}
    rule = "stored scores" if stored else "scores read from the text"
    return Scored(scores | {"failures": float(len(unread))}, +failures, {}, rule, {}, notes)


def _ratios(pairs: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """``all``, every category, and ten times the mean of either side, unrounded as ``all/reference`` ..."""
    scores = {}
    for category, found in pairs.items():
        reference, candidate = (sum(side) / len(found) for side in zip(*found, strict=True))
        # LLaVA rounds the means to three decimals before it divides.
        reference, candidate = round(reference, 3), round(candidate, 3)
        if reference:
            scores[category] = round(100 * candidate / reference, 1)
        scores[f"{category}/reference"] = round(10 * reference, 1)
        scores[f"{category}/candidate"] = round(10 * candidate, 1)
    return scores

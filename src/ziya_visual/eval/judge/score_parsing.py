r"""Scores out of a judge's free text: found wherever judges put them, or refused.

LLaVA's own script reads the first line and gives -1 to every other review, which then enters the means.
Judges also write "Assistant 1: 8/10" on lines of their own, "I would give Assistant 1 a 7 and Assistant 2 a
9", "both receive a score of 10", a tuple at the end, and the same in Chinese. Here every statement of a score
is collected with the answer that it is about; a text yields scores only if each answer has exactly one value.
Numbers that nothing marks as scores (years, counts, percentages, dates, ranges, lists) are never taken.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

HIGHEST = 10.0

_FLAGS = re.IGNORECASE
_DIGITS = {digit: str(value) for value, digit in enumerate("零一二三四五六七八九十")} | {"两": "2"}
_CHINESE = re.compile(r"([零一二两三四五六七八九十])(?:点([零一二三四五六七八九]))?分(?=[\s,;。、)!]|$)")
# A number on the scale of 10: not a part of a longer number, date, time, range, fraction or percentage.
_NUMBER = (
    r"(?<![\d.$€¥~–-])(?<!\d/)(\d{1,2}(?:\.\d+)?)"
    r"(?![\d%‰°]|\.\d|\s*%|\s*/\s*(?!10(?![\d/]|\.\d))\d|\s+out\s+of\s+(?!10\b)|:\d|\s?[-–~至到]\s?\d|st\b|nd\b|rd\b|th\b)"
)
_OUT_OF = r"(?:\s*/\s*10|\s+out\s+of\s+10|\s*分)"
_UNIT = rf"(?:{_OUT_OF}|\s*points?\b)?"
_SCORE = r"(?:scores?|scoring|ratings?|tuple|grades?|评分|得分|分数|打分|总分|评价|(?<![0-9])分(?=[是为:]))"
_SUM = r"(?:final|overall|total|slightly\s+\w+|最终|总体|综合|整体|总)"
_LABEL = (
    r"(?:第(?P<{0}c>[一二])(?:个|位|名)?(?:ai|人工智能)?(?:助手|助理|回答|答案|回复|模型)"
    r"|(?:\b(?:assistant|answer|response|model)|助手|助理|回答|答案|回复|模型)\s*[#(]?\s*"
    r"(?P<{0}l>1|2|one\b|two\b|(?-i:A|B)\b|(?-i:A|B)(?=[^\x00-\x7f])|一|二)\)?)(?![.\d]\d)"
)
# What may stand between an answer's name and its score: "'s code submission", "的回答".
_OF = r"(?:'s(?:\s+(?!and\b|or\b|is\b)[a-z-]+){0,3}?)?(?:的)?(?:回答|答案|答复|回复|表现)?"
_RATED = (
    r"(?:receives?|received|gets?|got|earns?|earned|deserves?|scores?|scored"
    r"|(?:is|was|be)\s+(?:given|awarded|assigned|rated|scored)|获得|得到|可得|应得|得)"
)
_VERB = rf"(?:{_RATED}|has|is|was|as|at|with|给予|打|给|为|是)"
_A = rf"(?:an?\s+|the\s+)?(?:{_SUM}\s*)?"
_END = (
    r"(?=\s*(?:$|[,;:)\]\n。、|(]|\.(?!\d)|(?:and|while|whereas|but|for|because|since)\b|assistant|助|而|和))"
)

_PAIR = rf"[(\[<]?\s*{_NUMBER}{_UNIT}(?:\s*[,;、|&]\s*|\s+and\s+|\s*和\s*|\s+){_NUMBER}{_UNIT}\s*[)\]>]?"
_PAIR_LINE = re.compile(
    rf"(?P<word>[^\d\n]{{0,60}}(?:{_SCORE}|output|evaluation)[^\d\n]{{0,40}}?(?:[:=]|\bis|\bare|为|是)\s*)?{_PAIR}\s*[.。]?",
    _FLAGS,
)
_TUPLE_END = re.compile(
    rf"(?:scores?|ratings?|tuple|评分|得分|分数)[^\n]*?[(\[]\s*{_NUMBER}\s*,\s*{_NUMBER}\s*[)\]]\s*[.。]?$",
    _FLAGS,
)
_ONE, _OTHER = _LABEL.format("a"), _LABEL.format("b")
_ITEM = re.compile(rf"{_ONE}\s*(?:[:=]|[-–]\s)\s*{_NUMBER}{_UNIT}{_END}", _FLAGS)
_GIVE = r"(?:give|gave|giving|rate|rated|award|assign|grade)\b"
# One statement about one answer; in each the text itself says that the number is a score.
_ABOUT = [
    re.compile(pattern, _FLAGS)
    for pattern in (
        # Assistant 1 receives a score of 8; Assistant 1's score is 8; 助手1的总体评分为8
        rf"{_ONE}{_OF}\s*(?:{_VERB}\s*)?{_A}{_SCORE}\s*(?:of|is|was|[:=为是])\s*(?:an?\s+)?{_NUMBER}",
        # Assistant 1's code a 7 out of 10; Assistant 1 (8/10); 助手1得8分
        rf"{_ONE}{_OF}\s*[:=(]?\s*(?:{_VERB}\s*)?{_A}{_NUMBER}{_OUT_OF}{_END}",
        # Assistant 1 is rated 8
        rf"{_ONE}{_OF}\s*{_RATED}\s*{_A}{_NUMBER}{_END}",
        # Score for Assistant 1: 8
        rf"{_SCORE}\s*(?:for|of|to)\s+{_ONE}{_OF}\s*(?:[:=为是]|is|was)\s*(?:an?\s+)?{_NUMBER}",
        # a score of 8 to Assistant 1
        rf"{_SCORE}\s+of\s+{_NUMBER}{_OUT_OF}?\s+(?:to|for)\s+{_ONE}",
        # give Assistant 1 an 8
        rf"\b{_GIVE}\s+{_ONE}{_OF}\s*{_A}{_NUMBER}{_END}",
        # ... and Assistant 2 a 9
        rf"\b{_GIVE}[^.\n]{{0,60}}\band\s+{_ONE}{_OF}\s+an?\s+{_NUMBER}{_END}",
        rf"给\s*{_ONE}{_OF}\s*打?\s*{_NUMBER}\s*分",
    )
]
_SAME = (
    rf"[^.。\n\d]{{0,60}}?{_SCORE}\s*(?:of|is|are|为|是|[:=])\s*(?:an?\s+)?{_NUMBER}{_UNIT}"
    r"(?!\s*(?:and|,|和|、)\s*\d)"
)
_BOTH = re.compile(
    r"(?:\bboth\s+(?:of\s+)?(?:the\s+)?(?:ai\s+|two\s+)?"
    r"(?:assistants|answers|responses|models|solutions|submissions|receive|get|deserve|earn)\b"
    rf"|{_ONE}\s*(?:and|&|和|与|、)\s*{_OTHER}"
    r"|(?:两个|两位|两者|双方)[^.。\n\d]{0,8}(?:助手|助理|回答|答案|模型))"
    rf"(?:{_SAME}|[^.。\n\d]{{0,20}}?(?:都|均)(?:是|为|得|得到|获得)\s*{_NUMBER}\s*分)",
    _FLAGS,
)
_TWO = re.compile(
    rf"{_ONE}\s*(?:and|&|和|与|,|、)\s*(?:{_OTHER}|2|B)(?=\D)[^.\n\d]{{0,60}}?"
    rf"{_NUMBER}{_UNIT}\s*(?:and|,|和|、)\s*{_NUMBER}{_UNIT}{_END}",
    _FLAGS,
)
_HEADING = re.compile(rf"[^\d\n]{{0,40}}{_ONE}[^\d\n]{{0,40}}?[:\]]?", _FLAGS)
_SECTION_SCORE = re.compile(
    rf"(?:[^\d\n]{{0,20}}\s)?{_A}{_SCORE}\s*(?:[:=]|is|为|是)\s*{_NUMBER}{_OUT_OF}?\s*[.。]?", _FLAGS
)
_RATES = re.compile(rf"{_SCORE}|evaluat|\brat(?:e|ed|ing)|assess|judg|feedback|评|打分", _FLAGS)
_COUNTS = re.compile(r"number of|how many|count|amount|数量|个数|多少", _FLAGS)
_SUMS_UP = re.compile(r"\bfinal|overall|\btotal|conclu|最终|总体|综合|总分|总的", _FLAGS)


@dataclass(frozen=True, slots=True)
class _Said:
    """A statement: answer ``who`` (0 or 1) has ``value``.

    ``final``: its line sums up. ``sure``: the number can be nothing but a score; what is not sure can only
    contradict.
    """

    who: int
    value: float
    final: bool
    sure: bool = True


def parse_scores(text: str) -> tuple[float, float] | None:
    r"""The two scores (first answer, second answer) of a review, each 0 to 10, or ``None``.

    The first line counts if it holds two scores and nothing else, as judges are asked to write. Otherwise
    every statement of a score in the text is read; an answer with two values is refused, unless one of them
    is called final or overall.

    >>> parse_scores("8 10\nBoth are good.")
    (8.0, 10.0)
    >>> parse_scores("Scores:\nAssistant 1: 10\nAssistant 2: 4")
    (10.0, 4.0)
    >>> parse_scores("In 2021, 8 of 10 users agreed.") is None
    True
    """
    lines = _lines(text)
    if not lines:
        return None
    first = _PAIR_LINE.fullmatch(lines[0])
    said = _pair(first, lines[0]) if first else list(_statements(lines))
    pair = tuple(_only([one for one in said if one.who == who]) for who in (0, 1))
    if pair[0] is None or pair[1] is None or max(pair[0], pair[1]) > HIGHEST:
        return None
    return pair[0], pair[1]


def parse_grade(text: str) -> float | None:
    r"""The correctness between 0 and 1 of a rubric review, or ``None``.

    Read is a first or last line with nothing but the number, perhaps after a word such as correctness.

    >>> parse_grade("0.5\nHalf of the truth is there."), parse_grade("Correctness: 1.0")
    (0.5, 1.0)
    >>> parse_grade("0.3 to 0.5") is None
    True
    """
    lines = _lines(text)
    found = {
        float(match[1]) for line in (lines[:1] + lines[-1:]) if (match := _GRADE.fullmatch(line)) is not None
    }
    value = found.pop() if len(found) == 1 else None
    return value if value is not None and value <= 1 else None


_GRADE = re.compile(
    rf"(?:[^\d\n]{{0,30}}(?:{_SCORE}|correctness|正确性|正确度|正确程度)[^\d\n]{{0,10}}?(?:[:=]|is|为|是)\s*)?"
    r"(\d(?:\.\d+)?)(?:\s*/\s*1(?:\.0)?)?\s*[.。]?",
    _FLAGS,
)


def _lines(text: str) -> list[str]:
    """The lines that say something, full-width characters folded, Markdown's marks removed."""
    text = unicodedata.normalize("NFKC", text).replace("\u2019", "'")
    text = re.sub(r"```[a-z]*|`|\*\*", "", text)
    text = re.sub(r"(?m)^\s*(?:#{1,6}|[-*•>])\s+", "", text)
    text = _CHINESE.sub(lambda m: _DIGITS[m[1]] + ("." + _DIGITS[m[2]] if m[2] else "") + "分", text)
    return [line.strip() for line in text.split("\n") if line.strip()]


def _only(said: list[_Said]) -> float | None:
    """The one value of an answer; the final one where several differ."""
    if len({one.value for one in said}) > 1:
        said = [one for one in said if one.final]
    values = {one.value for one in said}
    return values.pop() if len(values) == 1 and any(one.sure for one in said) else None


def _pair(match: re.Match[str], line: str) -> list[_Said]:
    final = _SUMS_UP.search(line) is not None
    return [_Said(who, value, final) for who, value in enumerate(_numbers(match)[:2])]


def _numbers(match: re.Match[str]) -> list[float]:
    """The groups without a name: the numbers of a statement, in order."""
    named = set(match.re.groupindex.values())
    groups = enumerate(match.groups(), start=1)
    return [float(group) for place, group in groups if place not in named and group is not None]


def _value(match: re.Match[str]) -> float:
    return _numbers(match)[0]


def _who(match: re.Match[str]) -> int:
    label = match["ac"] or match["al"]
    return 0 if label.upper() in ("1", "ONE", "A", "一") else 1


def _statements(lines: list[str]) -> Iterator[_Said]:
    """Every statement of a score in the lines of a review."""
    section: int | None = None
    for place, line in enumerate(lines):
        final = _SUMS_UP.search(line) is not None
        heading = _HEADING.fullmatch(line)
        if heading:
            section = _who(heading)
            continue
        yield from _pairs_in(lines, place)
        listed = _is_list_of_scores(lines, place)
        yield from (_Said(who, _value(m), final) for m in _BOTH.finditer(line) for who in (0, 1))
        # What was said of both is not read again as said of the second.
        alone = _TWO.sub(";", _BOTH.sub(";", line))
        yield from (_Said(_who(m), _value(m), final, sure=listed) for m in _ITEM.finditer(alone))
        yield from (_Said(_who(m), _value(m), final) for form in _ABOUT for m in form.finditer(alone))
        inside = _SECTION_SCORE.fullmatch(line)
        if inside and section is not None:
            yield _Said(section, _value(inside), final)


def _pairs_in(lines: list[str], place: int) -> Iterator[_Said]:
    """Two scores at once: a tuple, a line of two numbers, "the scores of 1 and 2 are 8 and 9"."""
    line, before = lines[place], lines[place - 1] if place else ""
    match = _TUPLE_END.search(line)
    whole = _PAIR_LINE.fullmatch(line)
    if whole:
        # Alone on its line a pair counts after a word for scores, at the end, or beside talk of the answers.
        beside = before + "\n" + (lines[place + 1] if place + 1 < len(lines) else "")
        marked = bool(whole["word"]) or (before.endswith(":") and _is_rating(before))
        last = place == len(lines) - 1 and not before.endswith(":")
        named = line[0] in "([" and re.search(_LABEL.format("x"), beside, _FLAGS)
        match = whole if marked or last or (named and not before.endswith(":")) else None
    if match:
        yield from _pair(match, line)
    for match in _TWO.finditer(line):
        if re.search(_SCORE, line, _FLAGS) and _who(match) == 0:
            yield from _pair(match, line)


def _is_list_of_scores(lines: list[str], place: int) -> bool:
    """Whether "Assistant 1: 8" is a score here: the line says nothing else, nor does a heading above."""
    rest = _ITEM.sub("", lines[place])
    if _COUNTS.search(rest) or (re.search(r"[^\W\d]", rest) and not re.search(_SCORE, rest, _FLAGS)):
        return False
    above = next((line for line in reversed(lines[:place]) if not _ITEM.search(line)), "")
    return not above.endswith(":") or _is_rating(above)


def _is_rating(heading: str) -> bool:
    return _RATES.search(heading) is not None and _COUNTS.search(heading) is None

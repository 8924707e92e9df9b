r"""Parsing of scores from a judge's free text, which accepts many phrasings and refuses ambiguous ones.

LLaVA's own script reads only the first line and gives -1 to every other review, which then enters the means.
Judges also write "Assistant 1: 8/10" on separate lines, "both receive a score of 10", a tuple at the end, and
the same in Chinese. We collect every statement of a score with its answer; a text yields scores only if each
answer has exactly one value. Numbers that nothing marks as scores (years, counts, dates, ranges) are ignored.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

HIGHEST = 10.0

_FLAGS = re.IGNORECASE
_compile = functools.partial(re.compile, flags=_FLAGS)
_DIGITS = {digit: str(value) for value, digit in enumerate("零一二三四五六七八九十")} | {"两": "2"}
_CHINESE = re.compile(r"([零一二两三四五六七八九十])(?:点([零一二三四五六七八九]))?分(?=[\s,;。、)!]|$)")
# A number on the scale of 10 that is not part of a longer number, date, time, range, fraction or percentage.
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
# Words allowed between an answer's name and its score: "'s code submission", "的回答".
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
_PAIR_LINE = _compile(
    rf"(?P<word>[^\d\n]{{0,60}}(?:{_SCORE}|output|evaluation)[^\d\n]{{0,40}}?(?:[:=]|\bis|\bare|为|是)\s*)?{_PAIR}\s*[.。]?"
)
_TUPLE_END = _compile(
    rf"(?:scores?|ratings?|tuple|评分|得分|分数)[^\n]*?[(\[]\s*{_NUMBER}\s*,\s*{_NUMBER}\s*[)\]]\s*[.。]?$"
)
_ONE, _OTHER = _LABEL.format("a"), _LABEL.format("b")
_ITEM = _compile(rf"{_ONE}\s*(?:[:=]|[-–]\s)\s*{_NUMBER}{_UNIT}{_END}")
_GIVE = r"(?:give|gave|giving|rate|rated|award|assign|grade)\b"
# Statements about one answer in which the text itself marks the number as a score.
_ABOUT = [
    _compile(pattern)
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
_BOTH = _compile(
    r"(?:\bboth\s+(?:of\s+)?(?:the\s+)?(?:ai\s+|two\s+)?"
    r"(?:assistants|answers|responses|models|solutions|submissions|receive|get|deserve|earn)\b"
    rf"|{_ONE}\s*(?:and|&|和|与|、)\s*{_OTHER}"
    r"|(?:两个|两位|两者|双方)[^.。\n\d]{0,8}(?:助手|助理|回答|答案|模型))"
    rf"(?:{_SAME}|[^.。\n\d]{{0,20}}?(?:都|均)(?:是|为|得|得到|获得)\s*{_NUMBER}\s*分)"
)
_TWO = _compile(
    rf"{_ONE}\s*(?:and|&|和|与|,|、)\s*(?:{_OTHER}|2|B)(?=\D)[^.\n\d]{{0,60}}?"
    rf"{_NUMBER}{_UNIT}\s*(?:and|,|和|、)\s*{_NUMBER}{_UNIT}{_END}"
)
_HEADING = _compile(rf"[^\d\n]{{0,40}}{_ONE}[^\d\n]{{0,40}}?[:\]]?")
_SECTION_SCORE = _compile(
    rf"(?:[^\d\n]{{0,20}}\s)?{_A}{_SCORE}\s*(?:[:=]|is|为|是)\s*{_NUMBER}{_OUT_OF}?\s*[.。]?"
)
_RATES = _compile(rf"{_SCORE}|evaluat|\brat(?:e|ed|ing)|assess|judg|feedback|评|打分")
_COUNTS = _compile(r"number of|how many|count|amount|数量|个数|多少")
_SUMS_UP = _compile(r"\bfinal|overall|\btotal|conclu|最终|总体|综合|总分|总的")
_GRADE = _compile(
    rf"(?:[^\d\n]{{0,30}}(?:{_SCORE}|correctness|正确性|正确度|正确程度)[^\d\n]{{0,10}}?(?:[:=]|is|为|是)\s*)?"
    r"(\d(?:\.\d+)?)(?:\s*/\s*1(?:\.0)?)?\s*[.。]?"
)


class _Statement(NamedTuple):
    """A statement that answer 0 or 1 has a score.

    It is ``final`` if its line sums up. An uncertain number need not be a score and can only contradict.
    """

    answer: int
    value: float
    final: bool
    certain: bool = True


def read_scores(text: str, *, rubric: bool) -> tuple[float, ...] | None:
    """Return the scores in a reply, in the order in which the judge saw the answers."""
    if not rubric:
        return parse_scores(text)
    grade = parse_grade(text)
    return None if grade is None else (grade,)


def parse_scores(text: str) -> tuple[float, float] | None:
    r"""Return the scores of the first and second answer in a review, each 0 to 10, or ``None``.

    The first line decides if it holds two scores and nothing else, as judges are asked to write. Otherwise
    every statement of a score counts; two values for one answer are refused unless one is called final or
    overall.

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
    statements = _pair(first, lines[0]) if first else list(_statements(lines))
    a, b = (_unique_value([s for s in statements if s.answer == answer]) for answer in (0, 1))
    return None if a is None or b is None or max(a, b) > HIGHEST else (a, b)


def parse_grade(text: str) -> float | None:
    r"""Return the correctness between 0 and 1 in a rubric review, or ``None``.

    The first or last line must hold only the number, perhaps after a word such as correctness.

    >>> parse_grade("0.5\nHalf of the truth is there."), parse_grade("Correctness: 1.0")
    (0.5, 1.0)
    >>> parse_grade("0.3 to 0.5") is None
    True
    """
    lines = _lines(text)
    grades = {float(match[1]) for line in lines[:1] + lines[-1:] if (match := _GRADE.fullmatch(line))}
    return grades.pop() if len(grades) == 1 and max(grades) <= 1 else None


def _lines(text: str) -> list[str]:
    """Return the non-empty lines with full-width characters folded and Markdown marks removed."""
    text = unicodedata.normalize("NFKC", text).replace("\u2019", "'")
    text = re.sub(r"```[a-z]*|`|\*\*", "", text)
    text = re.sub(r"(?m)^\s*(?:#{1,6}|[-*•>])\s+", "", text)
    text = _CHINESE.sub(lambda m: _DIGITS[m[1]] + ("." + _DIGITS[m[2]] if m[2] else "") + "分", text)
    return [line.strip() for line in text.split("\n") if line.strip()]


def _unique_value(statements: list[_Statement]) -> float | None:
    """Return the only value of an answer, or its only final value if several differ."""
    if len({statement.value for statement in statements}) > 1:
        statements = [statement for statement in statements if statement.final]
    values = {statement.value for statement in statements}
    return values.pop() if len(values) == 1 and any(s.certain for s in statements) else None


def _pair(match: re.Match[str], line: str) -> list[_Statement]:
    final = _SUMS_UP.search(line) is not None
    return [_Statement(answer, value, final) for answer, value in enumerate(_numbers(match)[:2])]


def _numbers(match: re.Match[str]) -> list[float]:
    """Return the unnamed groups, which are the numbers of a statement, in order."""
    named = set(match.re.groupindex.values())
    groups = enumerate(match.groups(), start=1)
    return [float(group) for index, group in groups if index not in named and group is not None]


def _answer(match: re.Match[str]) -> int:
    label = match["ac"] or match["al"]
    return 0 if label.upper() in ("1", "ONE", "A", "一") else 1


def _statements(lines: list[str]) -> Iterator[_Statement]:
    """Yield every statement of a score in the lines of a review."""
    section: int | None = None
    for index, line in enumerate(lines):
        final = _SUMS_UP.search(line) is not None
        heading = _HEADING.fullmatch(line)
        if heading:
            section = _answer(heading)
            continue
        yield from _pairs_in(lines, index)
        certain = _is_list_of_scores(lines, index)
        yield from (
            _Statement(answer, _numbers(m)[0], final) for m in _BOTH.finditer(line) for answer in (0, 1)
        )
        # A statement about both answers must not be read again as one about the second.
        rest = _TWO.sub(";", _BOTH.sub(";", line))
        yield from (_Statement(_answer(m), _numbers(m)[0], final, certain) for m in _ITEM.finditer(rest))
        for pattern in _ABOUT:
            yield from (_Statement(_answer(m), _numbers(m)[0], final) for m in pattern.finditer(rest))
        score = _SECTION_SCORE.fullmatch(line)
        if score and section is not None:
            yield _Statement(section, _numbers(score)[0], final)


def _pairs_in(lines: list[str], index: int) -> Iterator[_Statement]:
    """Yield two scores stated at once: a tuple, two numbers on a line, "scores of 1 and 2 are 8 and 9"."""
    line, before = lines[index], lines[index - 1] if index else ""
    match = _TUPLE_END.search(line)
    whole = _PAIR_LINE.fullmatch(line)
    if whole:
        # A pair alone on its line counts after a word for scores, on the last line, or next to answer names.
        beside = before + "\n" + (lines[index + 1] if index + 1 < len(lines) else "")
        marked = bool(whole["word"]) or (before.endswith(":") and _is_rating(before))
        last = index == len(lines) - 1 and not before.endswith(":")
        named = line[0] in "([" and re.search(_LABEL.format("x"), beside, _FLAGS)
        match = whole if marked or last or (named and not before.endswith(":")) else None
    if match:
        yield from _pair(match, line)
    for match in _TWO.finditer(line):
        if re.search(_SCORE, line, _FLAGS) and _answer(match) == 0:
            yield from _pair(match, line)


def _is_list_of_scores(lines: list[str], index: int) -> bool:
    """Return whether "Assistant 1: 8" is a score here: neither the line nor a heading says otherwise."""
    rest = _ITEM.sub("", lines[index])
    if _COUNTS.search(rest) or (re.search(r"[^\W\d]", rest) and not re.search(_SCORE, rest, _FLAGS)):
        return False
    above = next((line for line in reversed(lines[:index]) if not _ITEM.search(line)), "")
    return not above.endswith(":") or _is_rating(above)


def _is_rating(heading: str) -> bool:
    return _RATES.search(heading) is not None and _COUNTS.search(heading) is None

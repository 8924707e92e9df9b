"""Numbers of freely translated texts: which of them has no counterpart on the other side?

Translators write 40,000 as 四万, two decades as 二十年, 3 p.m. as 15 点. A number therefore has several
readings, and it is a fault only where the other text has none of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ziya_visual.forge.checks.dictionary import Dictionary
from ziya_visual.forge.checks.numbers import _chinese, _english

_HAN_DIGITS = "零〇一二两三四五六七八九十百千万亿"
# Seventeenth, twentieth: read as seventeen and twenty. Third to tenth have lists of their own.
_ORDINAL = re.compile(
    r"\b(eleven|(?:thir|four|fif|six|seven|eigh|nine)teen|twent|thirt|fort|fift|sixt|sevent|eight|ninet"
    r"|hundred|thousand|million)(th|ieth)s?\b"
)
_NUMERIC_GLOSS = re.compile(
    r"\d|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|sixty|seventy"
    r"|eighty|ninety|hundred|thousand|million|billion|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth"
    r"|january|february|march|april|may|june|july|august|september|october|november|december)\b"
)
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
    "november", "december",
)  # fmt: skip
_SPOKEN = {
    "decades?": {10.0}, "dozens?": {12.0, 10.0}, "centur(?:y|ies)": {100.0}, "fortnight": {14.0, 2.0},
    "weeks?": {7.0}, "quarters?": {15.0, 3.0, 4.0, 45.0, 25.0, 75.0},
    "half|halves": {0.5, 50.0, 30.0, 2.0, 1.5},
    "hundreds|thousands|millions|billions|tens|scores": {10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9},
}  # fmt: skip
_TEXTUAL_EN = {"twin": 2, "trio": 3, "duo": 2, "quartet": 4, "fortnight": 14, "teenage": 10, "zero": 0}


@dataclass(frozen=True, slots=True)
class Said:
    """``firm`` numbers with their readings need a counterpart; ``any`` is all that the text may say."""

    firm: Mapping[float, frozenset[float]]
    any: frozenset[float]

    def misses(self, other: Said) -> bool:
        """Whether a firm number has no reading among what the other text may say."""
        return any(other.any.isdisjoint(readings) for readings in self.firm.values())


def english_numbers(text: str) -> Said:
    """Of an English text; 0 and 1 are never firm."""
    low = text.lower().replace("’", "'")
    low = re.sub(r"(\d)\.(\d\d)(?=\s*[ap]\.?m\b)", r"\1:\2", low.replace("twelfth", "twelve"))
    low = re.sub(r"(?<=ty)[ -]first\b", "-one", re.sub(r"(?<=ty)[ -]second\b", "-two", low))
    low = re.sub(r"\b(?:no one|one another|one of|at once|second-hand|fifty-fifty)\b", " ", low)
    firm_counts, loose_counts = _english(
        _ORDINAL.sub(lambda m: m[1] + ("y" if m[2].startswith("i") else ""), low)
    )
    firm = {float(value) for value in firm_counts}
    loose = {float(value) for value in loose_counts}
    loose |= {float(n) for n, name in enumerate(_MONTHS, start=1) if re.search(rf"\b{name[:3]}", low)}
    loose |= {float(value) for word, value in _TEXTUAL_EN.items() if re.search(rf"\b{word}s?\b", low)}
    ordinals = {v for v in loose if v >= 3 and re.search(_ordinal(v), low)}
    readings = {value: frozenset({value} | _english_readings(value, low)) for value in firm | loose}
    more = set().union(*readings.values(), _spoken(low))
    for digits, scale in re.findall(r"(\d+(?:\.\d+)?)\s?(bn|m|k|tn)\b", low):
        more.add(float(digits) * {"k": 1e3, "m": 1e6, "bn": 1e9, "tn": 1e12}[scale])
        firm.discard(float(digits))
        loose.add(float(digits))
    hidden = {float(d) for d in re.findall(r"(?:[a-z]-?|')(\d+)", low)}  # COVID-19, '98
    firm = (firm | ordinals) - {0, 1} - hidden
    return Said({value: readings[value] for value in firm}, frozenset(firm | loose | more))


def _ordinal(value: float) -> str:
    words = {
        3: "third",
        4: "fourth",
        5: "fifth",
        6: "sixth",
        7: "seventh",
        8: "eighth",
        9: "ninth",
        10: "tenth",
    }
    return rf"\b{words.get(int(value), '-')}\b"


def _english_readings(value: float, low: str) -> set[float]:
    """What else a translator may write for a number, given the words of its text."""
    found: set[float] = set()
    for pattern, times in ((r"decades?", 10), (r"dozens?", 12), (r"centur(?:y|ies)", 100), (r"weeks?", 7)):
        if re.search(rf"\b{pattern}\b", low):
            found.add(times * value)
    if value <= 12 and re.search(
        r"\b(?:past|to|afternoon|evening|night)\b|o'clock|\bp\.?m\b|\d[:.]\d\d", low
    ):
        found |= {value + 12, value - 1}
    if value < 60 and re.search(r"\bto\b", low):
        found.add(60 - value)  # twenty to four
    if re.search(r"\bhalf\b", low):
        found.add(value + 0.5)
    if re.search(r"\d0'?s\b", low):
        found |= {value % 100, (value // 100) + 1}
    if re.search(r"'\d\d\b", low):
        found |= {1900 + value, 2000 + value}
    return found


def _spoken(low: str) -> set[float]:
    """Numbers that stand in words without a number: a quarter, a dozen, hundreds."""
    found: set[float] = set()
    for pattern, values in _SPOKEN.items():
        if re.search(rf"\b(?:{pattern})\b", low):
            found |= values
    return found


def chinese_numbers(text: str) -> Said:
    """Of a Chinese text; numerals inside words that say no number (四川, 三明治) are not firm."""
    text = text.translate(str.maketrans("０１２３４５６７８９，．", "0123456789,."))
    masked, loose = text, set[float]()
    for word in Dictionary.load().words(text):
        odd = re.search(f"[{_HAN_DIGITS}]", word.text) and re.search(f"[^{_HAN_DIGITS}]", word.text)
        counted = re.search(f"[{_HAN_DIGITS}\\d.]$", text[: word.start])  # 5.2万名
        if odd and not counted and (word.name or not _NUMERIC_GLOSS.search(word.gloss.lower())):
            loose |= _values(word.text)
            masked = masked[: word.start] + " " * (word.end - word.start) + masked[word.end :]
    masked = re.sub(r"[几数上成好]+[十百千万亿]+", " ", masked)
    masked = re.sub(r"百分之百", "100%", masked).replace("百分之", " ")
    loose |= {
        10 * value for tenths in re.findall("([二三四五六七八九])成", masked) for value in _values(tenths)
    }
    masked = re.sub("[一二三四五六七八九]成", " ", masked)
    fractions = re.findall(rf"([{_HAN_DIGITS}\d]+)分之([{_HAN_DIGITS}\d.]+)", masked)
    for whole in fractions:
        for part in whole:
            loose |= _values(part)
    masked = re.sub(rf"[{_HAN_DIGITS}\d]+分之[{_HAN_DIGITS}\d.]+", " ", masked)
    for era in re.findall(rf"([{_HAN_DIGITS}\d]+)(?:世纪|年代)", masked):
        loose |= _values(era)
    century = re.search(r"(\d+|[二十一]+)世纪(\d+|[一二三四五六七八九十]+)年代", masked)
    if century:
        loose |= {100 * (c - 1) + d for c in _values(century[1]) for d in _values(century[2])}
    counts, loose_counts = _chinese(re.sub(r"第(?=[二三四五六七八九十])", " ", masked))
    loose |= {float(value) for value in loose_counts}
    firm = {float(value) for value in counts} - {0, 1} - loose
    readings = {v: frozenset({v} | _chinese_readings(v, text)) for v in {*map(float, counts), *loose}}
    more = set().union(*readings.values())
    more |= {0.5, 30.0, 2.0, 50.0} if "半" in text else set()
    more |= {15.0, 45.0} if "刻" in text else set()
    return Said({value: readings[value] for value in firm}, frozenset(more))


def _chinese_readings(value: float, text: str) -> set[float]:
    """What the English may have for a Chinese number, given the characters of its text."""
    found: set[float] = set()
    if value <= 12 and re.search("下午|晚|傍晚|夜", text):
        found.add(value + 12)
    if "半" in text:
        found.add(value + 0.5)
    if re.search("[周星期礼拜]", text):
        found.add(7 * value)
    if re.search("[倍番]", text):
        found |= {value + 1, value - 1, 2.0}
    return found


def _values(numeral: str) -> set[float]:
    counts, loose = _chinese(numeral)
    return {float(value) for value in [*counts, *loose]}


def numbers_differ(english: str, chinese: str) -> bool:
    """Whether a number of one text has no counterpart in the other."""
    ours, theirs = english_numbers(english), chinese_numbers(chinese)
    return ours.misses(theirs) or theirs.misses(ours)

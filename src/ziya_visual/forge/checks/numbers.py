"""Numbers in texts, in digits or in English and Chinese words, and which of them lack a counterpart.

:func:`read_numbers` reads a text literally. Translators, however, write 40,000 as 四万, two decades as
二十年, 3 p.m. as 15 点, so for free translations a number has several readings (:func:`english_numbers`,
:func:`chinese_numbers`) and is a fault only if the other text has none of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from ziya_visual.forge.checks.dictionary import Dictionary, blank, number_map, phrases, word_list

_EN = {word: value for value, word in enumerate(word_list("en_units"))} | number_map("en_tens")
_EN_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_EN_ORDINALS = number_map("en_ordinals")
_MONTHS = {name: number for number, name in enumerate(word_list("months"), start=1)}
_EN_LOOSE = _MONTHS | number_map("en_loose")
_ZH_DIGITS = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"两": 2, "〇": 0, "俩": 2}
_ZH_SCALES = {"十": 10, "百": 100, "千": 1000}
_ZH_BIG = {"万": 10**4, "亿": 10**8}
_ZH_LOOSE = {"双": 2, "对": 2, "半": 2, "打": 12}
_HAN_DIGITS = "零〇一二两三四五六七八九十百千万亿"
_WIDE = str.maketrans("０１２３４５６７８９，．", "0123456789,.")
_DIGITS = r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_EN_ALL = sorted([*_EN, *_EN_SCALES, *_EN_ORDINALS, *_EN_LOOSE], key=len, reverse=True)
_EN_NUMBER = re.compile(rf"(?:{_DIGITS})|\b(?:{'|'.join(_EN_ALL)})\b", re.IGNORECASE)
_ZH_NUMBER = re.compile(rf"(?:{_DIGITS})\s*[十百千万亿]*|[零〇一二两俩三四五六七八九十百千万亿]+|[双对半打]")

Numbers = Counter[float]


def read_numbers(text: str, lang: str) -> tuple[Numbers, set[float]]:
    """Return the numbers of a text with their counts, and all numbers it may be read to have.

    1 and 0 are left out: "one" and "a" are each other's translation too often to be compared.

    >>> read_numbers("Two dogs and 3,000 cats", "en")[0] == read_numbers("两只狗和三千只猫", "zh")[0]
    True
    """
    text = text.translate(_WIDE)
    firm, loose = _chinese(text) if lang.split("-")[0] == "zh" else _english(text.lower())
    for numbers in (firm, loose):
        numbers.pop(1.0, None)
        numbers.pop(0.0, None)
    return firm, set(loose) | set(firm)


def _rounded(value: float) -> float:
    return float(f"{value:.10g}")


def _english(text: str) -> tuple[Numbers, Numbers]:
    """Return (numbers, words that may be numbers) of a lower-case English text."""
    firm, loose = Numbers(), Numbers()
    total, current, is_open, end = 0.0, 0.0, False, 0

    def close() -> None:
        nonlocal total, current, is_open
        if is_open:
            firm[_rounded(total + current)] += 1
        total, current, is_open = 0.0, 0.0, False

    for match in _EN_NUMBER.finditer(text):
        word = match.group()
        if is_open and not re.fullmatch(r"[\s-]+(?:and\s+)?", text[end : match.start()]):
            close()
        end = match.end()
        if word in _EN_SCALES:
            if not is_open:
                loose[float(_EN_SCALES[word])] += 1
                continue
            current *= _EN_SCALES[word]
            if word != "hundred":
                total, current = total + current, 0.0
        elif word in _EN_ORDINALS or word in _EN_LOOSE:
            if word in _EN_ORDINALS and is_open and current % 10 == 0 and current >= 20:
                current += _EN_ORDINALS[word]
            else:
                close()
                loose[float((_EN_ORDINALS | _EN_LOOSE)[word])] += 1
        else:
            value = float(_EN[word] if word in _EN else word.replace(",", ""))
            if is_open and not (
                (current >= 20 and current % 10 == 0 and value < 10) or current >= 100 > value
            ):
                close()
            current, is_open = current + value, True
    close()
    return firm, loose


def _chinese(text: str) -> tuple[Numbers, Numbers]:
    """Return (numbers, numerals that may mean something else) of a Chinese text."""
    firm, loose = Numbers(), Numbers()
    for match in _ZH_NUMBER.finditer(text):
        token = match.group()
        if token in _ZH_LOOSE:
            loose[float(_ZH_LOOSE[token])] += 1
        elif all(char in "十百千万亿" for char in token) and token != "十":
            loose[_chinese_value("一" + token)] += 1  # 千, 万: "thousands of"
        elif text[match.start() - 1 : match.start()] == "第":
            loose[_chinese_value(token)] += 1
        elif len(token) > 1 and all(char in _ZH_DIGITS and char not in "零〇" for char in token):
            if len(token) > 2:  # 一九九八: a year; but 两三个: "two or three"
                firm[float("".join(str(_ZH_DIGITS[char]) for char in token))] += 1
            loose.update(float(_ZH_DIGITS[char]) for char in token)
        else:
            firm[_chinese_value(token)] += 1
    return firm, loose


def _chinese_value(token: str) -> float:
    """Return the value of a numeral in digits or Chinese characters.

    By hand: ``cn2an`` refuses 俩 and bare 万, and takes twelve times as long.
    """
    digits = re.match(_DIGITS, token)
    if digits:
        value = float(digits.group().replace(",", ""))
        for char in token[digits.end() :].strip():
            value *= (_ZH_SCALES | _ZH_BIG)[char]
        return _rounded(value)
    total, section, digit = 0.0, 0.0, 0.0
    for char in token:
        if char in _ZH_DIGITS:
            digit = _ZH_DIGITS[char]
        elif char in _ZH_SCALES:
            section += (digit or 1.0) * _ZH_SCALES[char]
            digit = 0.0
        else:
            total = (total + section + digit) * _ZH_BIG[char]
            section, digit = 0.0, 0.0
    return _rounded(total + section + digit)


# --- with the readings of a free translation ---

_ORDINAL = phrases("ordinal")
_NUMERIC_GLOSS = phrases("numeric_gloss")
_PERIODS = ((r"decades?", 10), (r"dozens?", 12), (r"centur(?:y|ies)", 100), (r"weeks?", 7))
_SPOKEN = {
    "decades?": {10.0}, "dozens?": {12.0, 10.0}, "centur(?:y|ies)": {100.0}, "fortnight": {14.0, 2.0},
    "weeks?": {7.0}, "quarters?": {15.0, 3.0, 4.0, 45.0, 25.0, 75.0},
    "half|halves": {0.5, 50.0, 30.0, 2.0, 1.5},
    "hundreds|thousands|millions|billions|tens|scores": {10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9},
}  # fmt: skip
_ABBREVIATED = {"k": 1e3, "m": 1e6, "bn": 1e9, "tn": 1e12}


class ReadNumbers(NamedTuple):
    """The numbers of a text: ``firm`` ones, with readings, need a counterpart; ``any`` are all readings."""

    firm: Mapping[float, frozenset[float]]
    any: frozenset[float]


def numbers_differ(english: str, chinese: str) -> bool:
    """Return whether a number of one text has no counterpart in the other."""
    english_side, chinese_side = english_numbers(english), chinese_numbers(chinese)
    sides = ((english_side.firm, chinese_side.any), (chinese_side.firm, english_side.any))
    return any(known.isdisjoint(readings) for firm, known in sides for readings in firm.values())


def english_numbers(text: str) -> ReadNumbers:
    """Read the numbers of an English text; 0 and 1 are never firm."""
    low = text.lower().replace("’", "'")
    low = re.sub(r"(\d)\.(\d\d)(?=\s*[ap]\.?m\b)", r"\1:\2", low.replace("twelfth", "twelve"))
    low = re.sub(r"(?<=ty)[ -]first\b", "-one", re.sub(r"(?<=ty)[ -]second\b", "-two", low))
    low = re.sub(r"\b(?:no one|one another|one of|at once|second-hand|fifty-fifty)\b", " ", low)
    firm_counts, loose_counts = _english(
        _ORDINAL.sub(lambda m: m[1] + ("y" if m[2].startswith("i") else ""), low)
    )
    firm, loose = set(firm_counts), set(loose_counts)
    loose |= {float(number) for name, number in _MONTHS.items() if re.search(rf"\b{name[:3]}", low)}
    textual = number_map("en_textual").items()
    loose |= {float(value) for word, value in textual if re.search(rf"\b{word}s?\b", low)}
    ordinals = {float(v) for word, v in _EN_ORDINALS.items() if v in loose and re.search(rf"\b{word}\b", low)}
    readings = {value: frozenset({value} | _english_readings(value, low)) for value in firm | loose}
    more = set().union(*readings.values())
    for pattern, values in _SPOKEN.items():  # numbers in words: a quarter, a dozen, hundreds
        if re.search(rf"\b(?:{pattern})\b", low):
            more |= values
    for digits, scale in re.findall(r"(\d+(?:\.\d+)?)\s?(bn|m|k|tn)\b", low):
        more.add(float(digits) * _ABBREVIATED[scale])
        firm.discard(float(digits))
        loose.add(float(digits))
    hidden = {float(d) for d in re.findall(r"(?:[a-z]-?|')(\d+)", low)}  # COVID-19, '98
    firm = (firm | ordinals) - {0, 1} - hidden
    return ReadNumbers({value: readings[value] for value in firm}, frozenset(firm | loose | more))


def _english_readings(value: float, low: str) -> set[float]:
    """Return what else a translator may write for a number, given the other words of its text."""
    readings = {times * value for pattern, times in _PERIODS if re.search(rf"\b{pattern}\b", low)}
    if value <= 12 and re.search(
        r"\b(?:past|to|afternoon|evening|night)\b|o'clock|\bp\.?m\b|\d[:.]\d\d", low
    ):
        readings |= {value + 12, value - 1}
    if value < 60 and re.search(r"\bto\b", low):
        readings.add(60 - value)  # twenty to four
    if re.search(r"\bhalf\b", low):
        readings.add(value + 0.5)
    if re.search(r"\d0'?s\b", low):
        readings |= {value % 100, (value // 100) + 1}
    if re.search(r"'\d\d\b", low):
        readings |= {1900 + value, 2000 + value}
    return readings


def chinese_numbers(text: str) -> ReadNumbers:
    """Read the numbers of a Chinese text; numerals inside other words (四川, 三明治) are not firm."""
    text = text.translate(_WIDE)
    masked, loose = text, set[float]()
    for word in Dictionary.load().words(text):
        odd = re.search(f"[{_HAN_DIGITS}]", word.text) and re.search(f"[^{_HAN_DIGITS}]", word.text)
        counted = re.search(f"[{_HAN_DIGITS}\\d.]$", text[: word.span[0]])  # 5.2万名
        if odd and not counted and (word.name or not _NUMERIC_GLOSS.search(word.gloss.lower())):
            loose |= _values(word.text)
            masked = blank(masked, [word.span])
    masked = re.sub(r"[几数上成好]+[十百千万亿]+", " ", masked)
    masked = re.sub(r"百分之百", "100%", masked).replace("百分之", " ")
    for tenths in re.findall("([二三四五六七八九])成", masked):
        loose |= {10 * value for value in _values(tenths)}
    masked = re.sub("[一二三四五六七八九]成", " ", masked)
    fraction = re.compile(rf"([{_HAN_DIGITS}\d]+)分之([{_HAN_DIGITS}\d.]+)")
    for whole, part in fraction.findall(masked):
        loose |= _values(whole) | _values(part)
    masked = fraction.sub(" ", masked)
    for era in re.findall(rf"([{_HAN_DIGITS}\d]+)(?:世纪|年代)", masked):
        loose |= _values(era)
    century = re.search(r"(\d+|[二十一]+)世纪(\d+|[一二三四五六七八九十]+)年代", masked)
    if century:
        loose |= {100 * (c - 1) + d for c in _values(century[1]) for d in _values(century[2])}
    counts, loose_counts = _chinese(re.sub(r"第(?=[二三四五六七八九十])", " ", masked))
    loose |= set(loose_counts)
    firm = set(counts) - {0, 1} - loose
    readings = {v: frozenset({v} | _chinese_readings(v, text)) for v in {*counts, *loose}}
    more = set().union(*readings.values())
    more |= {0.5, 30.0, 2.0, 50.0} if "半" in text else set()
    more |= {15.0, 45.0} if "刻" in text else set()
    return ReadNumbers({value: readings[value] for value in firm}, frozenset(more))


def _chinese_readings(value: float, text: str) -> set[float]:
    """Return what the English may have for a Chinese number, given the other characters of its text."""
    readings: set[float] = set()
    if value <= 12 and re.search("下午|晚|傍晚|夜", text):
        readings.add(value + 12)
    if "半" in text:
        readings.add(value + 0.5)
    if re.search("[周星期礼拜]", text):
        readings.add(7 * value)
    if re.search("[倍番]", text):
        readings |= {value + 1, value - 1, 2.0}
    return readings


def _values(numeral: str) -> set[float]:
    counts, loose = _chinese(numeral)
    return {*counts, *loose}

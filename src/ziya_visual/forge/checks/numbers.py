"""The numbers that a text says, in digits or in the words of English and Chinese."""

from __future__ import annotations

import re
from collections import Counter

_EN = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
        " sixteen seventeen eighteen nineteen".split()
    )
} | {
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}
_EN_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_EN_ORDINALS = {
    "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10
}  # fmt: skip
# Words that may be said as a number in the other language, or not.
_EN_LOOSE = {
    "both": 2, "pair": 2, "pairs": 2, "couple": 2, "twice": 2, "double": 2, "second": 2, "twin": 2,
    "either": 2, "other": 2, "half": 2, "neither": 2, "each": 2, "between": 2, "dozen": 12, "dozens": 10,
    "quarter": 4, "triple": 3, "several": 3, "few": 3, "various": 3, "january": 1, "february": 2, "march": 3,
    "april": 4, "may": 5, "june": 6, "july": 7, "august": 8, "september": 9, "october": 10,
    "november": 11, "december": 12,
}  # fmt: skip
_ZH_DIGITS = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"两": 2, "〇": 0, "俩": 2}
_ZH_SCALES = {"十": 10, "百": 100, "千": 1000}
_ZH_BIG = {"万": 10**4, "亿": 10**8}
_ZH_LOOSE = {"双": 2, "对": 2, "半": 2, "打": 12}
_DIGITS = r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_EN_WORDS = sorted([*_EN, *_EN_SCALES, *_EN_ORDINALS, *_EN_LOOSE], key=len, reverse=True)
_EN_NUMBER = re.compile(rf"(?:{_DIGITS})|\b(?:{'|'.join(_EN_WORDS)})\b", re.IGNORECASE)
_ZH_NUMBER = re.compile(rf"(?:{_DIGITS})\s*[十百千万亿]*|[零〇一二两俩三四五六七八九十百千万亿]+|[双对半打]")

Numbers = Counter[str]


def _shown(value: float) -> str:
    return f"{value:.10g}"


def read_numbers(text: str, lang: str) -> tuple[Numbers, set[str]]:
    """(numbers the text says with how often, numbers it may be read to say); ``1`` is left out.

    "One" and "a" are each other's translation too often to be asked for.

    >>> read_numbers("Two dogs and 3,000 cats", "en")[0] == read_numbers("两只狗和三千只猫", "zh")[0]
    True
    """
    text = text.translate(str.maketrans("０１２３４５６７８９，．", "0123456789,."))
    said, loose = _chinese(text) if lang.split("-")[0] == "zh" else _english(text.lower())
    for numbers in (said, loose):
        numbers.pop("1", None)
        numbers.pop("0", None)
    return said, set(loose) | set(said)


def _english(text: str) -> tuple[Numbers, Numbers]:
    said, loose = Numbers(), Numbers()
    total, current, open_, end = 0.0, 0.0, False, 0

    def close() -> None:
        nonlocal total, current, open_
        if open_:
            said[_shown(total + current)] += 1
        total, current, open_ = 0.0, 0.0, False

    for match in _EN_NUMBER.finditer(text):
        word = match.group()
        if open_ and not re.fullmatch(r"[\s-]+(?:and\s+)?", text[end : match.start()]):
            close()
        end = match.end()
        if word in _EN_SCALES:
            if not open_:
                loose[_shown(_EN_SCALES[word])] += 1
                continue
            current *= _EN_SCALES[word]
            if word != "hundred":
                total, current = total + current, 0.0
        elif word in _EN_ORDINALS or word in _EN_LOOSE:
            if word in _EN_ORDINALS and open_ and current % 10 == 0 and current >= 20:
                current += _EN_ORDINALS[word]
            else:
                close()
                loose[_shown((_EN_ORDINALS | _EN_LOOSE)[word])] += 1
        else:
            value = float(_EN[word] if word in _EN else word.replace(",", ""))
            if open_ and not ((current >= 20 and current % 10 == 0 and value < 10) or current >= 100 > value):
                close()
            current, open_ = current + value, True
    close()
    return said, loose


def _chinese(text: str) -> tuple[Numbers, Numbers]:
    said, loose = Numbers(), Numbers()
    for match in _ZH_NUMBER.finditer(text):
        token = match.group()
        if token in _ZH_LOOSE:
            loose[_shown(_ZH_LOOSE[token])] += 1
            continue
        if all(char in "十百千万亿" for char in token) and token != "十":
            loose[_shown(_chinese_value("一" + token))] += 1  # 千, 万: "thousands of"
            continue
        if text[match.start() - 1 : match.start()] == "第":
            loose[_shown(_chinese_value(token))] += 1
            continue
        values = [_chinese_value(token)]
        if (
            len(token) > 1
            and all(char in _ZH_DIGITS for char in token)
            and "零" not in token
            and "〇" not in token
        ):
            # 两三个: "two or three"; 一九九八: a year
            values = [] if len(token) == 2 else [float("".join(str(_ZH_DIGITS[char]) for char in token))]
            loose.update(_shown(_ZH_DIGITS[char]) for char in token)
        said.update(_shown(value) for value in values)
    return said, loose


def _chinese_value(token: str) -> float:
    digits = re.match(_DIGITS, token)
    if digits:
        value = float(digits.group().replace(",", ""))
        for char in token[digits.end() :].strip():
            value *= (_ZH_SCALES | _ZH_BIG)[char]
        return value
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
    return total + section + digit

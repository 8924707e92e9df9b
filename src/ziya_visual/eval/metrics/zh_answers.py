"""Chinese short answers compared fairly: the same answer is written in many ways.

In order: full-width forms become half-width (NFKC), letters lower case, spaces and punctuation go (not what
parts the digits of 3.5, 1/2, 3:30 or 3-5), a leading ``答案是`` or ``它是`` and a trailing ``的`` go, yes
and no in their forms become ``是`` and ``否``, a Chinese numeral that stands alone or before a measure word
becomes digits, the measure word goes, and a colour loses its ``色``. ``三角形`` stays: it counts nothing.
"""

from __future__ import annotations

import functools
import re
import unicodedata

_YES = frozenset("是 是的 对 对的 對 對的 有 有的 存在 可以 能 会 没错 正确 yes true".split())
_NO = frozenset(
    "否 不 不是 不是的 不对 没有 没 沒有 沒 无 無 不存在 不可以 不能 不会 错 错误 不正确 no false".split()
)
_COLORS = frozenset("红 橙 黄 绿 青 蓝 紫 黑 白 灰 粉 棕 褐 金 银 米 深红 浅蓝 深蓝 粉红 橘".split())
_MEASURES = (
    "个只条张辆头匹朵本件位名座把双台架艘列瓶杯碗盘块片颗粒棵根支枝间层群幅副顶扇盏栋岁种次個隻條張輛頭顆雙臺"
)
_DIGITS = {char: i for i, char in enumerate("零一二三四五六七八九")} | {"两": 2, "兩": 2, "〇": 0}
_UNITS = {"十": 10, "百": 100, "千": 1000}
_LEAD = re.compile(r"^(?:答案是|答案|这是|那是|它是|图中是|一共有|总共有|共有|大约有|大约|约)+(?=.)")
_NUMERAL = r"[零〇一二两兩三四五六七八九十百千万]+"
_COUNTED = re.compile(rf"^({_NUMERAL}|\d+)(?:[{_MEASURES}](.*))?$")
_IN_NUMBER = re.compile(r"(?<=\d)[.:/-](?=\d)")


def read_numeral(text: str) -> int | None:
    """The value of a Chinese numeral below 100 million, or ``None``.

    >>> [read_numeral(text) for text in ("两", "十二", "一百零三", "二〇二四", "十十")]
    [2, 12, 103, 2024, None]
    """
    if "万" in text:
        high, _, low = text.partition("万")
        parts = read_numeral(high), read_numeral(low) if low else 0
        return None if None in parts or not high else int(parts[0] or 0) * 10_000 + int(parts[1] or 0)
    if len(text) > 1 and all(char in _DIGITS for char in text) and not text.startswith("零"):
        return int("".join(str(_DIGITS[char]) for char in text))
    total, digit, last = 0, None, 10_000
    for char in text:
        if char in _DIGITS:
            if digit not in (None, 0):
                return None
            digit = _DIGITS[char]
        elif char in _UNITS and _UNITS[char] < last and digit != 0:
            last = _UNITS[char]
            total += (1 if digit is None else digit) * last
            digit = None
        else:
            return None
    return total + (digit or 0) if text else None


@functools.lru_cache(maxsize=65536)
def normalize_zh(text: str) -> str:
    """The normal form of a short answer, Chinese or mixed.

    >>> [normalize_zh(text) for text in ("两只。", "２个", "红色的", "没有", "三角形", "３.５")]
    ['2', '2', '红', '否', '三角形', '3.5']
    """
    text = unicodedata.normalize("NFKC", text).lower()
    kept = {match.start() for match in _IN_NUMBER.finditer(text)}
    text = "".join(
        char for i, char in enumerate(text) if i in kept or unicodedata.category(char)[0] not in "PZCS"
    )
    text = _LEAD.sub("", text)
    if text in _YES or text in _NO:
        return "是" if text in _YES else "否"
    if len(text) > 1 and text.endswith("的"):
        text = text[:-1]
    if text.endswith("色") and text[:-1] in _COLORS:
        return text[:-1]
    counted = _COUNTED.match(text)
    if counted:
        number = counted[1] if counted[1].isdigit() else read_numeral(counted[1])
        if number is not None:
            return f"{int(number)}{counted[2] or ''}"
    return text

"""Faults put into good Chinese translations, one at a time, without any of the forge's own code or lists.

An injector gets a generator, the English source, its Chinese target and all other targets, and returns a
target with one fault, or None where this pair offers no place for it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

Injector = Callable[[random.Random, str, str, Sequence[str]], str | None]

_COLOURS = "红绿蓝黄紫黑白灰"
_COLOUR_WORDS = {
    "red": "红", "green": "绿", "blue": "蓝", "yellow": "黄", "purple": "紫", "black": "黑", "white": "白",
    "grey": "灰", "gray": "灰", "brown": "棕", "pink": "粉", "orange": "橙",
}  # fmt: skip
_SWAPS = [
    (r"\bleft\b", "左", "右"), (r"\bright\b", "右", "左"), (r"\bnorth", "北", "南"), (r"\bsouth", "南", "北"),
    (r"\beast", "东", "西"), (r"\bwest", "西", "东"), (r"\b(?:above|upper|on top of)\b", "上", "下"),
    (r"\b(?:below|under|beneath|lower)\b", "下", "上"), (r"\bbehind\b", "后", "前"),
    (r"\bin front of\b", "前", "后"),
]  # fmt: skip
_UNITS = [
    ("公里", "英里"), ("千米", "英里"), ("米", "英尺"), ("公斤", "磅"), ("克", "公斤"), ("小时", "分钟"),
    ("分钟", "小时"), ("美元", "欧元"), ("欧元", "美元"), ("英镑", "日元"), ("升", "加仑"), ("度", "克"),
    ("百分之", "千分之"), ("天", "周"), ("秒", "分钟"), ("年", "个月"),
]  # fmt: skip
_UNIT_WORDS = (
    r"\b(?:km|kilomet|met(?:re|er)s?\b|mile|kilogram|kilo|gram|hour|minute|second|dollar|euro|pound|lit(?:re|er)"
    r"|degree|percent|day|year)"
)
NAMES = [
    "默克尔", "柏林", "马德里", "塞维利亚", "挪威", "牙买加", "多瑙河", "托马斯", "安娜", "悉尼", "彼得",
    "波兰", "肯尼亚", "贝多芬", "亚马逊", "达尔文", "维也纳", "牛顿", "葡萄牙", "马丁", "玛丽亚", "大卫",
    "多伦多", "德国", "法国", "日本", "非洲", "南美洲", "罗马", "英国",
]  # fmt: skip
_MORE_NAMES = ["罗伯特", "奥斯陆", "巴西", "华盛顿", "莫斯科", "索菲", "希腊", "芬兰", "威廉", "墨尔本"]
_DIGITS = "二三四五六七八九"


def number(rng: random.Random, source: str, target: str, others: Sequence[str]) -> str | None:
    """Another digit, or another numeral before a measure word or unit."""
    places = [m.span() for m in re.finditer(r"\d", target)]
    if re.search(r"\b(?:two|three|four|five|six|seven|eight|nine)\b|\d", source, re.IGNORECASE):
        counted = "个只条栋名位人票岁分块座颗匹张架辆支根件把片杯年天周级"
        numeral = rf"[两二三四五六七八九](?=[十百千万]?[{counted}]|百|千)"
        places += [m.span() for m in re.finditer(numeral, target)]
    if not places:
        return None
    start, end = rng.choice(places)
    old = target[start:end]
    pool = "123456789" if old.isdigit() else _DIGITS
    new = rng.choice([c for c in pool if c != old and not (old in "两二" and c == "二")])
    return target[:start] + new + target[end:]


def colour(rng: random.Random, source: str, target: str, others: Sequence[str]) -> str | None:
    """A colour that the source names becomes another."""
    said = [zh for en, zh in _COLOUR_WORDS.items() if re.search(rf"\b{en}\b", source) and zh in target]
    if not said:
        return None
    old = rng.choice(said)
    taken = set(target) | {old}
    free = [c for c in _COLOURS if c not in taken]
    return target.replace(old, rng.choice(free), 1) if free else None


def direction(rng: random.Random, source: str, target: str, others: Sequence[str]) -> str | None:
    """Left for right, north for south, above for below, before for behind."""
    found = [(a, b) for pattern, a, b in _SWAPS if re.search(pattern, source, re.IGNORECASE) and a in target]
    found = [(a, b) for a, b in found if b not in target]
    if not found:
        return None
    old, new = rng.choice(found)
    return target.replace(old, new)


def negation(rng: random.Random, source: str, target: str, others: Sequence[str]) -> str | None:
    """A "not" is lost, or one appears."""
    negative = re.search(r"\b(?:not|no|never|nobody|nothing|none|without|cannot)\b|n't\b", source)
    if negative:
        for old, new in (
            ("没有", "有"), ("不是", "是"), ("不能", "能"), ("不会", "会"), ("从没", "曾经"),
            ("请勿", "请"), ("不要", "要"), ("没", ""), ("不", ""), ("未", "已"), ("无人", "有人"),
        ):  # fmt: skip
            if target.count(old) == 1 and not re.search("[没不未无]", target.replace(old, new)):
                return target.replace(old, new)
        return None
    if re.search("[没不未无非别勿]", target) or re.search(r"\b(?:un|in|im|dis)\w{3,}|\w+less\b", source):
        return None
    for old, new in (
        ("有", "没有"), ("是", "不是"), ("会", "不会"), ("能", "不能"), ("在", "不在"), ("可以", "不可以")
    ):  # fmt: skip
        if target.count(old) == 1:
            return target.replace(old, new)
    return None


def unit(rng: random.Random, source: str, target: str, others: Sequence[str]) -> str | None:
    """Miles for kilometres, minutes for hours."""
    if not re.search(_UNIT_WORDS, source):
        return None
    for old, new in _UNITS:
        found = re.search(rf"(?<=[\d一二三四五六七八九十百千万两个多]){old}", target)
        if found and new not in target:
            return target[: found.start()] + new + target[found.end() :]
    return None


def name(rng: random.Random, source: str, target: str, others: Sequence[str]) -> str | None:
    """Somebody or some place else."""
    said = [n for n in NAMES if n in target]
    if not said:
        return None
    old = rng.choice(said)
    return target.replace(old, rng.choice([n for n in NAMES + _MORE_NAMES if n not in target]))


def other_record(rng: random.Random, source: str, target: str, others: Sequence[str]) -> str | None:
    """The translation of another source, of about the same length."""
    near = sorted((t for t in others if t != target), key=lambda t: abs(len(t) - len(target)))[:12]
    return rng.choice(near) if near and len(source.split()) >= 5 else None


def truncated(rng: random.Random, source: str, target: str, others: Sequence[str]) -> str | None:
    """The end is missing."""
    if len(target) < 14:
        return None
    return target[: int(len(target) * rng.uniform(0.3, 0.6))].rstrip("，。、 ")


def leftover(rng: random.Random, source: str, target: str, others: Sequence[str]) -> str | None:
    """A word of the source stands in the target."""
    words = [w for w in re.findall(r"\b[a-z]{4,}\b", source) if w not in target]
    if not words or len(target) < 8:
        return None
    at = rng.randrange(2, len(target) - 3)
    return target[:at] + rng.choice(words) + target[at + 2 :]


def preamble(rng: random.Random, source: str, target: str, others: Sequence[str]) -> str | None:
    """The model talks about its work."""
    frames = (
        "翻译如下：{}", "好的，这是翻译：{}", "Sure, here is the translation: {}", "中文翻译：{}",
        "{}\n\n（注：这里采用了意译。）", "以下是译文：\n{}", "当然可以！翻译结果是：{}",
    )  # fmt: skip
    return rng.choice(frames).format(target)


def refusal(rng: random.Random, source: str, target: str, others: Sequence[str]) -> str | None:
    """The model will not."""
    if re.search(r"(?i)sorry|regret|cannot|can't|unable", source):
        return None
    replies = (
        "抱歉，我无法翻译这段内容。",
        "对不起，我不能协助完成这个请求。",
        "作为一个AI语言模型，我没有办法看到图片。",
        "很抱歉，我无法提供该内容的翻译。",
        "I'm sorry, but I can't help with that.",
    )
    return rng.choice(replies)


def repetition(rng: random.Random, source: str, target: str, others: Sequence[str]) -> str | None:
    """The model loops."""
    at = rng.randrange(2, max(3, len(target) - 4))
    piece = target[at : at + rng.randrange(2, 6)]
    return target[:at] + piece * rng.randrange(5, 9) + target[at + len(piece) :]


def echo(rng: random.Random, source: str, target: str, others: Sequence[str]) -> str | None:
    """Nothing was translated."""
    return source


INJECTORS: dict[str, Injector] = {
    "number": number, "colour": colour, "direction": direction, "negation": negation, "unit": unit,
    "name": name, "other_record": other_record, "truncated": truncated, "leftover": leftover,
    "preamble": preamble, "refusal": refusal, "repetition": repetition, "echo": echo,
}  # fmt: skip

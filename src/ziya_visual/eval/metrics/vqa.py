"""VQA accuracy by four rules: ``vqav2`` (official), ``evalai``, ``lavis``, and ``zh`` (ours).

The rules differ in what they normalize and when: the same TextVQA predictions score 46.80, 57.30 or 56.75.

| rule | prediction | the ten human answers | source |
|---|---|---|---|
| vqav2 | normalized unless all ten agree | the same | GT-Vision-Lab/VQA ``vqaEval.py`` |
| lavis | always normalized | punctuation only, unless all ten agree | LAVIS ``vqa_eval.py`` |
| evalai | always, commas and question marks dropped first | always | Pythia/MMF ``EvalAIAnswerProcessor`` |
| zh | :func:`normalize_zh` | the same | this file |
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence

RULES = ("vqav2", "evalai", "lavis", "zh")

_DIGIT_WORDS = "zero one two three four five six seven eight nine ten".split()
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_DIGIT_WORDS)}
_ARTICLES = {"a", "an", "the"}
# The official table restores exactly one missing apostrophe in each of these.
_APOSTROPHES = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't "
    "haven't he'd he'd've he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll ma'am mightn't "
    "mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've "
    "should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've "
    "someone'll someone's something'd something'd've something'll that's there'd there'd've there're "
    "there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're "
    "what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're "
    "why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're "
    "you've"
).split()
# The official table capitalizes "I" but looks words up in lower case, so these entries never apply. It also
# removes the apostrophe of somebody'd.
_NEVER = {"i'd've", "i'm", "i've"}
_CONTRACTIONS = {
    word[:i] + word[i + 1 :]: word
    for word in _APOSTROPHES
    if word not in _NEVER
    for i, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"(?!<=\d)\.(?!\d)")  # the official pattern, with its misspelt look-behind
_MAX_PERIODS = 32  # the official call passes re.UNICODE (32) as the count


def strip_punctuation(text: str) -> str:
    """Remove marks beside a space, or all marks if a number has a comma; turn the others into spaces."""
    joined = _DIGIT_COMMA.search(text) is not None
    out = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if joined or beside_space else " ")
    return _PERIOD.sub("", out, count=_MAX_PERIODS)


def normalize_words(text: str) -> str:
    """Turn text to lower case and number words to digits (up to ten), drop articles, restore apostrophes."""
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@functools.lru_cache(maxsize=1 << 16)
def normalize_vqav2(text: str) -> str:
    """Return the full official normalization of one answer.

    >>> normalize_vqav2("The two dogs.")
    '2 dogs'
    """
    return normalize_words(strip_punctuation(_flat(text)))


def normalize_evalai(text: str) -> str:
    """Normalize as EvalAI: drop commas and question marks and split off ``'s`` before the official rules."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalize_vqav2(text)


def _flat(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


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
    """Return the value of a Chinese numeral below 100 million, or ``None``.

    ``cn2an`` is not used: it reads 一百一 as 110 and refuses 百万, which would change scores.

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
    """Return the normal form of a short answer, Chinese or mixed.

    In order: full-width characters become half-width (NFKC), letters lower case, and spaces and punctuation
    are removed (except inside 3.5, 1/2, 3:30 or 3-5). A leading ``答案是`` or ``它是`` and a trailing ``的``
    are removed, forms of yes and no become ``是`` and ``否``, a number alone or before a measure word becomes
    digits without the measure word, and a colour loses its ``色``. ``三角形`` stays: its 三 counts nothing.

    >>> [normalize_zh(text) for text in ("两只。", "２个", "红色的", "没有", "三角形", "３.５")]
    ['2', '2', '红', '否', '三角形', '3.5']
    """
    text = unicodedata.normalize("NFKC", text).lower()
    inside_numbers = {match.start() for match in _IN_NUMBER.finditer(text)}
    text = "".join(
        char
        for i, char in enumerate(text)
        if i in inside_numbers or unicodedata.category(char)[0] not in "PZCS"
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


def accuracy(prediction: str, answers: Sequence[str], rule: str) -> float:
    """Return the accuracy of a prediction, 0 to 1: the mean over annotators of min(matches of others / 3, 1).

    ``answers`` are the annotators', normally ten; with fewer, rule ``zh`` accepts any of them.

    >>> accuracy("Two.", ["2"] * 4 + ["3"] * 6, "vqav2")
    1.0
    """
    assert rule in RULES
    if rule == "zh":
        prediction, answers = normalize_zh(prediction), [normalize_zh(answer) for answer in answers]
        if len(answers) < 10:
            return float(prediction in answers)
    elif rule == "evalai":
        prediction, answers = normalize_evalai(prediction), [normalize_evalai(answer) for answer in answers]
    elif rule == "lavis":
        disagree = len(set(answers)) > 1
        prediction = normalize_vqav2(prediction)
        answers = [strip_punctuation(answer) if disagree else answer for answer in answers]
    else:
        prediction, answers = _flat(prediction), [_flat(answer) for answer in answers]
        if len(set(answers)) > 1:
            prediction, answers = normalize_vqav2(prediction), [normalize_vqav2(a) for a in answers]
    matches = answers.count(prediction)
    scores = [min(1.0, (matches - (answer == prediction)) / 3) for answer in answers]
    return sum(scores) / len(scores)


def same_answer(prediction: str, answers: Sequence[str], lang: str) -> bool:
    """Return whether a short answer equals a reference answer after normalization for the language."""
    normalize = normalize_zh if lang.split("-")[0] == "zh" else normalize_vqav2
    return normalize(prediction) in {normalize(answer) for answer in answers}

"""Tokenization of captions before they are scored; the tokens decide the score, so scores carry its name.

English follows the Penn Treebank rules. Chinese has no single convention: ``pre`` keeps the words as the
file separates them, ``char`` takes every character, ``jieba`` uses jieba 0.42.1. The same output scores 0.28,
0.36 or 0.27 CIDEr under them, so a Chinese score always names its segmenter. Other languages do too; they use
the Penn Treebank rules where they put spaces between words.

The second half of this file reproduces pycocoevalcap's PTBTokenizer (Stanford CoreNLP 3.4.1, then punctuation
dropped) without Java. At each position the rule that reaches furthest wins, counting its lookahead, and among
equals the first. ``tests/eval/metrics/test_tokenization.py`` compares the two where Java is installed.
"""

from __future__ import annotations

import functools
import importlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence

from ziya_visual.core.errors import ConfigError, DataError

SEGMENTERS = ("pre", "char", "jieba")
_UNSPACED = ("zh", "ja", "th", "lo", "km", "my")
_IDEOGRAPH = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ffff]")


def tokenize(texts: Sequence[str], segmenter: str) -> list[str]:
    """Return each text as tokens joined by single spaces; ``ptb`` needs file order, since it looks ahead."""
    if segmenter == "ptb":
        return ptb_tokenize(texts)
    if segmenter == "pre":
        return [" ".join(text.split()) for text in texts]
    unspaced = ["".join(text.split()) for text in texts]
    return [" ".join(text) for text in (unspaced if segmenter == "char" else _jieba(unspaced))]


def _jieba(texts: Sequence[str]) -> list[list[str]]:
    try:
        package = importlib.import_module("jieba")
    except ImportError as error:
        raise ConfigError(
            "--segmenter jieba: the package is not installed; pip install jieba==0.42.1, or use char"
        ) from error
    package.setLogLevel(logging.WARNING)
    return [list(package.cut(text)) for text in texts]


def choose_segmenters(lang: str, segmenter: str | None) -> list[tuple[str, str]]:
    """Return (segmenter, score suffix) pairs: English has no suffix, ``[zh:char]`` is Chinese's default."""
    base = lang.split("-")[0].lower()
    known = (*SEGMENTERS, "ptb", "all")
    if segmenter is not None and segmenter not in known:
        raise ConfigError(f"--segmenter {segmenter!r} is not one of {', '.join(known)}")
    if base == "en":
        if segmenter not in (None, "ptb"):
            raise ConfigError(f"--segmenter {segmenter} with --lang en: English is scored with ptb")
        return [("ptb", "")]
    if segmenter == "ptb" and base == "zh":
        raise ConfigError(f"--segmenter ptb is for English; for --lang {lang} use pre, char, jieba or all")
    default, every = ("char", SEGMENTERS) if base in _UNSPACED else ("ptb", ("pre", "char", "ptb"))
    names = every if segmenter == "all" else (segmenter or default,)
    return [(name, f"[{base}:{name}]") for name in names]


def check_texts(texts: Sequence[str], segmenter: str, where: str) -> None:
    """Refuse texts that a segmenter cannot handle: Chinese for PTB, or unsegmented text for ``pre``."""
    joined = "".join(texts)
    share = len(_IDEOGRAPH.findall(joined)) / max(1, sum(char.isalpha() for char in joined))
    if segmenter == "ptb" and share > 0.1:
        raise DataError(
            f"{where}: {share:.0%} of the letters are Chinese, which the English tokenizer cannot split; "
            "use --lang zh"
        )
    if segmenter == "pre" and len(texts) >= 10 and not any(len(text.split()) > 1 for text in texts):
        raise DataError(
            f"{where}: no text contains a space, so none is segmented into words; "
            "use --segmenter char or jieba instead of pre"
        )


# Tokens that pycocoevalcap drops afterwards. Brackets stay: they come out as -lrb- in lower case.
_DROPPED = frozenset("'' ' `` ` . ? ! , : - -- ... ;".split())

# A letter of any script, and a letter or digit. Python's \\w also matches fractions and superscripts.
_NUMERIC = "\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2079\u2080-\u2089\u2150-\u218f\u2460-\u24ff"
_L = rf"[^\W\d_{_NUMERIC}]"
_AN = rf"[^\W_{_NUMERIC}]"
_APOS = "(?:['\u2019\u0092\u00b4]|&apos;)"
_APOS_ANY = "(?:['\u2019\u0092\u00b4`\u2018\u201b\u0091]|&apos;)"
_WORD = rf"{_L}{_AN}*(?:[.!?]{_L}{_AN}*)*"
_NUM = r"(?:\d*(?:[.:,]\d+)+|\d+)"
_NUMBER = rf"[-+]?{_NUM}"
_ACRO = r"(?:[A-Za-z](?:\.[A-Za-z])+|(?:canada|sino|korean|eu|japan|non)-u\.s|u\.s\.-(?:u\.k|u\.s\.s\.r))"
_LINKED = rf"(?:[dDoOlL]{_APOS_ANY}{_AN})?"
_THING = rf"{_LINKED}{_AN}+(?:[-_\u2010\u2011]{_LINKED}{_AN}+)*"
_HYPHENED = rf"[A-Za-z0-9][A-Za-z0-9.,]*(?:-(?:{_ACRO}\.|[A-Za-z0-9]+))+"
_PART = "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_EXTENSION = "(?:[chx]|bmp|docx?|exe|gif|html?|jpe?g|mov|mp[34g]|avi|pdf|php|png|pptx?|py|txt|wav|xml|zip)"

# Abbreviations that keep their full stop: strong ones before any text, weak ones only in some contexts.
_STRONG = (
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri ala ariz calif colo "
    "conn dak fla ga ind kan kans ky md mich minn mo mont neb nev okla penn tenn va vt wis "
    "wisc wyo inc co cos corp ltd plc bancorp bhd assn univ intl sys tel est ext "
    "sq jr bros ed\\.d ph\\.d esq etc al seq"
).split()
_WEAK = (
    "ft dept sr blvd rd mr mrs ms dr drs prof profs sen sens rep reps atty attys lt col gen messrs gov "
    "govs adm rev maj sgt cpl pvt mt capt st ste ave pres lieut hon brig cmdr comdr pfc spc supt supts "
    "det vs alex wm jos cie a\\.k\\.a cf treas invt elec natl ph rt ct bldg"
).split()
# Abbreviations only if capitalized or upper case, and abbreviations only if not upper case.
_STRONG_CAPITALIZED, _CAPITALIZED = "Del Pa Tex La".split(), "Ark Ill Mass Miss Ore Wash Az".split()
_STRONG_NOT_CAPITALS, _NOT_CAPITALS = "pty ptys ppty pptys".split(), "mfg mtg".split()
_BEFORE_NUMBERS = "ca fig figs prop no nos art pp op".split()
# After "T. " one of these words starts a sentence, so the letter was not an initial.
_STARTERS = (
    "About According Additionally After An A As At But Earlier He Her Here However If In It Last Many "
    "More Now Once One Other Our She Since So Some Such That The Their Then There These They This We When "
    "While What Yet You"
).split()

_APOSTROPHE_WORDS = (
    rf"{_APOS}n{_APOS}?|[lLdDjJ]{_APOS}|dunkin{_APOS}|somethin{_APOS}|ol{_APOS}|{_APOS}em|{_APOS}[2-9]0s|"
    rf"[A-HJ-XZn]{_APOS_ANY}{_L}{{2}}{_L}*|{_APOS}till?|{_L}+[aeiouyAEIOUY]{_APOS_ANY}[aeiouA-Z]{_L}*|"
    rf"{_APOS}cause|cont'd\.?|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l|cap{_APOS}n|c{_APOS}est"
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_QUOTES = "\"`'\u2018\u2019\u201c\u201d\u0091\u0092\u0093\u0094\u201a\u201b\u201e\u2039\u203a\u00ab\u00bb"
_CURRENCY = {"\u00a2": "cents", "\u00a3": "#", "\u0080": "$", "\u00a4": "$", "\u20a0": "$", "\u20ac": "$"}
_FRACTIONS = {"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"}


def _rule(token: str, ahead: str = "", *, case: bool = False) -> re.Pattern[str]:
    """Compile a rule: the token to take and the text that must follow, which adds reach but is not taken."""
    return re.compile(rf"(?P<token>{token})(?:{ahead})", 0 if case else re.IGNORECASE)


def _cased(words: Sequence[str], other: Callable[[str], str]) -> str:
    """Return a pattern for the words as written or in another case."""
    return rf"(?:{'|'.join(f'{word}|{other(word)}' for word in words)})"


# Among rules that reach equally far, the first one wins.
_RULES = [
    _rule("can", r"not"), _rule(f"{_APOS}t", "(?:was|is)"), _rule("more", f"{_APOS}n"),
    _rule("gon|wan", "na"), _rule("got", "ta"), _rule("lem|gim", "me"),
    _rule(r"</?[A-Za-z!][^>\n]*>"),
    _rule("[\u2013\u2014\u2015\u0096\u0097]|&(?:md|mdash|ndash);"),
    _rule(r"&(?:amp|lt|gt|quot|nbsp);|&#\d+;"),
    _rule(_WORD, rf"{_APOS}(?:[msd]|re|ve|ll)"),
    _rule(r"[A-Za-z]*[A-MO-Za-mo-z]", f"[nN]{_APOS_ANY}[tT]", case=True),
    _rule(_WORD),
    _rule(_APOSTROPHE_WORDS.replace("[A-HJ-XZn]", "(?-i:[A-HJ-XZn])").replace("[aeiouA-Z]",
    "(?-i:[aeiouA-Z])")), _rule(f"y{_APOS}", _L), _rule(r"https?://[^\s\"<>|()]+[^\s\"<>|.!?(){},-]"),
    _rule(r"(?:www\.(?:[^\s\"<>|.!?(){},]+\.)+[a-z]{2,4}|(?:(?-i:[^\s\"`'|!(){}$,-_])+\.)+(?:com|net|org|edu))"
          r"(?:/[^\s\"<>|()]+[^\s\"<>|.!?(){},-])?"),
    _rule(r"[a-z0-9][^\s\"<>|()]*@(?:[^\s\"<>|().]+\.)*[^\s\"<>|().,;:]+"),
    _rule(rf"@[a-z_][a-z_0-9]*|#{_L}(?:{_AN}|_)*{_AN}"), _rule(r"c\+\+|[cf]#"),
    _rule(rf"{_APOS}(?:[msd]|re|ve|ll)", r"[^A-Za-z]"),
    _rule(f"n{_APOS_ANY}t"),
    _rule(r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}"),
    _rule(_NUMBER),
    _rule(r"(?:\d{1,4}[- \u00a0])?\d{1,4}\\?[/\u2044]\d{1,4}"),
    _rule("[\u00bc-\u00be\u2153-\u215e]"),
    _rule(r"pro-|anti-"),
    _rule(rf"{_PART}(?:\\?/{_PART}){{1,2}}"),
    _rule(r"[A-Z]*\$|#", case=True), _rule("[\u00a2-\u00a5\u0080\u20a0\u20ac\u20a4]"),
    _rule("[A-Za-z]", rf"\.\s+{_cased(_STARTERS, str.upper)}\s", case=True),
    _rule(rf"(?:{'|'.join(_STRONG)})\.", r"[\s\S]{0,2}"),
    _rule(rf"(?:{_ACRO}|[A-Za-z]|{'|'.join(_WEAK)})\."),
    _rule(rf"{_cased(_STRONG_CAPITALIZED, str.upper)}\.", r"[\s\S]{0,2}", case=True),
    _rule(rf"{_cased(_CAPITALIZED, str.upper)}\.", case=True),
    _rule(rf"{_cased(_STRONG_NOT_CAPITALS, str.capitalize)}\.", r"[\s\S]{0,2}", case=True),
    _rule(rf"{_cased(_NOT_CAPITALS, str.capitalize)}\.", case=True),
    _rule(rf"(?:{'|'.join(_BEFORE_NUMBERS)})\.", r"\s?\d"),
    _rule(rf"{_ACRO}", r"\s"),
    _rule(rf"{_APOS}\d\d", r"\s"),
    _rule(rf"{_AN}+(?:\.{_AN}+)*\.{_EXTENSION}", "[\\s.?!,\"'<]"),
    _rule(rf"{_WORD}\.", "[,;:]"),
    _rule(r"(?:\(\d{3}\)[ \u00a0]?|\d{3}[- \u00a0.])\d{3}[- \u00a0.]\d{4}"),
    _rule(r"&lt;|&gt;|[<>]"),
    _rule(r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]]", r"[^A-Za-z0-9]", case=True),
    _rule(r"[-^x=~<>']_[-^x=~<>']"),
    _rule(r"[(){}\[\]]"),
    _rule(r"-+"), _rule(r"\.{3,5}|(?:\.[ \u00a0]){2,4}\.|[\u2026\u0085]"),
    _rule(r"@+|#+|_+|\*+"), _rule(r"[,;:]"), _rule(r"[?!]+"), _rule(r"[.\u00a1\u00bf]|=|/"),
    _rule(rf"{_HYPHENED}\.", "[,;:]"), _rule(_HYPHENED),
    _rule(rf"{_THING}\.", "[,;:]"), _rule(_THING),
    _rule(r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+", case=True),
    _rule("'", r"[A-Za-z][^\s\u00a0]"),
    _rule("\"|''|'|[`\u2018-\u201f\u0091-\u0094\u2039\u203a\u00ab\u00bb\u00b4]{1,2}"),
    _rule("[-+%&~^|\\\\\u00a6\u00a7\u00a9\u00ac\u00ae\u00b0-\u00ba\u00d7\u00f7\u2020-\u2022\u2032-\u2037"
          "\u2100-\u214f\u2190-\u23ff\u25a0-\u27bf\u3001\u3002\u3012-\u3020\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40]"),
]  # fmt: skip
# Fast path: most chunks of a caption are one word, perhaps followed by a closing mark.
_PLAIN = re.compile(r"([A-Za-z]{2,})([.,!?]?)")
_SPLIT = frozenset("cannot gonna wanna gotta lemme gimme".split())
_ABBREVIATED = frozenset(
    word.lower()
    for words in (_STRONG, _WEAK, _STRONG_CAPITALIZED, _CAPITALIZED, _STRONG_NOT_CAPITALS, _NOT_CAPITALS,
                  _BEFORE_NUMBERS)
    for word in words
)  # fmt: skip
# A rule may reach across a space in these lines, so they are scanned whole.
_SPANNING = re.compile(r"\d[ \t\u00a0]+\d|\.\s+[.\d]|\b[A-Za-z]\.\s+[A-Z]|<[A-Za-z!/]|\)[ \u00a0]\d")
# The Java program reads all captions as one text, so the next line decides what these full stops mean.
_OPEN_END = re.compile(rf"(?:(?<![A-Za-z])[A-Za-z]|\b(?:{'|'.join(_BEFORE_NUMBERS)}))\.\s*$", re.IGNORECASE)


def _scan(text: str, end: int) -> Iterator[str]:
    """Yield lower-case tokens that start before ``end``, with punctuation; the text must end in a space."""
    position = 0
    while position < end:
        if text[position].isspace():
            position += 1
            continue
        best, reach = "", 0
        for rule in _RULES:
            match = rule.match(text, position)
            if match and match.end() - position > reach:
                best, reach = match["token"], match.end() - position
        # A symbol that matches no rule is a token; the Java program deletes any other such character.
        yield from _spelled(best or (text[position] if "\u2190" <= text[position] < "\u2c00" else ""))
        position += max(1, len(best))


def _spelled(token: str) -> list[str]:
    """Return the output form of a token: brackets, currency, fractions and dashes are rewritten."""
    if not token:
        return []
    if token in _CURRENCY or token in _FRACTIONS:
        return [_CURRENCY.get(token) or _FRACTIONS[token]]
    if token[0] in _QUOTES:
        if token not in ("\u2019n", "\u0092n"):
            token = "".join("'" if char in "\u2019\u0092\u00b4" else char for char in token)
        if not any(char.isalnum() for char in token):
            return []
    if re.fullmatch(r"-{3,4}|[\u2013\u2014\u2015\u0096\u0097]|&.dash;|&md;", token):
        return ["--"]
    if re.fullmatch(r"\.{3,5}|(?:\.[ \u00a0])+\.|[\u2026\u0085]", token):
        return ["..."]
    token = re.sub(r"&(amp|lt|gt);", lambda m: {"amp": "&", "lt": "<", "gt": ">"}[m[1]], token)
    if re.fullmatch("[nN][\u2019\u0092\u2018\u201b\u0091`\u00b4][tT]", token):
        return ["n't"]
    if token in ("&quot;", "&nbsp;"):
        return []
    if not token.startswith("<"):
        # Inside a smiley only round brackets are renamed.
        token = _BRACKETS.get(token) or re.sub(r"[()]", lambda m: _BRACKETS[m[0]], token)
    return [token.lower().replace(" ", "\u00a0")]


@functools.lru_cache(maxsize=1 << 17)
def _words(text: str, following: str = "") -> tuple[str, ...]:
    plain = _PLAIN.fullmatch(text)
    if plain and (word := plain[1].lower()) not in _SPLIT and not (plain[2] == "." and word in _ABBREVIATED):
        return (word,)
    return tuple(t for t in _scan(f"{text}\n{following} ", len(text)) if t not in _DROPPED)


def ptb_tokenize(texts: Sequence[str]) -> list[str]:
    """Return the lower-case tokens of each caption without punctuation, joined by single spaces.

    The official tool reads the captions as one text, so order can matter where a caption ends in a letter.

    >>> ptb_tokenize(["A man's dog isn't here; it can't swim."])
    ["a man 's dog is n't here it ca n't swim"]
    """
    lines: list[str] = []
    following = ""
    for text in reversed(texts):
        if _OPEN_END.search(text):
            lines.append(" ".join(_words(text, following)))
        elif _SPANNING.search(text):
            lines.append(" ".join(_words(text)))
        else:
            lines.append(" ".join(word for chunk in text.split() for word in _words(chunk)))
        following = next(iter(text.split(maxsplit=1)), following)
    return lines[::-1]

"""Penn Treebank tokenisation of captions without Java: the words that pycocoevalcap's PTBTokenizer leaves.

coco-caption runs Stanford CoreNLP 3.4.1's tokenizer and then drops punctuation; the cut decides the score.
This is our own scanner with the same behaviour on captions, found by comparing outputs: at every place the
rule that reaches furthest wins (the text that a rule only looks ahead at counts), among equals the first.
What the Java program does with rare text (phone numbers across spaces, entities) is followed where captions
may hold it; ``tests/eval/test_ptb.py`` compares the two where Java is installed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence

# What pycocoevalcap drops after tokenising. Brackets are not dropped: they come out as -lrb- in lower case.
_DROPPED = frozenset("'' ' `` ` . ? ! , : - -- ... ;".split())

# A letter of any script, and a letter or digit; Python's \\w also holds fractions and raised numbers.
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

# Abbreviations that keep their full stop: those that stay words of their own before anything, the others.
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
# Words otherwise: in capitals or with a capital, and never in capitals.
_STRONG_CAPITALIZED, _CAPITALIZED = "Del Pa Tex La".split(), "Ark Ill Mass Miss Ore Wash Az".split()
_STRONG_NOT_CAPITALS, _NOT_CAPITALS = "pty ptys ppty pptys".split(), "mfg mtg".split()
_BEFORE_NUMBERS = "ca fig figs prop no nos art pp op".split()
# After "T. " one of these starts a sentence, and the letter was no initial.
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
_CURRENCY = {"\u00a2": "cents", "\u00a3": "#", "\u0080": "$", "\u00a4": "$", "\u20a0": "$", "\u20ac": "$"}
_FRACTIONS = {"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"}


def _rule(token: str, ahead: str = "", *, case: bool = False) -> re.Pattern[str]:
    """A rule: the token it takes, and what must follow (which lends it length but is not taken)."""
    return re.compile(rf"(?P<token>{token})(?:{ahead})", 0 if case else re.IGNORECASE)


def _cased(words: Sequence[str], other: Callable[[str], str]) -> str:
    """A pattern of the words as they are written, or in another case."""
    return rf"(?:{'|'.join(f'{word}|{other(word)}' for word in words)})"


# Order decides between rules that reach equally far.
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
# Most of what captions hold needs no rules: a word alone or before a mark that ends it.
_PLAIN = re.compile(r"([A-Za-z]{2,})([.,!?]?)")
_SPLIT = frozenset("cannot gonna wanna gotta lemme gimme".split())
_ABBREVIATED = frozenset(
    word.lower()
    for words in (_STRONG, _WEAK, _STRONG_CAPITALIZED, _CAPITALIZED, _STRONG_NOT_CAPITALS, _NOT_CAPITALS,
                  _BEFORE_NUMBERS)
    for word in words
)  # fmt: skip
# Where a rule may reach over a space, the line is read as a whole.
_SPANNING = re.compile(r"\d[ \t\u00a0]+\d|\.\s+[.\d]|\b[A-Za-z]\.\s+[A-Z]|<[A-Za-z!/]|\)[ \u00a0]\d")
# The Java program reads all captions as one text: what a full stop after these means, the next line decides.
_OPEN_END = re.compile(rf"(?:(?<![A-Za-z])[A-Za-z]|\b(?:{'|'.join(_BEFORE_NUMBERS)}))\.\s*$", re.IGNORECASE)


def _scan(text: str, end: int) -> Iterator[str]:
    """The tokens that start before ``end``, in lower case, punctuation included; the text ends in a space."""
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
        # A symbol that no rule knows is a token; any other such character Java deletes.
        yield from _spelled(best or (text[position] if "\u2190" <= text[position] < "\u2c00" else ""))
        position += max(1, len(best))


def _spelled(token: str) -> list[str]:
    """How the token is written out: brackets, currency, fractions and dashes have their own forms."""
    if not token:
        return []
    if token in _CURRENCY or token in _FRACTIONS:
        return [_CURRENCY.get(token) or _FRACTIONS[token]]
    if (
        token[0]
        in "\"`'\u2018\u2019\u201c\u201d\u0091\u0092\u0093\u0094\u201a\u201b\u201e\u2039\u203a\u00ab\u00bb"
    ):
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
        # In a smiley round brackets are renamed, others are not.
        token = _BRACKETS.get(token) or re.sub(r"[()]", lambda m: _BRACKETS[m[0]], token)
    return [token.lower().replace(" ", "\u00a0")]


@functools.lru_cache(maxsize=1 << 17)
def _words(text: str, following: str = "") -> tuple[str, ...]:
    plain = _PLAIN.fullmatch(text)
    if plain and (word := plain[1].lower()) not in _SPLIT and not (plain[2] == "." and word in _ABBREVIATED):
        return (word,)
    found = _scan(f"{text}\n{following} ", len(text))
    return tuple(token for token in found if token not in _DROPPED)


def ptb_tokenize(texts: Sequence[str]) -> list[str]:
    """Tokens of each caption in lower case without punctuation, joined by single spaces.

    The captions are one text to the official tool, so their order may matter where one ends in a letter.

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

"""Cutting captions into words before they are scored. The cut is part of the score and of its name.

English is cut by :mod:`ziya_visual.eval.metrics.ptb`. For Chinese there is no one rule: ``pre`` takes the
words as the file separates them, ``char`` every character, ``jieba`` what jieba 0.42.1 finds. One output
scores 0.28, 0.36 or 0.27 CIDEr by them, so Chinese scores always carry the name of theirs. So do those of
other languages, cut by PTB's rules where spaces part their words.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Sequence

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.eval.metrics.ptb import ptb_tokenize

SEGMENTERS = ("pre", "char", "jieba")
_UNSPACED = ("zh", "ja", "th", "lo", "km", "my")
_IDEOGRAPH = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ffff]")


def pre(texts: Sequence[str]) -> list[str]:
    """Words as the file separates them by spaces."""
    return [" ".join(text.split()) for text in texts]


def char(texts: Sequence[str]) -> list[str]:
    """Every character but spaces is a token."""
    return [" ".join("".join(text.split())) for text in texts]


def jieba(texts: Sequence[str]) -> list[str]:
    """Words by jieba's default mode; existing spaces are dropped first.

    Raises:
        ConfigError: jieba is not installed.
    """
    try:
        package = importlib.import_module("jieba")
    except ImportError as error:
        raise ConfigError(
            "--segmenter jieba: the package is not installed; pip install jieba==0.42.1, or use char"
        ) from error
    package.setLogLevel(logging.WARNING)
    return [" ".join(package.cut("".join(text.split()))) for text in texts]


_CUTS: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "pre": pre,
    "char": char,
    "jieba": jieba,
    "ptb": ptb_tokenize,
}


def segment(texts: Sequence[str], segmenter: str) -> list[str]:
    """The texts as tokens joined by single spaces."""
    return _CUTS[segmenter](texts)


def choose(lang: str, segmenter: str | None) -> list[tuple[str, str]]:
    """(segmenter, suffix of the score names): none for English, ``[zh:char]``, ``[es:ptb]`` by default.

    Raises:
        ConfigError: an unknown segmenter, or one that does not fit the language.
    """
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
    usual, every = ("char", SEGMENTERS) if base in _UNSPACED else ("ptb", ("pre", "char", "ptb"))
    names = every if segmenter == "all" else (segmenter or usual,)
    return [(name, f"[{base}:{name}]") for name in names]


def refuse_unfit(texts: Sequence[str], segmenter: str, where: str) -> None:
    """Refuse texts that a segmenter cannot cut: Chinese under PTB's rules, or unsegmented under ``pre``.

    Raises:
        DataError: more than a tenth of the letters are ideographs, or none of ten texts holds a space.
    """
    joined = "".join(texts)
    share = len(_IDEOGRAPH.findall(joined)) / max(1, sum(char.isalpha() for char in joined))
    if segmenter == "ptb" and share > 0.1:
        raise DataError(
            f"{where}: {share:.0%} of the letters are Chinese, which an English tokeniser cannot cut; "
            "use --lang zh"
        )
    if segmenter == "pre" and len(texts) >= 10 and not any(len(text.split()) > 1 for text in texts):
        raise DataError(
            f"{where}: no text holds a space, so they have not been cut into words; "
            "use --segmenter char or jieba instead of pre"
        )

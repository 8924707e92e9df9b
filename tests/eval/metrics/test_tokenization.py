from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from ziya_visual.eval.metrics.tokenization import ptb_tokenize


def rows(fixtures: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (fixtures / "ptb.jsonl").read_text("utf-8").splitlines()]


def test_cuts_as_the_java_program_did(fixtures: Path) -> None:
    found = rows(fixtures)
    assert len(found) > 150
    cut = ptb_tokenize([row["text"] for row in found])
    different = [(row, ours) for row, ours in zip(found, cut, strict=True) if ours != row["tokens"]]
    assert not different, f"{len(different)} of {len(found)}: {different[:3]}"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", ""),
        ("  A\tman  ", "a man"),
        ("a dog's life isn't", "a dog 's life is n't"),
        ("I cannot wanna", "i can not wan na"),
        ("(a) [b] {c}", "-lrb- a -rrb- -lsb- b -rsb- -lcb- c -rcb-"),
        ("at 5 p.m. on the 1,000th 1 1/2", "at 5 p.m. on the 1,000 th 1\u00a01/2"),
        ("wait... what?! \u201chello\u201d \u2014 no", "wait what ?! hello no"),
        ("\u4e00\u53ea\u72d7", "\u4e00\u53ea\u72d7"),
    ],
)
def test_cuts(text: str, tokens: str) -> None:
    assert ptb_tokenize([text]) == [tokens]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("java") is None or importlib.util.find_spec("pycocoevalcap") is None,
    reason="the official tokenizer needs Java and pycocoevalcap",
)
def test_equals_java_now(fixtures: Path) -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = [row["text"] for row in rows(fixtures)]
    official = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(texts)})
    assert [official[i][0] for i in range(len(texts))] == ptb_tokenize(texts)

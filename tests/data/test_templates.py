"""Phrasings: enough of them, every one drawn, and those of the quickstart untouched."""

import doctest
import hashlib
import json
import re

import pytest

from ziya_visual.core.records import Box, Example, Message
from ziya_visual.data import templates
from ziya_visual.data.templates import Templates, instruct, phrase

CAPTION = (Message("assistant", "A {box} of {question} marks."),)
ASKED = (Message("user", "What {color}?"), Message("assistant", "red"))
PLACES = {
    "caption": None,
    "vqa": "{question}",
    "dialogue": "{question}",
    "region": "{box}",
    "locate": "{label}",
}


@pytest.mark.parametrize("lang", ["en", "zh", "es"])
def test_there_are_twelve_for_each_task(lang: str) -> None:
    phrasings = Templates.load(lang).phrasings
    assert set(phrasings) == set(PLACES)
    for task, prompts in phrasings.items():
        assert len(set(prompts)) == len(prompts) >= 12, task
        wanted = [PLACES[task]] if PLACES[task] else []
        assert all(re.findall(r"{.*?}", prompt) == wanted for prompt in prompts), task


def test_what_the_quickstart_draws_is_what_it_was() -> None:
    """A change here changes its measured results: measure anew, then change the hash."""
    kept = {lang: [Templates.load(lang).caption, Templates.load(lang).vqa_suffix] for lang in ("en", "zh")}
    drawn = [
        instruct(Example(str(number), lang, "caption", CAPTION), seed=7, split=split).messages[0].content
        for number in range(20)
        for lang in ("en", "zh")
        for split in ("train", "eval")
    ]
    text = json.dumps([kept, drawn], ensure_ascii=False, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "092015646441c6d9"


@pytest.mark.parametrize("lang", ["en", "zh", "es"])
@pytest.mark.parametrize("task", ["caption", "vqa", "dialogue", "grounded"])
def test_every_phrasing_is_drawn_and_what_is_said_is_kept(task: str, lang: str) -> None:
    turns = ASKED if task in ("vqa", "dialogue") else CAPTION
    boxes = (Box("x", (10, 20, 40, 60)),) if task == "grounded" else ()
    made = [
        phrase(Example(str(n), lang, task, turns, boxes=boxes), seed=1, size=(100, 200)) for n in range(600)
    ]
    names = ["region", "locate"] if task == "grounded" else [task]
    assert len({one.messages[0].content for one in made}) == sum(
        len(Templates.load(lang).phrasings[name]) for name in names
    )
    for one in made:
        asked, told = one.messages
        assert (asked.role, told.role) == ("user", "assistant")
        if task in ("vqa", "dialogue"):
            assert "What {color}?" in asked.content
        if task == "grounded":
            assert {told.content} < {"[100, 100, 400, 300]", CAPTION[0].content}
            assert ("[100, 100, 400, 300]" in asked.content) == (told == CAPTION[0])
        else:
            assert told == turns[-1]


def test_a_system_turn_stays_first() -> None:
    turns = (Message("system", "Be brief."), *ASKED)
    made = phrase(Example("1", "en", "dialogue", turns), seed=0)
    assert [turn.role for turn in made.messages] == ["system", "user", "assistant"]
    assert made.messages[0] == turns[0]


def test_the_examples_in_the_docs_are_right() -> None:
    assert doctest.testmod(templates).failed == 0

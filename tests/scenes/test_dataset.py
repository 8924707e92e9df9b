"""Records of scenes: what is held out is out, what is balanced is level, both languages say the same."""

import collections
from pathlib import Path

import pytest

from ziya_visual.scenes.dataset import (
    POOL,
    QUESTIONS_PER_TYPE,
    Evaluation,
    evaluation,
    same_meaning,
    write_training,
)
from ziya_visual.scenes.language import HELD_OUT, QUESTION_TYPES, TRAIN_PHRASINGS, Language, is_image_text
from ziya_visual.scenes.parsing import parse

LANGS = ("en", "zh", "es")


@pytest.fixture(scope="module", params=[False, True], ids=["new", "unseen"])
def split(request: pytest.FixtureRequest) -> tuple[bool, Evaluation]:
    return request.param, evaluation(seed=0, held_out=request.param, langs=LANGS)


def test_training_texts_are_the_forges_and_in_training_phrasings(tmp_path: Path) -> None:
    examples = write_training(tmp_path, seed=0, images=60, questions_per_image=6, dialogues=30)
    assert len(list((tmp_path / "images").iterdir())) == 60
    english = Language.load("en")
    for example in examples:
        for message in example.messages:
            meaning = parse(message.content, "en")
            assert meaning is not None, message
            if not meaning.things:
                continue  # a short answer
            assert is_image_text(message.content)
            assert not any((t.shape, t.color) in HELD_OUT for t in meaning.things)
            if meaning.value is None:
                assert message.content in [english.say(meaning, n) for n in TRAIN_PHRASINGS]
    assert collections.Counter(example.task for example in examples)["dialogue"] == 30


def test_other_languages_say_what_the_english_says(tmp_path: Path) -> None:
    alone, both = (
        write_training(
            tmp_path / "-".join(langs), seed=0, images=12, questions_per_image=6, dialogues=6, langs=langs
        )
        for langs in (["en"], ["en", "es"])
    )
    said = [example for example in both if example.lang == "en"]
    assert [(e.id, e.messages) for e in said] == [(e.id, e.messages) for e in alone]
    spanish = [example for example in both if example.lang == "es"]
    assert len({example.id for example in both}) == len(both) == 2 * len(spanish)
    for english, other in zip(said, spanish, strict=True):
        assert (other.image_id, other.task, other.meta) == (english.image_id, english.task, english.meta)
        for one, two in zip(english.messages, other.messages, strict=True):
            assert parse(one.content, "en") == parse(two.content, "es") is not None


def test_every_type_is_asked_often_enough_and_level(split: tuple[bool, Evaluation]) -> None:
    _, drawn = split
    for lang in LANGS:
        counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
        for example in drawn.vqa[lang]:
            counts[example.meta["question_type"]][example.answers[0]] += 1
        assert set(counts) == set(QUESTION_TYPES)
        for kind, values in counts.items():
            assert sum(values.values()) >= QUESTIONS_PER_TYPE, kind
            assert max(values.values()) == min(values.values()), (kind, values)


def test_all_languages_ask_the_same(split: tuple[bool, Evaluation]) -> None:
    _, drawn = split
    for english, spanish in zip(drawn.vqa["en"], drawn.vqa["es"], strict=True):
        for one, two in zip(english.messages, spanish.messages, strict=True):
            assert parse(one.content, "en") == parse(two.content, "es") is not None
    for english, chinese in zip(drawn.vqa["en"], drawn.vqa["zh"], strict=True):
        assert same_meaning(
            "\n".join(m.content for m in english.messages), "\n".join(m.content for m in chinese.messages)
        )


def test_pools_hold_a_hundred_different_captions(split: tuple[bool, Evaluation]) -> None:
    held_out, drawn = split
    for pool in drawn.pools:
        for lang in LANGS:
            captions = [drawn.ranked[lang][name] for name in pool]
            assert len({parse(caption, lang) for caption in captions}) == POOL
        for name in pool:
            pairs = {(t.what.shape, t.what.color) for t in drawn.scenes[name].things}
            assert bool(pairs & HELD_OUT) == held_out


@pytest.mark.parametrize(
    ("source", "target", "same"),
    [
        ("What color is the ring?\nred", "圆环是什么颜色？\n红色", True),
        ("What color is the ring?\nred", "圆环是什么颜色？\n蓝色", False),
        ("What color is the ring?\nred", "圆环是什么颜色？", False),
        ("yes", "有", False),
    ],
)
def test_meanings_are_compared_line_by_line(source: str, target: str, same: bool) -> None:
    assert same_meaning(source, target) == same

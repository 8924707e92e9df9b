"""The page's parts without a browser: dialogues as gradio writes them, votes, where the model looks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.data.chat.chat_format import Turn
from ziya_visual.eval.judge.leaderboard import leaderboard
from ziya_visual.infer.attention_map import attention_map, overlay
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.serve.web import WORDS, Comparison, Votes, _dialogue, web


def test_dialogues_in_gradios_forms_are_ours(tmp_path: Path) -> None:
    for name, color in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (8, 8), color).save(tmp_path / f"{name}.png")

    def file(name: str) -> dict[str, Any]:
        return {"type": "file", "file": {"path": str(tmp_path / f"{name}.png")}}

    history = [
        {"role": "user", "content": [file("a")]},  # a picture is a message of its own
        {"role": "user", "content": [{"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "A ring."},
        {"role": "user", "content": {"text": "红色?", "files": [str(tmp_path / "b.png")]}},
    ]
    turns, pictures = _dialogue(history)
    assert turns == [
        Turn("user", "What?", (0,)),
        Turn("assistant", "A ring."),
        Turn("user", "红色?", (0,)),
    ]
    assert [picture.getpixel((0, 0)) for picture in pictures] == [(255, 0, 0), (0, 0, 255)]
    with pytest.raises(DataError, match="write a question"):
        _dialogue([{"role": "user", "content": {"text": " ", "files": []}}])


def test_votes_are_what_the_leaderboard_reads(tmp_path: Path) -> None:
    votes = Votes(tmp_path / "votes")
    picture = Image.new("RGB", (4, 4), "red")
    for number, (swapped, choice) in enumerate(
        [(False, "left"), (True, "right"), (False, "tie"), (True, "left"), (False, "left")]
    ):
        answers = (f"good {number}", f"bad {number}")
        comparison = Comparison(picture, f"question {number}?", "en", ("ours", "theirs"), answers, swapped)
        assert comparison.shown == (answers[::-1] if swapped else answers)
        assert votes.add(comparison, choice) == number + 1
    assert Votes(tmp_path / "votes").add(comparison, "left") == 6, "votes of an earlier day count on"
    found = leaderboard([tmp_path / "votes"], out=tmp_path / "board")
    (judge,) = found["judges"]
    assert (judge["judge"], judge["protocol"], judge["sees"]) == ("people", "vote", "picture")
    rows = {row["model"]: row for row in judge["tables"][0]["rows"]}
    # won as ours: 0, 1, 4 (asked twice, one battle); lost: 3; a tie: 2
    assert rows["ours"]["wins"] == 3.5
    assert rows["theirs"]["wins"] == 1.5
    assert (tmp_path / "board" / "leaderboard.html").is_file()


def test_where_it_looks_is_a_map_of_the_patches(model: ZiyaVisual) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8))
    seen = attention_map(model, picture, "What?")
    assert seen.shape == (2, 2)
    assert seen.max() == 1
    assert seen.min() > 0
    assert seen.std() > 0
    veiled = overlay(picture, np.asarray([[1, 0], [0, 0]], np.float32))
    assert veiled.size == picture.size
    shift = np.asarray(veiled, float) - np.asarray(picture, float)
    assert abs(shift[:8, :6]).mean() > 10 * abs(shift[-8:, -6:]).mean()


def test_every_word_of_the_page_is_in_both_languages() -> None:
    assert all(english for english, _ in WORDS.values())
    assert all(any("\u4e00" <= letter <= "\u9fff" for letter in chinese) for _, chinese in WORDS.values())


def test_a_public_page_needs_a_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--api-key-env"):
        web(tmp_path, host="0.0.0.0")

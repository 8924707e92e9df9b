"""The terminal's chat: a dialogue where somebody types, a question a line from a pipe."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Message
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.model.checkpoint import save_checkpoint
from ziya_visual.serve.terminal import HELP, chat


@pytest.fixture(scope="module")
def folder(model: ZiyaVisual, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's checkpoint and two pictures."""
    folder = tmp_path_factory.mktemp("terminal")
    save_checkpoint(
        folder / "model", model=model.model, alignment=model._alignment, processor=model.processor
    )
    for color in ("red", "blue"):
        Image.new("RGB", (16, 16), color).save(folder / f"{color}.png")
    return folder


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def talk(monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    typed: Iterator[str] = iter(lines)

    def read(prompt: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", read)


def said(text: str) -> list[str]:
    """The answers among what was printed as JSON."""
    return [json.loads(line)["answer"] for line in text.splitlines() if line.startswith("{")]


def whole(answer: str) -> str:
    """What a stream prints of an answer that its length cut within a character."""
    return answer.rstrip("\ufffd")


def test_a_dialogue_is_remembered_until_it_is_reset(
    folder: Path, model: ZiyaVisual, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk(monkeypatch, ["What?", "And then?", "/reset", "And then?", "", "/quit", "never read"])
    chat(folder / "model", image=folder / "red.png", json_output=True)
    first, second, afresh = said(capsys.readouterr().out)
    red, turns = Image.open(folder / "red.png"), [Message("user", "What?"), Message("assistant", first)]
    assert second == whole(model.chat_about(red, [*turns, Message("user", "And then?")]))
    assert afresh == whole(model.chat(red, "And then?")) != second


def test_pictures_change_and_what_is_wrong_is_said(
    folder: Path, model: ZiyaVisual, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"/image {folder}/absent.png", "/image 'half", "/lang zh", "/lang en", "/what"]
    talk(monkeypatch, [*lines, f"/image {folder}/blue.png", "What?"])
    chat(folder / "model", json_output=True)
    out = capsys.readouterr().out
    assert "absent.png: cannot be read" in out
    assert "No closing quotation" in out
    assert out.count(HELP["en"]) == 3
    assert out.count(HELP["zh"]) == 1
    assert said(out) == [whole(model.chat(folder / "blue.png", "What?"))]


def test_lines_of_a_pipe_are_questions_of_their_own(
    folder: Path, model: ZiyaVisual, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("What?\n\n什么？\n"))
    chat(folder / "model", image=folder / "red.png")
    answers = [whole(model.chat(folder / "red.png", question)) for question in ("What?", "什么？")]
    assert capsys.readouterr().out == "".join(f"{answer}\n" for answer in answers)
    monkeypatch.setattr(sys, "stdin", io.StringIO(" \n"))
    with pytest.raises(DataError, match="the pipe contains no question"):
        chat(folder / "model")

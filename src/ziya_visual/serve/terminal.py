"""Chat about pictures in the terminal, or answer the lines of a pipe."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from PIL import Image

from ziya_visual.core.errors import DataError
from ziya_visual.core.pictures import load_image
from ziya_visual.core.records import Message
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.infer.quantized import Dtype

HELP = {
    "en": "/image PATH ... opens pictures, /reset clears the dialogue, /lang zh: 中文, /quit ends;"
    " answers are in the language of the question",
    "zh": "/image 路径 ... 查看图片，/reset 清空对话，/lang en: English，/quit 退出；用提问的语言回答",
}


def chat(
    checkpoint: Path, *, image: Path | None = None, json_output: bool = False, dtype: Dtype = "auto"
) -> None:
    """Answer questions until the input ends.

    At a terminal, the dialogue is remembered; from a pipe, every line is an independent question.
    """
    pictures = [] if image is None else [load_image(image)]
    model = ZiyaVisual.from_pretrained(checkpoint, dtype=dtype)
    if sys.stdin.isatty():
        _chat(model, pictures, json_output)
        return
    questions = [line.strip() for line in sys.stdin if line.strip()]
    if not questions:
        raise DataError("the pipe contains no question; write one per line")
    for question in questions:
        _answer(model, pictures, [Message("user", question)], json_output)


def _chat(model: ZiyaVisual, pictures: list[Image.Image], json_output: bool) -> None:
    """Run a dialogue at the terminal; a bad line prints its error and the dialogue continues."""
    print(HELP["en"])
    turns: list[Message] = []
    while (line := _read()) not in (None, "/quit"):
        try:
            if not line:
                continue
            if line == "/reset":
                turns = []
            elif line.startswith("/lang"):
                print(HELP["zh" if line.removeprefix("/lang").strip() == "zh" else "en"])
            elif line.startswith("/image"):
                paths = shlex.split(line.removeprefix("/image"))
                pictures, turns = [load_image(Path(path)) for path in paths], []
            elif line.startswith("/"):
                print(HELP["en"])
            else:
                messages = [*turns, Message("user", line)]
                answer = _answer(model, pictures, messages, json_output)
                turns = [*messages, Message("assistant", answer)]
        except (DataError, ValueError) as error:
            print(error)


def _read() -> str | None:
    try:
        return input("> ").strip()
    except EOFError:
        return None


def _answer(
    model: ZiyaVisual, pictures: list[Image.Image], messages: list[Message], json_output: bool
) -> str:
    """Print the answer to the last message, piece by piece or as one line of JSON, and return it."""
    answer = ""
    for piece in model.stream(pictures, messages):
        answer += piece
        if not json_output:
            print(piece, end="", flush=True)
    row = {"question": messages[-1].content, "answer": answer}
    print(json.dumps(row, ensure_ascii=False) if json_output else "", flush=True)
    return answer

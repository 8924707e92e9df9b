"""Talk about a picture in the terminal, or answer the lines of a pipe."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Message
from ziya_visual.data.images import load_image
from ziya_visual.infer.engine import ZiyaVisual

HELP = "/image PATH looks at a picture, /reset forgets the dialogue, /quit ends"


def chat(checkpoint: Path, *, image: Path | None = None, json_output: bool = False) -> None:
    """Answer in the language of each question until the input ends.

    At a terminal the dialogue is remembered; from a pipe every line is a question of its own.

    Raises:
        CheckpointError: the checkpoint cannot be opened.
        DataError: the picture cannot be read, or a pipe holds no question.
    """
    picture = None if image is None else load_image(image)
    model = ZiyaVisual.from_pretrained(checkpoint)
    if not sys.stdin.isatty():
        questions = [line.strip() for line in sys.stdin if line.strip()]
        if not questions:
            raise DataError("no question came through the pipe; write one a line")
        for question in questions:
            _say(question, model.chat(picture, question), json_output)
        return
    print(HELP)
    turns: list[Message] = []
    while (line := _read()) is not None:
        if line == "/quit":
            return
        if line == "/reset":
            turns = []
        elif line.startswith("/image"):
            try:
                picture, turns = load_image(Path(line.removeprefix("/image").strip())), []
            except DataError as error:
                print(error)
        elif line:
            turns.append(Message("user", line))
            answer = model.chat_about(picture, turns)
            turns.append(Message("assistant", answer))
            _say(line, answer, json_output)


def _read() -> str | None:
    try:
        return input("> ").strip()
    except EOFError:
        return None


def _say(question: str, answer: str, json_output: bool) -> None:
    print(
        json.dumps({"question": question, "answer": answer}, ensure_ascii=False) if json_output else answer,
        flush=True,
    )

"""A loopback endpoint that answers from a small dictionary, counts, and misbehaves on demand."""

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from json_server import JsonServer, completion

from ziya_visual.core.records import Example, Message

COLORS = {"red": "红色", "green": "绿色", "blue": "蓝色", "yellow": "黄色", "black": "黑色", "white": "白色"}
SHAPES = {"circle": "圆形", "star": "星形", "heart": "心形", "ring": "圆环", "cross": "十字形"}
NUMBERS = {"two": "两个", "three": "三个", "four": "四个"}
WORDS = {f"{c} {s}": cz + sz for c, cz in COLORS.items() for s, sz in SHAPES.items()}
TEXTS = {f"Here is a {en}.": f"这里有一个{zh}。" for en, zh in WORDS.items()}
TEXTS |= {f"What color is the {en}?": f"{zh}是什么颜色？" for en, zh in SHAPES.items()}
TEXTS |= {f"There are {n} {en}s.": f"有{nz}{zh}。" for en, zh in WORDS.items() for n, nz in NUMBERS.items()}
TEXTS |= COLORS

Reply = tuple[int, dict[str, str], str]  # status, headers, answer or raw error body
Fault = Callable[[int, list[str], str], Reply | None]


class Endpoint(JsonServer):
    """``fault(number of the request from 0, source lines, right answer)`` may return another reply."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.keys: list[str] = []
        self.fault: Fault = lambda number, lines, answer: None
        self.delay = threading.Event()
        self.seconds = 0.0
        super().__init__()

    def answer(self, body: dict[str, Any], headers: Mapping[str, str]) -> tuple[int, dict[str, str], str]:
        prompt = body["messages"][0]["content"]
        with self.lock:
            number = len(self.prompts)
            self.prompts.append(prompt)
            self.keys.append(headers.get("Authorization", ""))
        if self.seconds:
            self.delay.wait(self.seconds)
        lines = read_lines(prompt)
        right = write_lines(prompt, [TEXTS.get(line, "不知道") for line in lines])
        status, more, text = self.fault(number, lines, right) or (200, {}, right)
        finish = more.pop("finish", "stop")
        return status, more, completion(text, finish=finish) if status == 200 else text

    def close(self) -> None:
        self.delay.set()
        super().close()


def read_lines(prompt: str) -> list[str]:
    """The source lines of either prompt."""
    if prompt.startswith("Translate into"):
        lines = prompt.split("\n")[1:]
        return lines if len(lines) == 1 else [line.split(". ", 1)[1] for line in lines]
    if not prompt.startswith("You translate"):
        return [prompt]
    texts: list[str] = json.loads(prompt.splitlines()[-1])["texts"]
    return texts


def write_lines(prompt: str, lines: list[str]) -> str:
    if not prompt.startswith("Translate into"):
        return json.dumps({"translations": lines}, ensure_ascii=False)
    return lines[0] if len(lines) == 1 else "\n".join(f"{n}. {line}" for n, line in enumerate(lines, start=1))


def captions(count: int) -> list[Example]:
    """Distinct captions."""
    texts = [text for text in TEXTS if text.startswith(("Here", "There"))][:count]
    return [caption(f"c{number}", text) for number, text in enumerate(texts)]


def caption(name: str, text: str) -> Example:
    return Example(id=name, lang="en", task="caption", messages=(Message("assistant", text),), image_id="i")


def vqa(name: str, question: str, answer: str) -> Example:
    turns = (Message("user", question), Message("assistant", answer))
    return Example(id=name, lang="en", task="vqa", messages=turns, answers=(answer,), image_id="i")

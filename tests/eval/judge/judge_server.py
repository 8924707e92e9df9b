"""A judge on loopback: real HTTP, counts what it is asked, answers by a function of the prompt."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from json_server import JsonServer, completion

from ziya_visual.forge.ask.endpoint import Sending

Opinion = Callable[[str], str]  # the prompt's text -> the reply


class JudgeServer(JsonServer):
    """``opinion`` may be changed at any time; ``bodies`` holds every request that was answered."""

    def __init__(self, opinion: Opinion) -> None:
        self.opinion = opinion
        self.bodies: list[dict[str, Any]] = []
        self.seconds = 0.0
        super().__init__()

    @property
    def judge(self) -> str:
        return f"tiny@{self.url}"

    @property
    def sending(self) -> Sending:
        return Sending("tiny", self.url, concurrency=8, backoff_seconds=0.01, timeout_seconds=5.0)

    @property
    def prompts(self) -> list[str]:
        return [text_of(body) for body in self.bodies]

    def answer(self, body: dict[str, Any], headers: Mapping[str, str]) -> tuple[int, dict[str, str], str]:
        with self.lock:
            self.bodies.append(body)
        time.sleep(self.seconds)
        return 200, {}, completion(self.opinion(text_of(body)), prompt_tokens=100, tokens=10)


def text_of(body: dict[str, Any]) -> str:
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else str(content[0]["text"])


def answers_in(prompt: str) -> tuple[str, str]:
    """The two answers that a pair prompt of either language shows."""
    found = re.search(
        r"\[(?:Assistant |助手)1\]\n(.*?)\n\[.*?\[(?:Assistant |助手)2\]\n(.*?)\n\[", prompt, re.DOTALL
    )
    assert found, prompt
    return found[1], found[2]


def by_length(prompt: str) -> str:
    """An opinion that depends on the answers alone: the more letters, the better."""
    first, second = (min(10, max(1, len(answer) // 4)) for answer in answers_in(prompt))
    return f"{first} {second}\nThe longer one says more."

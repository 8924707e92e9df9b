"""A judge on loopback: real HTTP, counts what it is asked, answers by a function of the prompt."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Opinion = Callable[[str], str]  # the prompt's text -> the reply


class JudgeServer:
    """``opinion`` may be changed at any time; ``bodies`` holds every request that was answered."""

    def __init__(self, opinion: Opinion) -> None:
        self.opinion = opinion
        self.bodies: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner.handle(self)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def judge(self) -> str:
        return f"tiny@http://127.0.0.1:{self.server.server_address[1]}/v1"

    @property
    def prompts(self) -> list[str]:
        return [text_of(body) for body in self.bodies]

    def handle(self, http: BaseHTTPRequestHandler) -> None:
        body = json.loads(http.rfile.read(int(http.headers["Content-Length"])))
        with self.lock:
            self.bodies.append(body)
        time.sleep(self.seconds)
        message = {"role": "assistant", "content": self.opinion(text_of(body))}
        choices = [{"message": message, "finish_reason": "stop"}]
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        data = json.dumps({"choices": choices, "usage": usage}).encode()
        http.send_response(200)
        http.send_header("Content-Type", "application/json")
        http.send_header("Content-Length", str(len(data)))
        http.end_headers()
        http.wfile.write(data)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


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

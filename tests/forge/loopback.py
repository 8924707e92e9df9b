"""A loopback endpoint that answers from a small dictionary, counts, and misbehaves on demand."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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


class Endpoint:
    """``fault(number of the request from 0, source lines, right answer)`` may return another reply."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.keys: list[str] = []
        self.fault: Fault = lambda number, lines, answer: None
        self.delay = threading.Event()
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
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def handle(self, http: BaseHTTPRequestHandler) -> None:
        body = json.loads(http.rfile.read(int(http.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        with self.lock:
            number = len(self.prompts)
            self.prompts.append(prompt)
            self.keys.append(http.headers.get("Authorization", ""))
        if self.seconds:
            self.delay.wait(self.seconds)
        lines = read_lines(prompt)
        answer = write_lines(prompt, [TEXTS.get(line, "不知道") for line in lines])
        status, headers, text = self.fault(number, lines, answer) or (200, {}, answer)
        finish = headers.pop("finish", "stop")
        if status == 200:
            message = {"role": "assistant", "content": text}
            usage = {"prompt_tokens": 10, "completion_tokens": 5}
            text = json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": usage})
        data = text.encode()
        http.send_response(status)
        for name, value in headers.items():
            http.send_header(name, value)
        http.send_header("Content-Type", "application/json")
        http.send_header("Content-Length", str(len(data)))
        http.end_headers()
        http.wfile.write(data)


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

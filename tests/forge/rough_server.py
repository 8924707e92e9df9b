"""A loopback endpoint in a process of its own that translates, waits, counts, and misbehaves.

    python rough_server.py [--seconds 0.5] [--faults]

It prints its port. ``GET /stats`` gives how many requests came, how often each, and when each came and went.
Faults of transport hit every fourteenth request; faults of content belong to a record, whenever it is asked.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from typing import Any

COLOURS = {"red": "红色", "green": "绿色", "blue": "蓝色", "yellow": "黄色", "black": "黑色", "white": "白色"}
SHAPES = {"circle": "圆形", "star": "星形", "heart": "心形", "ring": "圆环", "cross": "十字形"}
# What a record's fault makes of it, and the reasons that say so.
CONTENT = {
    "refusal": {"refusal"},
    "wrong_language": {"language"},
    "preamble": {"preamble"},
    "cut_json": {"not_json"},
    "length": {"truncated"},
    "wrong_number": {"wrong_number_of_items"},
}
TRANSPORT = ("429_after", "429", "500", "reset", "drip", "cut_body", "no_json", "503")
DRIP_SECONDS = 30.0


def texts(count: int) -> list[tuple[str, str]]:
    """Distinct (English, Chinese) sentences."""
    made = [
        (f"Here are {n} {en} {shape}s.", f"这里有{n}个{zh}{form}。")
        for n in range(2, 2 + count // 30 + 1)
        for en, zh in COLOURS.items()
        for shape, form in SHAPES.items()
    ]
    return made[:count]


def fault_of(text: str) -> str | None:
    """The fault of content of a record: one in eight has one."""
    drawn = hashlib.sha256(text.encode()).digest()
    return list(CONTENT)[drawn[1] % len(CONTENT)] if drawn[0] % 8 == 0 else None


class Server:
    def __init__(self, *, seconds: float, faults: bool) -> None:
        self.seconds = seconds
        self.faults = faults
        self.requests = 0
        self.times: list[list[float]] = []  # of each request: when it came, when its reply was out
        self.bodies: Counter[str] = Counter()
        self.chinese = dict(texts(100_000))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) is not None:
                if head.startswith(b"GET"):
                    stats = {"requests": self.requests, "bodies": self.bodies, "times": self.times}
                    await self._send(writer, 200, json.dumps(stats))
                    continue
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-l")
                )
                body = json.loads(await reader.readexactly(length))
                times = [time.monotonic(), float("inf")]
                self.times.append(times)
                try:
                    await self._reply(writer, body)
                finally:
                    times[1] = time.monotonic()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _reply(self, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        number = self.requests
        self.requests += 1
        self.bodies[hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()] += 1
        await asyncio.sleep(self.seconds)
        kind = TRANSPORT[(number // 14) % len(TRANSPORT)] if self.faults and number % 14 == 7 else None
        reply = self._completion(body)
        if kind in ("429_after", "429", "500", "503"):
            more = "Retry-After: 0.2\r\n" if kind == "429_after" else ""
            await self._send(writer, int(kind[:3]), '{"error": {"message": "not now"}}', more)
        elif kind == "reset":
            writer.transport.abort()
        elif kind == "drip":
            await self._drip(writer, reply)
        elif kind == "cut_body":
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(reply) + 90}\r\n\r\n{reply[:60]}".encode())
            await writer.drain()
            writer.close()
        elif kind == "no_json":
            await self._send(writer, 200, reply[: len(reply) // 2])
        else:
            await self._send(writer, 200, reply)

    async def _send(self, writer: asyncio.StreamWriter, status: int, text: str, more: str = "") -> None:
        data = text.encode()
        head = f"HTTP/1.1 {status} X\r\n{more}Content-Type: application/json\r\n"
        head += f"Content-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        await writer.drain()

    async def _drip(self, writer: asyncio.StreamWriter, text: str) -> None:
        data = text.encode()
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode())
        for at in range(len(data)):
            writer.write(data[at : at + 1])
            await writer.drain()
            await asyncio.sleep(DRIP_SECONDS / len(data))

    def _completion(self, body: dict[str, Any]) -> str:
        sources = json.loads(body["messages"][0]["content"].splitlines()[-1])["texts"]
        lines = [self.chinese.get(text, "译文") for text in sources]
        finish = "stop"
        found = [fault_of(text) for text in sources] if self.faults else []
        fault = next((name for name in found if name), None)
        place = found.index(fault) if fault else 0
        if fault == "wrong_language":
            lines[place] = "Voici quelques formes de couleur."
        if fault == "preamble":
            lines[place] = f"翻译如下：{lines[place]}"
        if fault == "wrong_number":
            lines.append(lines[0])
        content = json.dumps({"translations": lines}, ensure_ascii=False)
        if fault == "refusal":
            content = "I'm sorry, but I can't help with that."
        if fault == "cut_json":
            content = content[:-5]
        if fault == "length":
            content, finish = content[:-9], "length"
        message = {"role": "assistant", "content": content}
        usage = {"prompt_tokens": 100, "completion_tokens": 20}
        return json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": usage})


class Process:
    """The server as a child; ``url`` for clients."""

    def __init__(self, *, seconds: float = 0.0, faults: bool = False) -> None:
        command = [sys.executable, __file__, "--seconds", str(seconds), *(["--faults"] if faults else [])]
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._child.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._child.stdout.readline())}/v1"

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/stats", timeout=10) as reply:
            found: dict[str, Any] = json.load(reply)
        return found

    def close(self) -> None:
        self._child.kill()
        self._child.wait()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--faults", action="store_true")
    options = parser.parse_args()
    server = Server(seconds=options.seconds, faults=options.faults)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=1 << 22, backlog=512)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

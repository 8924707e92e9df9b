"""What nobody means well: every reply is an error of the caller's, memory stays flat, slots come back."""

import base64
import io
import os
import random
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from PIL import Image
from tiny_models import talking

from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.model.checkpoint import save_checkpoint
from ziya_visual.serve.api import create_app

HEADERS = {"Authorization": "Bearer sesame"}
PICTURES, CASES = 1000, 5000
MIXED_SECONDS = 600


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, data: bytes, depth: int = 8, colour: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def good(kind: str, rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    picture = Image.effect_noise((rng.randint(20, 60), rng.randint(20, 60)), 60).convert("RGB")
    picture.save(buffer, kind)
    return buffer.getvalue()


def hostile(number: int, rng: random.Random) -> bytes:
    """One of ten kinds: bombs, torn and bent files, other files in a picture's name, odd sizes."""
    kind = rng.choice(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
    whole = good(kind, rng)
    match number % 10:
        case 0:  # a bomb: a few kilobytes that would be gigabytes
            return png(60_000, 60_000, zlib.compress(bytes(1_000_000)))
        case 1:  # a size that no machine has
            return png(2**31 - 1, rng.choice([1, 2**31 - 1]), zlib.compress(b""))
        case 2:
            return whole[: rng.randint(0, min(60, len(whole) // 3))]
        case 3:
            return png(rng.choice([0, 5]), 0, zlib.compress(b""))
        case 4:  # one thing and another
            return rng.choice([b"%PDF-1.7\n", b"PK\x03\x04", b"\x7fELF", b"\xff\xd8\xff\xe0"]) + whole
        case 5:
            return rng.choice(
                [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"#!/bin/sh\n"]
            )
        case 6:
            return rng.randbytes(rng.randint(0, 4000))
        case 7:  # a data stream that ends early
            return png(200, 200, zlib.compress(bytes(1000)))
        case 8:  # kinds that its header does not allow
            return png(
                8, 8, zlib.compress(bytes(300)), depth=rng.choice([3, 7, 99]), colour=rng.choice([1, 5])
            )
        case _:  # a length that lies
            return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31 - 1) + b"IHDR" + rng.randbytes(20)


def about(picture: bytes) -> list[Any]:
    address = "data:image/png;base64," + base64.b64encode(picture).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": address}},
        {"type": "text", "text": "What?"},
    ]
    return [{"role": "user", "content": parts}]


@pytest.mark.slow
def test_hostile_pictures_are_refused_and_memory_stays_flat(url: str) -> None:
    rng = random.Random(0)
    process = psutil.Process()
    codes: list[int] = []
    sizes: list[int] = []
    with httpx.Client(headers=HEADERS, timeout=60) as some:
        for number in range(PICTURES):
            body = {"messages": about(hostile(number, rng)), "max_tokens": 1}
            codes.append(some.post(f"{url}/v1/chat/completions", json=body).status_code)
            sizes.append(process.memory_info().rss)
    assert set(codes) == {400}
    assert max(sizes[PICTURES // 5 :]) - sizes[PICTURES // 5] < 60_000_000


@pytest.mark.slow
def test_no_request_is_a_fault_of_the_server(serve_app: Any, tmp_path: Path) -> None:
    """schemathesis: 5,000 cases made from our own description of the two requests."""
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    app = create_app(talking(64), name="tiny")
    cases = 0
    with serve_app(app) as address:
        for seed in ("1", "2", "3"):  # a slow machine makes hypothesis give up on an operation early
            run = subprocess.run(
                [
                    str(Path(sys.executable).with_name("schemathesis")), "run", f"{address}/openapi.json",
                    "--checks", "not_a_server_error", "--max-examples", str(CASES // 2), "--seed", seed,
                    "--include-path-regex", "/v1/(chat|embeddings)",
                    "--phases", "fuzzing", "--mode", "all", "--workers", "2", "--continue-on-failure",
                ],
                capture_output=True, text=True, check=False, cwd=tmp_path,
            )  # fmt: skip
            output = run.stdout[-3000:]
            assert run.returncode == 0, output
            assert httpx.get(f"{address}/health").json()["active"] == 0, output
            generated = re.search(r"(\d+) generated", run.stdout)
            cases += int(generated[1]) if generated else 0
            if cases >= CASES:
                break
    assert cases >= CASES, output


@pytest.fixture
def process(model: ZiyaVisual, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command itself, and its address."""
    save_checkpoint(
        tmp_path / "tiny", model=model.model, alignment=model.alignment, processor=model.processor
    )  # type: ignore[arg-type]
    code = "import socket,sys; from pathlib import Path; from ziya_visual.serve.server import serve; "
    code += "s=socket.socket(); s.bind(('127.0.0.1',0)); port=s.getsockname()[1]; s.close(); "
    code += "print(port, flush=True); serve(Path(sys.argv[1]), port=port)"
    command = [sys.executable, "-c", code, str(tmp_path / "tiny")]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    address = f"http://127.0.0.1:{int(running.stdout.readline())}"
    for _ in range(600):
        try:
            httpx.get(f"{address}/health")
            break
        except httpx.HTTPError:
            time.sleep(0.1)
    yield running, address
    running.kill()
    running.communicate()


@pytest.mark.slow
def test_told_to_end_it_ends_what_is_running_and_takes_nothing_new(process: Any) -> None:
    running, address = process
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0)
    stream = client.chat.completions.create(
        model="tiny", messages=about(good("PNG", random.Random(0))), max_tokens=450, stream=True
    )
    next(stream)
    os.kill(running.pid, signal.SIGTERM)
    refused = False
    for _ in range(100):
        try:
            httpx.get(f"{address}/health", timeout=1)
        except httpx.HTTPError:
            refused = True
            break
        time.sleep(0.02)
    last = [chunk.choices[0].finish_reason for chunk in stream if chunk.choices][-1]
    assert refused
    assert last in ("stop", "length"), "the answer was given to its end"
    assert running.wait(20) in (0, -signal.SIGTERM)
    said = running.stderr.read()
    assert "What?" not in said


@pytest.mark.soak
def test_ten_minutes_of_mixed_load_leak_nothing(process: Any) -> None:
    """Streams, whole answers, callers that go away, bad requests, from eight threads."""
    running, address = process
    there = psutil.Process(running.pid)
    stop = time.monotonic() + MIXED_SECONDS
    answered = [0] * 8

    def load(number: int) -> None:
        rng = random.Random(number)
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0, timeout=60)
        pictures = [good("PNG", rng) for _ in range(20)]
        while time.monotonic() < stop:
            ask: dict[str, Any] = {"model": "tiny", "messages": about(rng.choice(pictures))}
            ask["max_tokens"] = rng.randint(1, 60)
            match rng.randrange(4):
                case 0:
                    client.chat.completions.create(**ask)
                case 1:
                    stream = client.chat.completions.create(**ask, stream=True)
                    for _ in range(rng.randint(0, 5)):
                        next(stream, None)
                    stream.close()
                case 2:
                    client.embeddings.create(model="tiny", input=["a ring", "红色"])
                case _:
                    bad = {"messages": about(hostile(rng.randrange(1000), rng))}
                    assert httpx.post(f"{address}/v1/chat/completions", json=bad).status_code == 400
            answered[number] += 1

    threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(MIXED_SECONDS / 5)
    before = there.memory_info().rss, there.num_fds(), there.num_threads()
    for thread in threads:
        thread.join()
    for _ in range(100):
        if httpx.get(f"{address}/health").json() == {"status": "ok", "active": 0, "waiting": 0}:
            break
        time.sleep(0.1)
    after = there.memory_info().rss, there.num_fds(), there.num_threads()
    assert httpx.get(f"{address}/health").json()["active"] == 0
    assert min(answered) > 20
    assert after[0] - before[0] < 60_000_000, (before, after)
    assert after[1] <= before[1] + 2
    assert after[2] <= before[2] + 2

"""Serving beside ``transformers serve``, the same checkpoint and machine: ``runs/bench/serve.json``.

    python benchmarks/serve.py [--rounds 3] [--tokens 32]

The network of ``train_setting.py`` with random weights whose answers never end by themselves: every one has
its full length. Servers run in processes of their own; callers are threads that stream through plain HTTP,
each with pictures of its own. Sixteen users ask one server at a time, the servers in turns. One user asks all
of them, which are up together, in turns answer by answer: a machine's speed changes within seconds by more
than what is to be told. Stock serves in the dtype and attention that a trial finds fastest; ours with weights
of eight bits, and once more in bfloat16, whose ratios have names of their own.

- ``tokens_16_users``, ``tokens_1_user``: tokens a second, ours by theirs.
- ``ttft_p95_16_users``: the 95th percentile of the seconds to the first token, ours by theirs.
- ``reencoded_second_turn``: pictures that ours encoded again for a second question about one.
- ``answers_equal``: of 200 mixed prompts, those whose greedy answer is stock ``generate``'s, in float32.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image
from serve_sides import build, ours, server, theirs
from spread import spread
from train_setting import SIDE
from transformers import Blip2ForConditionalGeneration

from ziya_visual.core.files import write_json
from ziya_visual.model.checkpoint import load_checkpoint

USERS, TURNS = 16, 2  # answers each user asks for, one after another
ALONE = 12  # answers that a user alone asks each server for
PROMPTS, LENGTH = 200, 12
TRIALS = [("bfloat16", "sdpa"), ("bfloat16", "eager"), ("float32", "sdpa")]


@dataclass(frozen=True)
class Side:
    """The command of a server, and its name for the model."""

    command: Sequence[str]
    name: str


@dataclass
class Timed:
    """The times of one answer: seconds to its first token and to its end, and its number of tokens."""

    first: float
    whole: float
    tokens: int


def picture(seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def question(seed: int) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(f"w{number}" for number in rng.integers(4, 32_000, rng.integers(4, 13)))


def about(seed: int) -> list[dict[str, Any]]:
    image = {"type": "image_url", "image_url": {"url": picture(seed)}}
    return [{"role": "user", "content": [image, {"type": "text", "text": question(seed)}]}]


def ask(client: httpx.Client, address: str, name: str, seed: int, tokens: int) -> Timed:
    """Stream one answer."""
    body = {
        "model": name,
        "messages": about(seed),
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
    }
    started, first, pieces = time.perf_counter(), 0.0, 0
    with client.stream("POST", f"{address}/v1/chat/completions", json=body) as reply:
        assert reply.status_code == 200, reply.read()
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line[6:]).get("choices") or []:
                text = choice["delta"].get("content")
                if text:
                    first = first or time.perf_counter() - started
                    pieces += len(text.split())
    return Timed(first, time.perf_counter() - started, pieces)


def load(address: str, name: str, users: int, tokens: int, seed: int) -> dict[str, float]:
    """Return tokens per second, and the 95th percentile of the seconds to the first token."""
    answers: list[Timed] = []

    def user(number: int) -> None:
        with httpx.Client(timeout=600) as client:
            for turn in range(TURNS):
                answers.append(ask(client, address, name, seed + 1000 * turn + number, tokens))

    threads = [threading.Thread(target=user, args=(number,)) for number in range(users)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    assert len(answers) == users * TURNS
    assert {answer.tokens for answer in answers} == {tokens}, {answer.tokens for answer in answers}
    firsts = sorted(answer.first for answer in answers)
    return {
        "tokens_per_second": users * TURNS * tokens / seconds,
        "ttft_p95": float(np.percentile(firsts, 95)),
        "ttft_median": statistics.median(firsts),
    }


def many(side: Side, home: Path, tokens: int, seed: int) -> dict[str, float]:
    """Measure one server with sixteen users."""
    with server(side.command, home) as address:
        load(address, side.name, 2, 4, seed + 500_000)
        return load(address, side.name, USERS, tokens, seed)


def alone(sides: Mapping[str, Side], home: Path, tokens: int, seed: int) -> dict[str, list[float]]:
    """Measure tokens per second for one user, who asks every server the same questions in turn."""
    rates: dict[str, list[float]] = {who: [] for who in sides}
    with contextlib.ExitStack() as up:
        addresses = {who: up.enter_context(server(side.command, home)) for who, side in sides.items()}
        client = up.enter_context(httpx.Client(timeout=600))
        for who, side in sides.items():
            load(addresses[who], side.name, 2, 4, seed + 500_000)
        for turn in range(ALONE):
            for who, side in sides.items():
                whole = ask(client, addresses[who], side.name, seed + 10_000 + turn, tokens).whole
                rates[who].append(tokens / whole)
    return rates


def second_turn(folder: Path, home: Path) -> int:
    """Count the pictures that are encoded again in the second turn of a dialogue."""

    def encoded() -> int:
        lines = httpx.get(f"{address}/metrics").text.splitlines()
        return next(
            int(float(line.split()[1])) for line in lines if line.startswith("ziya_visual_pictures_encoded")
        )

    with server(ours(folder, "bfloat16"), home) as address, httpx.Client(timeout=600) as client:
        dialogue = about(7)
        for turn in range(2):
            if turn:
                before = encoded()
            body = {"messages": dialogue, "max_tokens": 8}
            reply = client.post(f"{address}/v1/chat/completions", json=body).json()
            text = reply["choices"][0]["message"]["content"]
            dialogue = [*dialogue, {"role": "assistant", "content": text}]
            dialogue = [*dialogue, {"role": "user", "content": question(8)}]
        return encoded() - before


def answers_equal(folder: Path, home: Path) -> float:
    """Compare answers to mixed prompts, with and without pictures, with those of ``generate``."""
    *_, processor = load_checkpoint(folder / "float32")
    stock = Blip2ForConditionalGeneration.from_pretrained(folder / "float32").eval()
    prompts: list[list[dict[str, Any]]] = []
    for number in range(PROMPTS):
        text = [{"role": "user", "content": question(number)}]
        prompts.append(text if number % 4 == 3 else about(number // 2))  # questions share pictures
    ours_by_prompt: dict[int, str] = {}
    with server(ours(folder, "float32"), home) as address:

        def user(first: int) -> None:
            with httpx.Client(timeout=600) as client:
                for place in range(first, PROMPTS, USERS):
                    body = {"messages": prompts[place], "max_tokens": LENGTH}
                    reply = client.post(f"{address}/v1/chat/completions", json=body).json()
                    ours_by_prompt[place] = reply["choices"][0]["message"]["content"]

        threads = [threading.Thread(target=user, args=(number,)) for number in range(USERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    equal = 0
    for place, messages in enumerate(prompts):
        inputs = processor.apply_chat_template(
            [_stock_form(message) for message in messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            generated = stock.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)
        new = generated[0, inputs["input_ids"].shape[1] :]
        equal += processor.tokenizer.decode(new, skip_special_tokens=True) == ours_by_prompt[place]
    return equal / PROMPTS


def _stock_form(message: dict[str, Any]) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return message
    parts = [
        {"type": "image", "url": part["image_url"]["url"]} if part["type"] == "image_url" else part
        for part in message["content"]
    ]
    return {**message, "content": parts}


def ratio(rounds: list[dict[str, Any]], side: str, what: str) -> dict[str, float]:
    """Return the ratio of one of our sides to theirs over the rounds.

    For a single user, a round's ratio is the median over its answers.
    """
    if what == "alone":
        pairs = [zip(entry["alone"][side], entry["alone"]["theirs"], strict=True) for entry in rounds]
        values = [statistics.median(ours / theirs for ours, theirs in answers) for answers in pairs]
    else:
        values = [entry["many"][side][what] / entry["many"]["theirs"][what] for entry in rounds]
    return spread(values)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, home = Path(temporary), Path(temporary) / "home"
        home.mkdir()
        build(folder)
        stock = {trial: Side(theirs(folder, *trial), str(folder / trial[0])) for trial in TRIALS}
        trials = {trial: many(side, home, 8, 900_000) for trial, side in stock.items()}
        best = max(trials, key=lambda trial: trials[trial]["tokens_per_second"])
        print({" ".join(trial): measured for trial, measured in trials.items()}, flush=True)
        sides = {"theirs": stock[best]}
        sides |= {dtype: Side(ours(folder, dtype), "bfloat16") for dtype in ("bfloat16", "int8")}
        rounds = []
        for number in range(options.rounds):
            seed = 100 * number
            crowd = {who: many(side, home, options.tokens, seed) for who, side in sides.items()}
            rounds.append({"many": crowd, "alone": alone(sides, home, options.tokens, seed)})
            print(json.dumps(rounds[-1]), flush=True)
        checks = {
            "reencoded_second_turn": second_turn(folder, home),
            "answers_equal": answers_equal(folder, home),
        }
    ratios = {}
    for side, ending in (("int8", ""), ("bfloat16", "_bfloat16")):
        ratios[f"tokens_16_users{ending}"] = ratio(rounds, side, "tokens_per_second")
        ratios[f"ttft_p95_16_users{ending}"] = ratio(rounds, side, "ttft_p95")
        ratios[f"tokens_1_user{ending}"] = ratio(rounds, side, "alone")
    result = {
        "ratios": ratios,
        "checks": checks,
        "stock": " ".join(best),
        "trials": {" ".join(trial): measured for trial, measured in trials.items()},
        "rounds": rounds,
        "versions": {name: version(name) for name in ("torch", "transformers")}
        | {"python": platform.python_version()},
    }
    write_json(Path("runs/bench/serve.json"), result)
    print(json.dumps({"ratios": ratios, "checks": checks}, indent=1))


if __name__ == "__main__":
    main()

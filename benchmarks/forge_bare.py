"""The ``openai`` package by itself, and a clock, for ``benchmarks/forge.py``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import openai

AT_ONCE = 64


def clocked(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock and of this process's processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


async def bare(url: str, bodies: list[dict[str, Any]], http: Callable[[], Any]) -> None:
    """The package as its own documentation uses it, 64 at once."""
    async with openai.AsyncOpenAI(base_url=url, api_key="none", http_client=http()) as client:
        queue = iter(bodies)

        async def work() -> None:
            for body in queue:
                reply = await client.chat.completions.create(**body)
                assert reply.choices[0].message.content

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))

"""How fast requests may go: how many at once, how many a minute."""

from __future__ import annotations

import asyncio
import time
from collections import deque


class Gate:
    """How many requests may be in flight: halved when an endpoint is overloaded, one more a round else."""

    def __init__(self, highest: int) -> None:
        """Start at ``highest``."""
        self.limit = float(highest)
        self._highest = highest
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._halved_at = 0.0

    async def __aenter__(self) -> None:
        while self._inside >= int(self.limit):
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future
        self._inside += 1

    async def __aexit__(self, *error: object) -> None:
        self._inside -= 1
        if error[0] is None:
            self.limit = min(self._highest, self.limit + 1 / self.limit)
        free = int(self.limit) - self._inside
        while self._waiting and free > 0:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                free -= 1

    def halve(self) -> None:
        """At most once a second: the refusals of one instant are one sign."""
        now = time.monotonic()
        if now - self._halved_at >= 1.0:
            self._halved_at = now
            self.limit = max(1.0, self.limit / 2)


class Pace:
    """At most ``per_minute`` of something; each caller waits until what was granted before has passed."""

    def __init__(self, per_minute: float) -> None:
        """Nothing is granted yet."""
        self._seconds_each = 60.0 / per_minute
        self._next = 0.0

    async def take(self, amount: float) -> None:
        """Wait for the turn of ``amount``."""
        now = time.monotonic()
        start = max(now, self._next)
        self._next = start + amount * self._seconds_each
        if start > now:
            await asyncio.sleep(start - now)

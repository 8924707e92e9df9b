"""Ask many things at once, and commit every answer: workers, one ledger, a budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from ziya_visual.core.errors import ConfigError, EndpointError
from ziya_visual.core.log import logger
from ziya_visual.forge.ask.cost import Budget
from ziya_visual.forge.ask.endpoint import UNREACHABLE, Client
from ziya_visual.forge.ask.ledger import Ledger, Outcome

STOP_AFTER_FAILURES = 16  # in a row: the endpoint is down, and the rest stays pending for the next run


class _Committer:
    """Gathers what is there at one turn of the loop, so that a commit is shared by many requests."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._started: list[str] = []
        self._ended: list[Outcome] = []
        self._committed: asyncio.Future[None] | None = None

    def start(self, key: str) -> asyncio.Future[None]:
        """Done once it is committed that the request is in flight."""
        self._started.append(key)
        return self._scheduled()

    def finish(self, outcome: Outcome) -> asyncio.Future[None]:
        """Done once the outcome is committed."""
        self._ended.append(outcome)
        return self._scheduled()

    def _scheduled(self) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        if self._committed is None:
            self._committed = loop.create_future()
            loop.call_soon(self.commit)
        return self._committed

    def commit(self) -> None:
        """Write what was gathered, if anything."""
        started, self._started = self._started, []
        ended, self._ended = self._ended, []
        committed, self._committed = self._committed, None
        if committed is None:
            return
        try:
            self._ledger.record(started, ended)
        except Exception as error:
            committed.set_exception(error)
        else:
            committed.set_result(None)


class _Pool:
    """Workers take keys in turn; each waits until it is committed that its request is in flight, or answered.

    A kill then repeats what the ledger knows as in flight, and loses nothing.
    """

    def __init__(
        self,
        ledger: Ledger,
        client: Client,
        committer: _Committer,
        budget: Budget | None,
        on_done: Callable[[Outcome], None],
    ) -> None:
        self._ledger = ledger
        self._client = client
        self._committer = committer
        self._budget = budget
        self._on_done = on_done
        self._failures = self._answered = 0
        self.sent = 0

    async def run(self, keys: Sequence[str], workers: int) -> None:
        """Until every key is settled, or the budget or the endpoint is at its end."""
        queue = iter(keys)

        async def work() -> None:
            for key in queue:
                body = self._ledger.body(key)
                if self._budget is not None and not await self._budget.reserve(key, body):
                    return
                await asyncio.shield(self._committer.start(key))
                self.sent += 1
                outcome = await self._client.ask(key, body)
                if self._budget is not None:
                    self._budget.settle(outcome)
                await asyncio.shield(self._committer.finish(outcome))
                self._on_done(outcome)
                self._count(outcome)

        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())

    def _count(self, outcome: Outcome) -> None:
        self._answered += outcome.state != "failed"
        self._failures = self._failures + 1 if outcome.state == "failed" else 0
        unreachable = not self._answered and (outcome.reason or "").startswith(UNREACHABLE)
        if self._failures >= STOP_AFTER_FAILURES or unreachable:
            raise EndpointError(
                f"{self._client.base_url}: gave up after {outcome.attempts} attempts ({outcome.reason});"
                " what was answered is kept, run the same command again to go on"
            )


def ask_all(
    ledger: Ledger,
    keys: Sequence[str],
    *,
    base_url: str | Sequence[str],
    concurrency: int = 64,
    budget: Budget | None = None,
    on_done: Callable[[Outcome], None] = lambda outcome: None,
    **options: Any,
) -> int:
    """Send every request of ``keys`` that has no answer yet; returns how many were sent.

    Args:
        ledger: holds the requests.
        keys: from :meth:`Ledger.add`.
        base_url: of the endpoint, with ``/v1``; of several, the first that works is asked.
        concurrency: requests in flight at once at most, at least 1; fewer while an endpoint is overloaded.
        budget: what may be spent; where it is used up the rest stays pending.
        on_done: called with each outcome after it is committed.
        options: of :class:`ziya_visual.forge.ask.endpoint.Client`.

    Raises:
        EndpointError: the endpoint cannot be reached, or refuses everything; the rest stays pending.
        ConfigError: an unusable URL, concurrency or missing key.
    """
    if concurrency < 1:
        raise ConfigError(f"concurrency is {concurrency}, expected at least 1")
    waiting = ledger.waiting(keys)
    if not waiting:
        return 0

    async def main() -> int:
        client = Client(base_url=base_url, concurrency=concurrency, **options)
        committer = _Committer(ledger)
        pool = _Pool(ledger, client, committer, budget, on_done)
        try:
            await pool.run(waiting, min(concurrency, len(waiting)))
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        finally:
            committer.commit()
            await client.close()
        return pool.sent

    sent = asyncio.run(main())
    if budget is not None and budget.exhausted:
        logger.warning("forge: the budget of $%.2f is used up; the rest is not sent", budget.limit_usd)
    return sent

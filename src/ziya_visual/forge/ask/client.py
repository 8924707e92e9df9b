"""Send the requests of a ledger that have no answer yet, and commit every answer.

Requests go out through workers of our own, or as files through the endpoint's Batch API, within a day. A
batch job is named by the hash of its requests. It is looked up at the endpoint before it is created, and
stored in the ledger before it is waited for, so a kill at any instant neither loses nor repeats one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import openai

from ziya_visual.core.errors import ConfigError, EndpointError, one_line
from ziya_visual.core.files import hash_json
from ziya_visual.core.log import logger, progress
from ziya_visual.forge.ask.endpoint import UNREACHABLE, Client, Sending, read_completion, read_key
from ziya_visual.forge.ask.ledger import Ledger, Outcome
from ziya_visual.forge.ask.limits import Budget, dollars

STOP_AFTER_FAILURES = 16  # in a row: the endpoint is down, and the rest stays pending for the next run
MAX_JOB_REQUESTS, MAX_JOB_BYTES = 50_000, 150_000_000  # OpenAI takes 50,000 requests and 200 MB
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


def ask_all(
    ledger: Ledger, keys: Sequence[str], sending: Sending, *, title: str = "", budget: Budget | None = None
) -> int:
    """Send every request of ``keys`` that has no answer yet; return how many were sent.

    Args:
        ledger: The ledger that holds the requests.
        keys: Keys from :meth:`Ledger.add`.
        sending: How to send them.
        title: The text before a progress bar; no bar without one.
        budget: The money shared by several calls, by default what ``sending`` allows for the ledger; when it
            is used up the rest stays pending.

    Raises:
        EndpointError: The endpoint cannot be reached, refuses everything, or has no Batch API; the rest stays
            pending.
        ConfigError: An unusable URL or a missing key.
    """
    budget = budget or open_budget(ledger, sending)
    waiting = ledger.waiting(keys)
    total = len(set(keys))
    bar = progress(title, total, done=total - len(waiting)) if title else contextlib.nullcontext(None)
    with bar as shown:

        def on_done(outcome: Outcome) -> None:
            if shown is not None:
                shown.advance()

        if sending.use_batches:
            sent = _send_in_batches(ledger, waiting, sending, budget, on_done)
        else:
            pool = _Pool(ledger, sending, budget, on_done)
            if waiting:
                asyncio.run(pool.run(waiting))
            sent = pool.sent
    if budget is not None and budget.exhausted:
        logger.warning("forge: the budget of $%.2f is used up; the rest is not sent", budget.limit_usd)
    return sent


def open_budget(ledger: Ledger, sending: Sending) -> Budget | None:
    """Return the cap on what a ledger may cost, less what it has cost; ``ConfigError`` without a price."""
    if sending.budget_usd is None:
        return None
    if sending.price is None:
        raise ConfigError("--budget-usd needs --prices, a file with the price of the model's tokens")
    totals = ledger.totals()
    spent = dollars(sending.price, totals["prompt_tokens"], totals["completion_tokens"])
    return Budget(sending.budget_usd, sending.price, spent_usd=spent)


# --- through workers of our own ---


class _Committer:
    """Collects the changes of one turn of the event loop, so that many requests share a commit."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._started: list[str] = []
        self._ended: list[Outcome] = []
        self._committed: asyncio.Future[None] | None = None

    def add(self, change: str | Outcome) -> asyncio.Future[None]:
        """Return a future that is done once it is committed that a request is in flight, or how it ended."""
        if isinstance(change, str):
            self._started.append(change)
        else:
            self._ended.append(change)
        loop = asyncio.get_running_loop()
        if self._committed is None:
            self._committed = loop.create_future()
            loop.call_soon(self.commit)
        return self._committed

    def commit(self) -> None:
        """Write the collected changes, if any."""
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
    """Workers that take keys in turn, each waiting until its request is committed as in flight or answered.

    A kill therefore repeats what the ledger knows as in flight, and loses nothing.
    """

    def __init__(
        self, ledger: Ledger, sending: Sending, budget: Budget | None, on_done: Callable[[Outcome], None]
    ) -> None:
        self._ledger = ledger
        self._sending = sending
        self._budget = budget
        self._on_done = on_done
        self._failures = self._answered = 0
        self.sent = 0

    async def run(self, keys: Sequence[str]) -> None:
        """Work until every key is settled, the budget is used up, or the endpoint fails for good."""
        client, committer, queue = Client(self._sending), _Committer(self._ledger), iter(keys)

        async def work() -> None:
            for key in queue:
                body = self._ledger.body(key)
                if self._budget is not None and not await self._budget.reserve(key, body):
                    return
                await asyncio.shield(committer.add(key))
                self.sent += 1
                outcome = await client.ask(key, body)
                if self._budget is not None:
                    self._budget.settle(outcome)
                await asyncio.shield(committer.add(outcome))
                self._on_done(outcome)
                self._count(outcome)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._sending.concurrency, len(keys))):
                    group.create_task(work())
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        finally:
            committer.commit()
            await client.close()

    def _count(self, outcome: Outcome) -> None:
        self._answered += outcome.state != "failed"
        self._failures = self._failures + 1 if outcome.state == "failed" else 0
        unreachable = not self._answered and (outcome.reason or "").startswith(UNREACHABLE)
        if self._failures >= STOP_AFTER_FAILURES or unreachable:
            raise EndpointError(
                f"{', '.join(self._sending.urls)}: gave up after {outcome.attempts} attempts"
                f" ({outcome.reason}); all answers so far are kept, run the same command again to continue"
            )


# --- through the Batch API ---


def _send_in_batches(
    ledger: Ledger,
    keys: Sequence[str],
    sending: Sending,
    budget: Budget | None,
    on_done: Callable[[Outcome], None],
) -> int:
    """Send requests as jobs to the first endpoint, after collecting the jobs that a dead run left there."""
    url = sending.urls[0]
    key, _ = read_key(url, sending.key_variable)
    sent = 0
    with openai.OpenAI(base_url=url, api_key=key or "none") as client:

        def collect(job_id: str) -> None:
            for outcome in _wait_for_job(ledger, client, job_id, url, sending.poll_seconds):
                if budget is not None:
                    budget.settle(outcome)
                on_done(outcome)

        try:
            for job_id in ledger.batches(url):
                collect(job_id)
            for portion in _portions(ledger, ledger.waiting(keys), budget):
                job_id = find_or_create_job(ledger, client, portion)
                ledger.note_batch(job_id, url, done=False)
                ledger.record(portion)
                sent += len(portion)
                collect(job_id)
        except openai.OpenAIError as error:
            raise EndpointError(f"{url}: the Batch API said {one_line(error, hide=key)}") from error
    return sent


def _portions(ledger: Ledger, keys: Sequence[str], budget: Budget | None) -> Iterator[list[str]]:
    """Yield the keys of one job after another, as far as the budget reaches."""
    portion: list[str] = []
    size = 0
    for key in keys:
        body = ledger.body(key)
        if budget is not None and not budget.hold(key, body):
            budget.exhausted = True
            break
        line = len(json.dumps(body, ensure_ascii=False).encode())
        if portion and (len(portion) == MAX_JOB_REQUESTS or size + line > MAX_JOB_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(key)
        size += line
    if portion:
        yield portion


def find_or_create_job(ledger: Ledger, client: openai.OpenAI, keys: Sequence[str]) -> str:
    """Return the id of the job for these requests, which is created unless the endpoint already has it."""
    name = hash_json(list(keys))
    for job in client.batches.list(limit=100):
        ours = (job.metadata or {}).get("forge") == name
        if ours and job.status not in ("failed", "expired", "cancelled"):
            return job.id
    lines = (
        {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": ledger.body(key)}
        for key in keys
    )
    content = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    job = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"forge": name},
    )
    return job.id


def _wait_for_job(
    ledger: Ledger, client: openai.OpenAI, job_id: str, url: str, poll_seconds: float
) -> list[Outcome]:
    """Wait for a job, commit its results and return them."""
    started = time.monotonic()
    while (job := client.batches.retrieve(job_id)).status not in _ENDED:
        time.sleep(poll_seconds)
    outcomes: list[Outcome] = []
    for file in (job.output_file_id, job.error_file_id):
        if file is not None:
            lines = client.files.content(file).text.splitlines()
            rows = [json.loads(line) for line in lines if line.strip()]
            outcomes += [_read_row(row, time.monotonic() - started) for row in rows]
    ledger.record(outcomes=outcomes)
    ledger.note_batch(job_id, url, done=True)
    if job.status != "completed" and not outcomes:
        raise EndpointError(
            f"{url}: batch {job_id} {job.status}; run the same command again to send its requests anew"
        )
    return outcomes


def _read_row(row: Any, seconds: float) -> Outcome:
    key = str(row["custom_id"])
    response = row.get("response") or {}
    try:
        if response.get("status_code") == 200:
            return read_completion(key, response["body"], seconds, 1)
        message = json.dumps(row.get("error") or response.get("body"), ensure_ascii=False)[:200]
        return Outcome(key, "rejected", reason=f"http_{response.get('status_code')}: {message}", attempts=1)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        return Outcome(key, "failed", reason="no chat completion in the batch's output", attempts=1)

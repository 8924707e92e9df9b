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
from typing import Any, Final

import openai

from ziya_visual.core.errors import ConfigError, EndpointError, one_line
from ziya_visual.core.files import hash_json
from ziya_visual.core.log import logger, progress
from ziya_visual.forge.ask.endpoint import UNREACHABLE, Client, Sending, read_completion, read_key
from ziya_visual.forge.ask.ledger import Ledger, Outcome
from ziya_visual.forge.ask.limits import Budget, dollars

STOP_AFTER_FAILURES = 16  # in a row: the endpoint is down, and the rest stays pending for the next run
MAX_JOB_REQUESTS, MAX_JOB_BYTES = 50_000, 150_000_000  # OpenAI takes 50,000 requests and 200 MB
_LOST = frozenset({"failed", "expired", "cancelled"})
URL: Final = "/v1/chat/completions"
Settle = Callable[[Outcome], None]


def ask_all(
    ledger: Ledger, keys: Sequence[str], sending: Sending, *, title: str = "", budget: Budget | None = None
) -> int:
    """Send every request of ``keys`` that has no answer yet; return how many were sent.

    There is a progress bar if there is a ``title``. ``budget`` is shared by several calls, by default what
    ``sending`` allows for the ledger; when it is used up the rest stays pending.

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

        def settle(outcome: Outcome) -> None:
            if budget is not None:
                budget.settle(outcome)
            if shown is not None:
                shown.advance()

        if sending.use_batches:
            sent = _send_in_batches(ledger, waiting, sending, budget, settle)
        else:
            sent = asyncio.run(_send_by_workers(ledger, waiting, sending, budget, settle)) if waiting else 0
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


async def _send_by_workers(
    ledger: Ledger, keys: Sequence[str], sending: Sending, budget: Budget | None, settle: Settle
) -> int:
    """Send requests by workers that take keys in turn, until all are settled or the budget is used up.

    A worker waits until its request is committed as in flight, and again until its outcome is: a kill repeats
    what the ledger knows as in flight, and loses nothing.
    """
    client, committer, queue = Client(sending), _Committer(ledger), iter(keys)
    sent = answered = failures = 0

    async def work() -> None:
        nonlocal sent, answered, failures
        for key in queue:
            body = ledger.body(key)
            if budget is not None and not await budget.reserve(key, body):
                return
            await asyncio.shield(committer.add(key))
            sent += 1
            outcome = await client.ask(key, body)
            settle(outcome)
            await asyncio.shield(committer.add(outcome))
            failed = outcome.state == "failed"
            answered += not failed
            failures = failures + 1 if failed else 0
            unreachable = not answered and (outcome.reason or "").startswith(UNREACHABLE)
            if failures >= STOP_AFTER_FAILURES or unreachable:
                raise EndpointError(
                    f"{', '.join(sending.urls)}: gave up after {outcome.attempts} attempts ({outcome.reason})"
                    "; all answers so far are kept, run the same command again to continue"
                )

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(sending.concurrency, len(keys))):
                group.create_task(work())
    except ExceptionGroup as group_error:
        raise group_error.exceptions[0] from None
    finally:
        committer.commit()
        await client.close()
    return sent


# --- through the Batch API ---


def _send_in_batches(
    ledger: Ledger, keys: Sequence[str], sending: Sending, budget: Budget | None, settle: Settle
) -> int:
    """Send requests as jobs to the first endpoint, after collecting the jobs that a dead run left there."""
    url = sending.urls[0]
    key, _ = read_key(url, sending.key_variable)
    sent = 0
    with openai.OpenAI(base_url=url, api_key=key or "none") as client:

        def collect(job_id: str) -> None:
            for outcome in _wait_for_job(ledger, client, job_id, url, sending.poll_seconds):
                settle(outcome)

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
        if (job.metadata or {}).get("forge") == name and job.status not in _LOST:
            return job.id
    fixed = {"method": "POST", "url": URL}
    lines = ({"custom_id": key, **fixed, "body": ledger.body(key)} for key in keys)
    content = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    job = client.batches.create(
        input_file_id=file.id, endpoint=URL, completion_window="24h", metadata={"forge": name}
    )
    return job.id


def _wait_for_job(
    ledger: Ledger, client: openai.OpenAI, job_id: str, url: str, poll_seconds: float
) -> list[Outcome]:
    """Wait for a job, commit its results and return them."""
    started = time.monotonic()
    while (job := client.batches.retrieve(job_id)).status not in {*_LOST, "completed"}:
        time.sleep(poll_seconds)
    outcomes: list[Outcome] = []
    for file in (job.output_file_id, job.error_file_id):
        if file is not None:
            lines = client.files.content(file).text.splitlines()
            seconds = time.monotonic() - started
            outcomes += [_read_row(json.loads(line), seconds) for line in lines if line.strip()]
    ledger.record(outcomes=outcomes)
    ledger.note_batch(job_id, url, done=True)
    if job.status != "completed" and not outcomes:
        advice = "run the same command again to send its requests anew"
        raise EndpointError(f"{url}: batch {job_id} {job.status}; {advice}")
    return outcomes


def _read_row(row: Any, seconds: float) -> Outcome:
    key = str(row["custom_id"])
    response = row.get("response")
    response = response if isinstance(response, dict) else {}
    status, body = response.get("status_code"), response.get("body")
    if status != 200:
        message = json.dumps(row.get("error") or body, ensure_ascii=False)[:200]
        return Outcome(key, "rejected", reason=f"http_{status}: {message}", attempts=1)
    unreadable = Outcome(key, "failed", reason="no chat completion in the batch's output", attempts=1)
    return read_completion(key, body, seconds, 1) or unreadable

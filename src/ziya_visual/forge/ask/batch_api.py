"""The Batch API: requests as files, answers within a day, at OpenAI for half the price.

A job is named by the hash of its requests. It is looked for at the endpoint before it is made, and remembered
in the ledger before it is waited for; so a kill at any instant neither loses nor repeats one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import openai

from ziya_visual.core.errors import EndpointError, one_line
from ziya_visual.core.files import hash_json
from ziya_visual.core.log import logger
from ziya_visual.forge.ask.cost import Budget
from ziya_visual.forge.ask.endpoint import KEY_VARIABLE, read_completion, read_key
from ziya_visual.forge.ask.ledger import Ledger, Outcome

MAX_REQUESTS, MAX_BYTES = 50_000, 150_000_000  # of a job; OpenAI takes 50,000 and 200 MB
_OVER = frozenset({"completed", "failed", "expired", "cancelled"})


def ask_all(
    ledger: Ledger,
    keys: Sequence[str],
    *,
    base_url: str | Sequence[str],
    budget: Budget | None = None,
    poll_seconds: float = 30.0,
    key_variable: str = KEY_VARIABLE,
    on_done: Callable[[Outcome], None] = lambda outcome: None,
    **unused: Any,
) -> int:
    """As :func:`ziya_visual.forge.ask.client.ask_all`, through jobs; returns how many requests were sent.

    Args:
        ledger: holds the requests.
        keys: of those wanted.
        base_url: of the endpoint, with ``/v1``; of several the first.
        budget: what may be spent, at the full price.
        poll_seconds: between two looks at a job.
        key_variable: environment variable of the key.
        on_done: called with each outcome after it is committed.
        unused: options of the client that have no meaning here: the endpoint paces itself.

    Raises:
        EndpointError: the endpoint has no Batch API, or a job failed; the rest stays pending.
    """
    url = base_url if isinstance(base_url, str) else base_url[0]
    key, _ = read_key(url, key_variable)
    with openai.OpenAI(base_url=url, api_key=key or "none") as client:
        try:
            for job in ledger.batches(url):
                _collect(ledger, client, job, url, budget, poll_seconds, on_done)
            sent = 0
            for some in _portions(ledger, ledger.waiting(keys), budget):
                job = _find_or_make(ledger, client, some)
                ledger.note_batch(job, url, done=False)
                ledger.start(some)
                sent += len(some)
                _collect(ledger, client, job, url, budget, poll_seconds, on_done)
        except openai.OpenAIError as error:
            raise EndpointError(f"{url}: the Batch API said {one_line(error, hide=key)}") from error
    return sent


def _portions(ledger: Ledger, keys: Sequence[str], budget: Budget | None) -> Iterator[list[str]]:
    """Keys by job, as far as the budget reaches."""
    held: list[str] = []
    size = 0
    for key in keys:
        body = ledger.body(key)
        if budget is not None and not budget.hold(key, body):
            budget.exhausted = True
            logger.warning("forge: the budget of $%.2f holds no more requests", budget.limit_usd)
            break
        line = len(json.dumps(body, ensure_ascii=False).encode())
        if held and (len(held) == MAX_REQUESTS or size + line > MAX_BYTES):
            yield held
            held, size = [], 0
        held.append(key)
        size += line
    if held:
        yield held


def _find_or_make(ledger: Ledger, client: openai.OpenAI, keys: Sequence[str]) -> str:
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
    made = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"forge": name},
    )
    return made.id


def _collect(
    ledger: Ledger,
    client: openai.OpenAI,
    name: str,
    url: str,
    budget: Budget | None,
    poll_seconds: float,
    on_done: Callable[[Outcome], None],
) -> None:
    """Wait for a job and commit what came."""
    started = time.monotonic()
    while (job := client.batches.retrieve(name)).status not in _OVER:
        time.sleep(poll_seconds)
    outcomes: list[Outcome] = []
    for file in (job.output_file_id, job.error_file_id):
        if file is not None:
            lines = client.files.content(file).text.splitlines()
            rows = [json.loads(line) for line in lines if line.strip()]
            outcomes += [_read(row, time.monotonic() - started) for row in rows]
    ledger.finish(outcomes)
    ledger.note_batch(name, url, done=True)
    for outcome in outcomes:
        if budget is not None:
            budget.settle(outcome)
        on_done(outcome)
    if job.status != "completed" and not outcomes:
        raise EndpointError(
            f"{url}: batch {name} {job.status}; run the same command again to send its requests anew"
        )


def _read(row: Any, seconds: float) -> Outcome:
    key = str(row["custom_id"])
    response = row.get("response") or {}
    try:
        if response.get("status_code") == 200:
            return read_completion(key, response["body"], seconds, 1)
        said = json.dumps(row.get("error") or response.get("body"), ensure_ascii=False)[:200]
        return Outcome(key, "rejected", reason=f"http_{response.get('status_code')}: {said}", attempts=1)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        return Outcome(key, "failed", reason="no chat completion in the batch's output", attempts=1)

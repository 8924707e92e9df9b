"""Ask an OpenAI-compatible endpoint many things at once, patiently: retries, ``Retry-After``, one pool.

The API key is read from the environment and stays there: it is in no log line, no ledger and no error.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import openai

from ziya_visual.core.errors import ConfigError, EndpointError
from ziya_visual.forge.ledger import Ledger, Outcome

KEY_VARIABLE = "OPENAI_API_KEY"
COMMIT_SECONDS = 0.05
COMMIT_ROWS = 64
LONGEST_WAIT_SECONDS = 300.0
STOP_AFTER_FAILURES = 16  # in a row: the endpoint is down, and the rest stays pending for the next run
UNREACHABLE = "no connection"
_RETRIED = frozenset({408, 409, 425, 429})
_MISCONFIGURED = frozenset({401, 403, 404, 405})


class Client:
    """One endpoint. Open it inside the event loop that uses it, and close it there."""

    def __init__(
        self,
        *,
        base_url: str,
        timeout_seconds: float = 120.0,
        max_attempts: int = 6,
        backoff_seconds: float = 0.5,
        key_variable: str = KEY_VARIABLE,
    ) -> None:
        """Prepare the connection pool; nothing is sent yet.

        Raises:
            ConfigError: the URL has no scheme or host, or the key's variable is not set for a remote one.
        """
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ConfigError(f"--base-url {base_url!r} is no URL; expected e.g. http://127.0.0.1:8000/v1")
        loopback = url.hostname in ("127.0.0.1", "localhost", "::1")
        self._key = os.environ.get(key_variable, "")
        if not self._key and not loopback:
            raise ConfigError(f"{base_url} needs a key: set the environment variable {key_variable}")
        self.base_url = base_url
        self._max_attempts = max_attempts
        self._backoff_seconds = backoff_seconds
        self._not_before = 0.0  # loop time: a 429 holds everybody back
        # A proxy of the environment is for the world outside, not for a server on this machine.
        self._openai = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=self._key or "none",
            timeout=timeout_seconds,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=not loopback),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._openai.close()

    async def ask(self, key: str, body: Mapping[str, Any]) -> Outcome:
        """Send one request until it is answered or given up.

        Raises:
            EndpointError: the endpoint refuses everything: a wrong key, model or path.
        """
        started = time.monotonic()
        reason, attempts, state = "", 0, "failed"
        while attempts < self._max_attempts:
            await self._hold()
            attempts += 1
            wait = self._backoff_seconds * 2.0 ** (attempts - 1)
            try:
                reply = await self._openai.chat.completions.with_raw_response.create(**body)
                return _answered(key, reply.content, time.monotonic() - started, attempts)
            except openai.APIStatusError as error:
                reason, status = self._explain(error), error.status_code
                if status in _MISCONFIGURED:
                    raise EndpointError(
                        f"{self.base_url}: {reason}; check --base-url, --model, key"
                    ) from error
                if status < 500 and status not in _RETRIED:
                    state = "rejected"
                    break
                asked = retry_after_seconds(error.response.headers)
                if asked is not None and asked > LONGEST_WAIT_SECONDS:
                    break
                if status == 429 and asked is not None:
                    self._not_before = max(self._not_before, asyncio.get_running_loop().time() + asked)
                wait = max(wait, asked or 0.0)
            except openai.APIConnectionError as error:
                timed_out = isinstance(error, openai.APITimeoutError)
                reason = "timeout" if timed_out else f"{UNREACHABLE}: {self._redact(_root(error))}"
            except _UnusableReplyError as error:
                reason = str(error)
            if attempts < self._max_attempts:
                await asyncio.sleep(min(wait, LONGEST_WAIT_SECONDS) * random.uniform(1.0, 1.25))
        seconds = time.monotonic() - started
        return Outcome(key, state, seconds=seconds, attempts=attempts, reason=reason)

    async def _hold(self) -> None:
        """Wait out a ``Retry-After`` that any request has met."""
        loop = asyncio.get_running_loop()
        while (left := self._not_before - loop.time()) > 0:
            await asyncio.sleep(left + random.uniform(0.0, 0.05))

    def _explain(self, error: openai.APIStatusError) -> str:
        return f"http_{error.status_code}: {self._redact(error.message)[:200]}"

    def _redact(self, text: str) -> str:
        text = " ".join(text.split())
        return text.replace(self._key, "***") if self._key else text


class _UnusableReplyError(Exception):
    """A reply with status 200 that is no chat completion."""


def _root(error: BaseException) -> str:
    cause = error.__cause__ or error
    return str(cause) or type(cause).__name__


def _answered(key: str, content: bytes, seconds: float, attempts: int) -> Outcome:
    """Read the reply's JSON by hand: the typed model costs more than the rest of the request's handling."""
    try:
        reply = json.loads(content)
        choice = reply["choices"][0]
        answer = choice["message"]["content"] or choice["message"].get("refusal") or ""
        usage = reply.get("usage") or {}
        prompt, completion = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        shown = content[:80].decode("utf-8", "replace")
        raise _UnusableReplyError(f"no chat completion: {shown!r}") from error
    finish = choice.get("finish_reason")
    return Outcome(key, "done", str(answer), finish, prompt, completion, seconds, attempts)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """``Retry-After`` (seconds or an HTTP date) or ``retry-after-ms``; None where absent or unreadable."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        if value.strip().replace(".", "", 1).isdigit():
            return float(value)
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


class _Committer:
    """Gathers ledger rows for a moment or 64 rows, so that a commit is shared by many requests."""

    def __init__(self, ledger: Ledger, seconds: float) -> None:
        self._ledger = ledger
        self._seconds = seconds
        self._started: list[str] = []
        self._ended: list[tuple[Outcome, asyncio.Future[None]]] = []
        self._timer: asyncio.TimerHandle | None = None

    def start(self, key: str) -> None:
        self._started.append(key)
        self._schedule()

    async def finish(self, outcome: Outcome) -> None:
        """Return once the outcome is committed."""
        future = asyncio.get_running_loop().create_future()
        self._ended.append((outcome, future))
        if len(self._ended) >= COMMIT_ROWS:
            self.commit()
        else:
            self._schedule()
        await future

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self.commit)

    def commit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        started, self._started = self._started, []
        ended, self._ended = self._ended, []
        try:
            if started:
                self._ledger.start(started)
            if ended:
                self._ledger.finish([outcome for outcome, _ in ended])
        except Exception as error:
            for _, future in ended:
                if not future.done():
                    future.set_exception(error)
            if not ended:
                raise
            return
        for _, future in ended:
            if not future.done():
                future.set_result(None)


async def _run(
    ledger: Ledger,
    keys: Sequence[str],
    client: Client,
    concurrency: int,
    commit_seconds: float,
    on_done: Callable[[Outcome], None],
) -> None:
    """Workers take keys in turn; a commit holds one up only where no time is given to gather commits."""
    committer = _Committer(ledger, commit_seconds)
    queue = iter(keys)
    failures, answered = 0, 0

    async def settle(outcome: Outcome) -> None:
        await committer.finish(outcome)
        on_done(outcome)

    async def work(settling: asyncio.TaskGroup) -> None:
        nonlocal failures, answered
        for key in queue:
            committer.start(key)
            outcome = await client.ask(key, ledger.body(key))
            settled = settling.create_task(settle(outcome))
            if not commit_seconds:
                await settled  # a kill then loses what is in flight and nothing more
            answered += outcome.state != "failed"
            failures = failures + 1 if outcome.state == "failed" else 0
            unreachable = not answered and (outcome.reason or "").startswith(UNREACHABLE)
            if failures >= STOP_AFTER_FAILURES or unreachable:
                raise EndpointError(
                    f"{client.base_url}: gave up after {outcome.attempts} attempts ({outcome.reason});"
                    " what was answered is kept, run the same command again to go on"
                )

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(keys))):
                group.create_task(work(group))
    except ExceptionGroup as group_error:
        raise group_error.exceptions[0] from None
    finally:
        committer.commit()
        await client.close()


def ask_all(
    ledger: Ledger,
    keys: Sequence[str],
    *,
    base_url: str,
    concurrency: int = 64,
    commit_seconds: float = COMMIT_SECONDS,
    on_done: Callable[[Outcome], None] = lambda outcome: None,
    **options: Any,
) -> int:
    """Send every request of ``keys`` that has no answer yet; returns how many were sent.

    Args:
        ledger: holds the requests.
        keys: from :meth:`Ledger.add`.
        base_url: of the endpoint, with ``/v1``.
        concurrency: requests in flight at once, at least 1.
        commit_seconds: how long an answer may wait for others to be committed with; a kill loses those. At 0
            each worker waits for its answer's commit, and a kill loses what is in flight alone.
        on_done: called with each outcome after it is committed.
        options: of :class:`Client`.

    Raises:
        EndpointError: the endpoint cannot be reached, or refuses everything; the rest stays pending.
        ConfigError: an unusable URL, concurrency or missing key.
    """
    if concurrency < 1:
        raise ConfigError(f"concurrency is {concurrency}, expected at least 1")
    waiting = ledger.waiting(keys)
    if waiting:

        async def main() -> None:
            await _run(
                ledger, waiting, Client(base_url=base_url, **options), concurrency, commit_seconds, on_done
            )

        asyncio.run(main())
    return len(waiting)

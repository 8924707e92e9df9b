"""Requests to OpenAI-compatible endpoints, sent patiently: retries, ``Retry-After``, failover, rates.

API keys are read from the environment and stay there: no log line, ledger or error holds one.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from ziya_visual.core.errors import ConfigError, EndpointError, one_line
from ziya_visual.forge.ask.ledger import Outcome
from ziya_visual.forge.ask.limits import Gate, Pace, Price, estimate_tokens

LONGEST_WAIT_SECONDS = 300.0
REST_SECONDS = 30.0  # how long a failing endpoint is left alone when there is another
UNREACHABLE = "no connection"
_RETRIED = frozenset({408, 409, 425, 429})
_MISCONFIGURED = frozenset({401, 403, 404, 405})
_OVERLOADED = frozenset({429, 503, 529})


@dataclass(frozen=True, slots=True)
class Sending:
    """How requests are sent: one object from the command line to the client.

    Attributes:
        base_url: An OpenAI-compatible endpoint, with ``/v1``; of several, the first that works is used.
        concurrency: Requests in flight at once, at most; fewer while an endpoint is overloaded.
        params: Further fields of the request body, such as ``temperature``; they are part of a request's key.
        budget_usd: What the ledger may cost over its whole life; needs ``price``.
        use_batches: Send through the Batch API, which takes up to a day and costs half at OpenAI.
        timeout_seconds: The limit on one attempt, including a slowly dripping reply.
        backoff_seconds: The first wait after a failure; it doubles with each attempt.
        poll_seconds: Time between two looks at a job of the Batch API.
        key_variable: The environment variable that holds the API key.
    """

    model: str
    base_url: str | tuple[str, ...]
    concurrency: int = 64
    params: Mapping[str, Any] = field(default_factory=dict)
    price: Price | None = None
    budget_usd: float | None = None
    use_batches: bool = False
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout_seconds: float = 120.0
    max_attempts: int = 6
    backoff_seconds: float = 0.5
    poll_seconds: float = 30.0
    key_variable: str = "OPENAI_API_KEY"

    def __post_init__(self) -> None:
        """Refuse values that would never send anything, with ``ConfigError``."""
        if self.concurrency < 1:
            raise ConfigError(f"concurrency is {self.concurrency}, expected at least 1")
        for rate in (self.requests_per_minute, self.tokens_per_minute):
            if rate is not None and rate <= 0:
                raise ConfigError(f"a rate of {rate} per minute never sends anything; expected more than 0")

    @property
    def urls(self) -> tuple[str, ...]:
        """Return the endpoints in order of preference."""
        return (self.base_url,) if isinstance(self.base_url, str) else self.base_url


def split_endpoint(text: str) -> tuple[str, str] | None:
    """Return model and URL of ``MODEL@URL``, or None if the text is not of that form.

    >>> split_endpoint("gpt-4o@https://api.openai.com/v1")
    ('gpt-4o', 'https://api.openai.com/v1')
    """
    match = re.fullmatch(r"(.+)@(https?://.+)", text)
    return (match[1], match[2]) if match else None


def read_key(base_url: str, key_variable: str) -> tuple[str, bool]:
    """Return the API key from the environment, and whether the endpoint is on another machine.

    Raises:
        ConfigError: The URL has no scheme or host, or a remote endpoint's key is not set.
    """
    url = urlsplit(base_url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"--base-url {base_url!r} is not a URL; expected e.g. http://127.0.0.1:8000/v1")
    remote = url.hostname not in ("127.0.0.1", "localhost", "::1")
    key = os.environ.get(key_variable, "")
    if not key and remote:
        raise ConfigError(f"{base_url} needs a key: set the environment variable {key_variable}")
    return key, remote


class Endpoint:
    """One base URL with its connections; ``ready_at`` (loop time) is when it may be asked again."""

    def __init__(self, base_url: str, sending: Sending) -> None:
        """Prepare the connections without sending anything; raise as :func:`read_key`."""
        self.key, remote = read_key(base_url, sending.key_variable)
        self.base_url = base_url
        self.ready_at = 0.0
        self.structured = True  # until the endpoint says that it does not know response_format
        most = sending.concurrency
        limits = httpx2.Limits(max_connections=most, max_keepalive_connections=most)
        # A proxy from the environment is for the outside world, not for a server on this machine.
        self.openai = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=self.key or "none",
            timeout=sending.timeout_seconds,
            max_retries=0,
            http_client=openai.DefaultAioHttpClient(trust_env=remote, limits=limits),
        )

    async def send(self, body: Mapping[str, Any]) -> bytes:
        """Send a body and return the raw JSON, which is several times cheaper than the typed model."""
        if not self.structured:
            body = {name: value for name, value in body.items() if name != "response_format"}
        response = await self.openai.post("/chat/completions", body=body, cast_to=httpx2.Response)
        return response.content


class Client:
    """Endpoints that serve one model, the first as long as it works; opened and closed in one event loop."""

    def __init__(self, sending: Sending) -> None:
        """Prepare the endpoints without sending anything; raise as :func:`read_key`."""
        self._sending = sending
        self._endpoints = [Endpoint(url, sending) for url in sending.urls]
        self._gate = Gate(sending.concurrency)
        self._request_pace = Pace(sending.requests_per_minute) if sending.requests_per_minute else None
        self._token_pace = Pace(sending.tokens_per_minute) if sending.tokens_per_minute else None

    async def close(self) -> None:
        """Close the connections."""
        for endpoint in self._endpoints:
            await endpoint.openai.close()

    async def ask(self, key: str, body: Mapping[str, Any]) -> Outcome:
        """Send one request until it is answered or given up.

        Raises:
            EndpointError: Every endpoint refuses every request: a wrong key, model or path.
        """
        started = time.monotonic()
        reason, attempts, state = "", 0, "failed"
        while attempts < self._sending.max_attempts:
            endpoint = await self._ready()
            await self._pace(body)
            attempts += 1
            try:
                async with self._gate, asyncio.timeout(self._sending.timeout_seconds):
                    content = await endpoint.send(body)
                outcome = read_completion(key, content, time.monotonic() - started, attempts)
                if outcome is not None:
                    return outcome
                reason = f"no chat completion: {content[:80].decode('utf-8', 'replace')!r}"
                wait = self._sending.backoff_seconds
            except openai.APIStatusError as error:
                reason = f"http_{error.status_code}: {one_line(error.message, hide=endpoint.key)}"
                retry_after = retry_after_seconds(error.response.headers)
                if self._is_final(endpoint, error, reason, "response_format" in body):
                    state = "rejected"
                    break
                if (retry_after or 0.0) > LONGEST_WAIT_SECONDS and len(self._endpoints) == 1:
                    break
                wait = self._rest(endpoint, error.status_code, retry_after, attempts)
            except (openai.APIConnectionError, TimeoutError) as error:
                timed_out, cause = _root(error)
                reason = "timeout" if timed_out else f"{UNREACHABLE}: {one_line(cause, hide=endpoint.key)}"
                wait = self._rest(endpoint, 503 if timed_out else 500, None, attempts)
            if attempts < self._sending.max_attempts:
                await asyncio.sleep(min(wait, LONGEST_WAIT_SECONDS) * random.uniform(1.0, 1.25))
        seconds = time.monotonic() - started
        return Outcome(key, state, seconds=seconds, attempts=attempts, reason=reason)

    async def _ready(self) -> Endpoint:
        """Return the first endpoint that may be asked, waiting for the soonest if none may."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            for endpoint in self._endpoints:
                if endpoint.ready_at <= now:
                    return endpoint
            soonest = min(endpoint.ready_at for endpoint in self._endpoints)
            await asyncio.sleep(soonest - now + random.uniform(0.0, 0.05))

    async def _pace(self, body: Mapping[str, Any]) -> None:
        if self._request_pace is not None:
            await self._request_pace.take(1)
        if self._token_pace is not None:
            prompt = json.dumps(body["messages"], ensure_ascii=False)
            await self._token_pace.take(estimate_tokens(prompt) + body.get("max_tokens", 0))

    def _is_final(
        self, endpoint: Endpoint, error: openai.APIStatusError, reason: str, structured: bool
    ) -> bool:
        """Return whether a request is refused for good; raise if every request would be."""
        status = error.status_code
        if status in _MISCONFIGURED:
            endpoint.ready_at = float("inf")
            if all(other.ready_at == float("inf") for other in self._endpoints):
                message = f"{endpoint.base_url}: {reason}; check --base-url, --model and the API key"
                raise EndpointError(message) from error
            return False
        if status in (400, 422) and structured and endpoint.structured and "response_format" in reason:
            endpoint.structured = False
            return False
        return status < 500 and status not in _RETRIED

    def _rest(self, endpoint: Endpoint, status: int, retry_after: float | None, attempts: int) -> float:
        """Return the seconds to wait; overload and ``Retry-After`` hold other requests back too."""
        now = asyncio.get_running_loop().time()
        if status in _OVERLOADED:
            self._gate.halve()
        if status == 429 and retry_after is not None:
            endpoint.ready_at = max(endpoint.ready_at, now + retry_after)
        others = len(self._endpoints) > 1
        if others and status >= 500:
            endpoint.ready_at = max(endpoint.ready_at, now + REST_SECONDS)
        if others and endpoint.ready_at > now:
            return 0.0
        return max(self._sending.backoff_seconds * 2.0 ** (attempts - 1), retry_after or 0.0)


def _root(error: BaseException) -> tuple[bool, str]:
    """Return whether the innermost error is a timeout, and its text; a refused connection is not one."""
    while error.__cause__ is not None and not isinstance(error, TimeoutError):
        error = error.__cause__
    return isinstance(error, TimeoutError), str(error) or type(error).__name__


def read_completion(key: str, reply: Any, seconds: float, attempts: int) -> Outcome | None:
    """Return the outcome in a chat completion, parsed or in bytes, or None if it is not one."""
    try:
        reply = json.loads(reply) if isinstance(reply, bytes) else reply
        choice = reply["choices"][0]
        answer = choice["message"]["content"] or choice["message"].get("refusal") or ""
        usage = reply.get("usage") or {}
        prompt, completion = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
        finish = choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
    return Outcome(key, "done", str(answer), finish, prompt, completion, seconds, attempts)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Read ``retry-after-ms`` or ``Retry-After`` (seconds or a date); None if absent or unreadable."""
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

"""Ask OpenAI-compatible endpoints one thing, patiently: retries, ``Retry-After``, failover, rates.

API keys are read from the environment and stay there: they are in no log line, no ledger and no error.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from ziya_visual.core.errors import ConfigError, EndpointError
from ziya_visual.forge.ask.cost import estimate_tokens
from ziya_visual.forge.ask.ledger import Outcome
from ziya_visual.forge.ask.limits import Gate, Pace

KEY_VARIABLE = "OPENAI_API_KEY"
LONGEST_WAIT_SECONDS = 300.0
REST_SECONDS = 30.0  # how long a failing endpoint is left alone where there is another
UNREACHABLE = "no connection"
_RETRIED = frozenset({408, 409, 425, 429})
_MISCONFIGURED = frozenset({401, 403, 404, 405})
_OVERLOADED = frozenset({429, 503, 529})


def read_key(base_url: str, key_variable: str) -> tuple[str, bool]:
    """(the key from the environment, whether the endpoint is on another machine).

    Raises:
        ConfigError: the URL has no scheme or host, or the key's variable is not set for a remote one.
    """
    url = urlsplit(base_url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"--base-url {base_url!r} is no URL; expected e.g. http://127.0.0.1:8000/v1")
    remote = url.hostname not in ("127.0.0.1", "localhost", "::1")
    key = os.environ.get(key_variable, "")
    if not key and remote:
        raise ConfigError(f"{base_url} needs a key: set the environment variable {key_variable}")
    return key, remote


class Endpoint:
    """One base URL with its connections; ``ready_at`` (loop time) is when it may be asked again."""

    def __init__(self, base_url: str, *, timeout_seconds: float, key_variable: str, connections: int) -> None:
        """Prepare the connections; nothing is sent yet. Raises as :func:`read_key`."""
        self._key, remote = read_key(base_url, key_variable)
        self.base_url = base_url
        self.ready_at = 0.0
        self.structured = True  # until it says that it does not know response_format
        # A proxy of the environment is for the world outside, not for a server on this machine.
        self.openai = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=self._key or "none",
            timeout=timeout_seconds,
            max_retries=0,
            http_client=openai.DefaultAioHttpClient(
                trust_env=remote,
                limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
            ),
        )

    async def send(self, body: Mapping[str, Any]) -> bytes:
        """The reply's raw JSON: the typed model would cost more than the rest of the request's handling."""
        if not self.structured:
            body = {name: value for name, value in body.items() if name != "response_format"}
        response = await self.openai.post("/chat/completions", body=body, cast_to=httpx2.Response)
        return response.content

    def redact(self, text: str) -> str:
        """One line without the key."""
        text = " ".join(text.split())
        return text.replace(self._key, "***") if self._key else text


class Client:
    """Endpoints that serve one model, the first as long as it works. Open and close it in one event loop."""

    def __init__(
        self,
        *,
        base_url: str | Sequence[str],
        concurrency: int = 64,
        timeout_seconds: float = 120.0,
        max_attempts: int = 6,
        backoff_seconds: float = 0.5,
        key_variable: str = KEY_VARIABLE,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Raises:
            ConfigError: an unusable URL or rate, or a missing key.
        """
        for rate in (requests_per_minute, tokens_per_minute):
            if rate is not None and rate <= 0:
                raise ConfigError(f"a rate of {rate} a minute never sends anything")
        urls = [base_url] if isinstance(base_url, str) else list(base_url)
        self._endpoints = [
            Endpoint(url, timeout_seconds=timeout_seconds, key_variable=key_variable, connections=concurrency)
            for url in urls
        ]
        self.base_url = ", ".join(urls)
        self._gate = Gate(concurrency)
        self._timeout_seconds = timeout_seconds
        self._max_attempts = max_attempts
        self._backoff_seconds = backoff_seconds
        self._request_pace = Pace(requests_per_minute) if requests_per_minute else None
        self._token_pace = Pace(tokens_per_minute) if tokens_per_minute else None

    async def close(self) -> None:
        """Close the connections."""
        for endpoint in self._endpoints:
            await endpoint.openai.close()

    async def ask(self, key: str, body: Mapping[str, Any]) -> Outcome:
        """Send one request until it is answered or given up.

        Raises:
            EndpointError: every endpoint refuses everything: a wrong key, model or path.
        """
        started = time.monotonic()
        reason, attempts, state = "", 0, "failed"
        while attempts < self._max_attempts:
            endpoint = await self._ready()
            await self._pace(body)
            attempts += 1
            try:
                async with self._gate, asyncio.timeout(self._timeout_seconds):
                    content = await endpoint.send(body)
                return _answered(key, content, time.monotonic() - started, attempts)
            except openai.APIStatusError as error:
                reason, asked = _explain(endpoint, error), retry_after_seconds(error.response.headers)
                if self._is_final(endpoint, error, reason, "response_format" in body):
                    state = "rejected"
                    break
                if asked is not None and asked > LONGEST_WAIT_SECONDS and len(self._endpoints) == 1:
                    break
                wait = self._rest(endpoint, error.status_code, asked, attempts)
            except (openai.APIConnectionError, TimeoutError) as error:
                timed_out, said = _root(error)
                reason = "timeout" if timed_out else f"{UNREACHABLE}: {endpoint.redact(said)}"
                wait = self._rest(endpoint, 503 if timed_out else 500, None, attempts)
            except _UnusableReplyError as error:
                reason, wait = str(error), self._backoff_seconds
            if attempts < self._max_attempts:
                await asyncio.sleep(min(wait, LONGEST_WAIT_SECONDS) * random.uniform(1.0, 1.25))
        seconds = time.monotonic() - started
        return Outcome(key, state, seconds=seconds, attempts=attempts, reason=reason)

    async def _ready(self) -> Endpoint:
        """The first endpoint that may be asked now, else the one that may be soonest, once it may."""
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
        """Whether the request is refused for good; a refusal of every request raises."""
        status = error.status_code
        if status in _MISCONFIGURED:
            endpoint.ready_at = float("inf")
            if all(other.ready_at == float("inf") for other in self._endpoints):
                raise EndpointError(
                    f"{endpoint.base_url}: {reason}; check --base-url, --model, key"
                ) from error
            return False
        if status in (400, 422) and structured and endpoint.structured and "response_format" in reason:
            endpoint.structured = False
            return False
        return status < 500 and status not in _RETRIED

    def _rest(self, endpoint: Endpoint, status: int, asked: float | None, attempts: int) -> float:
        """Seconds that this request waits; a 429's ``Retry-After`` and a failure hold others back too."""
        now = asyncio.get_running_loop().time()
        if status in _OVERLOADED:
            self._gate.halve()
        if status == 429 and asked is not None:
            endpoint.ready_at = max(endpoint.ready_at, now + asked)
        others = len(self._endpoints) > 1
        if others and status >= 500:
            endpoint.ready_at = max(endpoint.ready_at, now + REST_SECONDS)
        if others and endpoint.ready_at > now:
            return 0.0
        return max(self._backoff_seconds * 2.0 ** (attempts - 1), asked or 0.0)


class _UnusableReplyError(Exception):
    """A reply with status 200 that is no chat completion."""


def _explain(endpoint: Endpoint, error: openai.APIStatusError) -> str:
    return f"http_{error.status_code}: {endpoint.redact(error.message)[:200]}"


def _root(error: BaseException) -> tuple[bool, str]:
    """(Whether it is a timeout, what the innermost error says); a refused connection is none."""
    while error.__cause__ is not None and not isinstance(error, TimeoutError):
        error = error.__cause__
    return isinstance(error, TimeoutError), str(error) or type(error).__name__


def _answered(key: str, content: bytes, seconds: float, attempts: int) -> Outcome:
    try:
        return read_completion(key, json.loads(content), seconds, attempts)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        shown = content[:80].decode("utf-8", "replace")
        raise _UnusableReplyError(f"no chat completion: {shown!r}") from error


def read_completion(key: str, reply: Any, seconds: float, attempts: int) -> Outcome:
    """The outcome in a chat completion; any of Python's look-up errors where it is none."""
    choice = reply["choices"][0]
    answer = choice["message"]["content"] or choice["message"].get("refusal") or ""
    usage = reply.get("usage") or {}
    prompt, completion = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
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

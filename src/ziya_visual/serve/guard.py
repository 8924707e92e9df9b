"""Middleware in front of the application: API keys, host names, and limits on the size and time of bodies."""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
from typing import Any

from fastapi import HTTPException

from ziya_visual.core.errors import ConfigError
from ziya_visual.serve.answers import error_response

LIMIT_BODY_BYTES = 32_000_000
LIMIT_BODY_SECONDS = 60.0
TOO_LARGE = f"the body is larger than {LIMIT_BODY_BYTES:,} bytes"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def read_key(host: str, api_key_env: str | None) -> str | None:
    """Read the API key of a server at ``host``; return None if it needs none, as at a loopback address."""
    key = os.environ.get(api_key_env) if api_key_env else None
    if api_key_env and not key:
        raise ConfigError(f"the environment variable {api_key_env} is empty; put the API key there")
    if key is None and host not in LOOPBACK:
        raise ConfigError(
            f"{host} may be reached by others: give a key with --api-key-env NAME, or use 127.0.0.1"
        )
    return key


def refuse_taken(host: str, port: int) -> None:
    """Raise ``ConfigError`` if a port is taken or needs privileges."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {host}, port {port} ({error.strerror}); give another with --port"
        ) from error


class Guard:
    """ASGI middleware that refuses requests in OpenAI's error format.

    Without a key, the request's host must be a loopback address, so that no web page can reach the server
    through a DNS name.
    """

    def __init__(self, app: Any, *, api_key: str | None) -> None:
        self._app, self._key = app, api_key

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {key.lower(): value for key, value in scope["headers"]}
        refusal = self._refuse(scope["path"], headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self._app(scope, _LimitedBody(receive), send)

    def _refuse(self, path: str, headers: dict[bytes, bytes]) -> Any | None:
        if self._key is None:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
            if name not in LOOPBACK:
                return error_response(403, "a server without a key answers only at loopback addresses")
        elif path.startswith("/v1"):
            key = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
            if not hmac.compare_digest(key, self._key.encode()):
                return error_response(401, "a valid API key is needed")
        size = headers.get(b"content-length", b"0")
        if not size.isdigit() or int(size) > LIMIT_BODY_BYTES:
            return error_response(413, TOO_LARGE)
        return None


class _LimitedBody:
    """The ``receive`` of a request, with limits on the size and time of its body."""

    def __init__(self, receive: Any) -> None:
        self._receive, self._size, self._complete = receive, 0, False

    async def __call__(self) -> Any:
        if self._complete:  # the next message is the disconnect
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), LIMIT_BODY_SECONDS)
        except TimeoutError:
            raise HTTPException(408, "the body did not arrive in time") from None
        self._size += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._size > LIMIT_BODY_BYTES:
            raise HTTPException(413, TOO_LARGE)
        return message

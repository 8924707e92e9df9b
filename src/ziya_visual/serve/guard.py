"""What stands before the application: who may ask, and how large and how slow a body may be."""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
from typing import Any

from fastapi import HTTPException

from ziya_visual.core.errors import ConfigError
from ziya_visual.serve.answers import error

LIMIT_BODY_BYTES = 32_000_000
LIMIT_BODY_SECONDS = 60.0
TOO_LARGE = f"the body is larger than {LIMIT_BODY_BYTES:,} bytes"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def read_key(host: str, api_key_env: str | None) -> str | None:
    """The key of a server at ``host``, None where it needs none.

    Raises:
        ConfigError: the environment variable is empty, or a public address would be without a key.
    """
    key = os.environ.get(api_key_env) if api_key_env else None
    if api_key_env and not key:
        raise ConfigError(f"the environment variable {api_key_env} is empty; put the API key there")
    if key is None and host not in LOOPBACK:
        raise ConfigError(
            f"{host} may be reached by others: give a key with --api-key-env NAME, or use 127.0.0.1"
        )
    return key


def refuse_taken(host: str, port: int) -> None:
    """Look whether a server can listen there.

    Raises:
        ConfigError: it cannot: another process does, or the port is not for everyone.
    """
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
    """ASGI middleware; refusals are OpenAI's errors.

    Without a key only addresses of this machine are taken as the request's host, so that no page of the web
    can ask through a name that leads here.
    """

    def __init__(self, app: Any, *, api_key: str | None) -> None:
        self._app, self._key = app, api_key

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Hand the request on, or answer it with the reason why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {key.lower(): value for key, value in scope["headers"]}
        refused = self._refuse(scope["path"], headers)
        if refused is not None:
            await refused(scope, receive, send)
            return
        await self._app(scope, _Limited(receive), send)

    def _refuse(self, path: str, headers: dict[bytes, bytes]) -> Any | None:
        if self._key is None:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
            if name not in LOOPBACK:
                return error(403, "a server without a key answers at the addresses of its own machine alone")
        elif path.startswith("/v1"):
            given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
            if not hmac.compare_digest(given, self._key.encode()):
                return error(401, "a valid API key is needed")
        size = headers.get(b"content-length", b"0")
        if not size.isdigit() or int(size) > LIMIT_BODY_BYTES:
            return error(413, TOO_LARGE)
        return None


class _Limited:
    """``receive`` of a request whose body is counted, and waited for only so long."""

    def __init__(self, receive: Any) -> None:
        self._receive, self._size, self._whole = receive, 0, False

    async def __call__(self) -> Any:
        if self._whole:  # what comes now is the news that the caller went away
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), LIMIT_BODY_SECONDS)
        except TimeoutError:
            raise HTTPException(408, "the body did not come in time") from None
        self._size += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._size > LIMIT_BODY_BYTES:
            raise HTTPException(413, TOO_LARGE)
        return message

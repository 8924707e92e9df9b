"""Run the server until it is stopped, or in a background process for a while."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import httpx
import uvicorn

from ziya_visual.core import log
from ziya_visual.core.errors import EndpointError
from ziya_visual.infer.engine import open_model
from ziya_visual.infer.quantized import Dtype
from ziya_visual.serve.api import create_app
from ziya_visual.serve.guard import read_key, refuse_taken

START_SECONDS = 120
SHUTDOWN_SECONDS = 60  # for answers in progress when the server is stopped


def serve(
    path: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_env: str | None = None,
    image_hosts: Sequence[str] = (),
    dtype: Dtype = "auto",
) -> None:
    """Serve a checkpoint until interrupted; answers in progress are finished first."""
    key = read_key(host, api_key_env)
    name = path.resolve().name
    app = create_app(open_model(path, dtype=dtype), name=name, api_key=key, image_hosts=image_hosts)
    refuse_taken(host, port)
    log.logger.info("serving %s at http://%s:%d/v1", name, host, port)
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


@contextlib.contextmanager
def running_server(path: Path) -> Iterator[str]:
    """Serve a checkpoint from a background process on a free loopback port; yield the base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from pathlib import Path; from ziya_visual.serve.server import serve; "
    code += f"serve(Path({str(path)!r}), port={port})"
    with tempfile.TemporaryFile() as log_file:  # a pipe that nobody reads would block the server once full
        process = subprocess.Popen([sys.executable, "-c", code], stderr=log_file)
        try:
            _wait_until_healthy(process, port, log_file)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log_file: IO[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log_file.seek(0)
            lines = log_file.read().decode(errors="replace").strip().splitlines() or ["no output"]
            raise EndpointError(f"the server stopped during startup: {lines[-1]}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).status_code == 200:
                return
        time.sleep(0.1)
    raise EndpointError(f"the server did not start within {START_SECONDS} s")

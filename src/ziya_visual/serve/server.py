"""The server's process: opened, run until it is told to end, or started beside us for a while."""

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
from ziya_visual.infer.opening import open_model
from ziya_visual.infer.quantized import Dtype
from ziya_visual.serve.api import create_app
from ziya_visual.serve.guard import read_key, refuse_taken

START_SECONDS = 120
ENDING_SECONDS = 60  # for answers that are being given when the server is told to end


def serve(
    path: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_env: str | None = None,
    image_hosts: Sequence[str] = (),
    dtype: Dtype = "auto",
) -> None:
    """Open a checkpoint and serve it until interrupted; what is being answered then is ended first.

    Raises:
        ConfigError: a public address without a key, the named environment variable is empty, a name of
            ``image_hosts`` is none, or the port is taken.
        CheckpointError: the checkpoint cannot be opened.
    """
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
        timeout_graceful_shutdown=ENDING_SECONDS,
    )


@contextlib.contextmanager
def running_server(path: Path) -> Iterator[str]:
    """Serve a checkpoint from a process of its own on a free loopback port; yields the base URL.

    Raises:
        EndpointError: the server did not start; the message ends with what it said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from pathlib import Path; from ziya_visual.serve.server import serve; "
    code += f"serve(Path({str(path)!r}), port={port})"
    with tempfile.TemporaryFile() as said:  # not a pipe, which nobody would empty: it would halt the server
        process = subprocess.Popen([sys.executable, "-c", code], stderr=said)
        try:
            _await_health(process, port, said)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_health(process: subprocess.Popen[bytes], port: int, log_file: IO[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log_file.seek(0)
            said = log_file.read().decode(errors="replace").strip().splitlines()
            raise EndpointError(f"the server ended at its start: {said[-1] if said else 'it said nothing'}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).status_code == 200:
                return
        time.sleep(0.1)
    raise EndpointError(f"the server did not answer within {START_SECONDS} s")

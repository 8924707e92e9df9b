"""An OpenAI-compatible server over one checkpoint: chat completions, models, health."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from ziya_visual.core import log
from ziya_visual.core.errors import ConfigError, DataError, EndpointError
from ziya_visual.infer.decode import Sampling
from ziya_visual.infer.engine import ZiyaVisual, open_model
from ziya_visual.infer.scheduler import BusyError, Finished, Scheduler
from ziya_visual.infer.scheduler import Request as Job
from ziya_visual.infer.text_model import BLIND, TextModel
from ziya_visual.serve.messages import read_messages

LIMIT_BODY_BYTES = 32_000_000
DEFAULT_MAX_TOKENS = 256
START_SECONDS = 120


def create_app(model: TextModel, *, name: str, api_key: str | None = None) -> FastAPI:
    """The application; ``name`` is the model's id, requests must carry ``api_key`` where one is given."""
    context = getattr(model.language_model.config, "max_position_embeddings", 2048)
    scheduler = Scheduler(model, max_context=context)
    answered = {"requests": 0, "tokens": 0}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(scheduler.close)

    app = FastAPI(title="Ziya-Visual", lifespan=lifespan)

    @app.exception_handler(DataError)
    async def bad_request(_: Request, error: DataError) -> JSONResponse:
        return _error(400, str(error))

    @app.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError) -> JSONResponse:
        return _error(429, str(error), headers={"Retry-After": "2"})

    @app.middleware("http")
    async def guard(request: Request, call_next: Any) -> Any:
        if request.url.path.startswith("/v1/") and api_key is not None:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), api_key.encode()):
                return _error(401, "a valid API key is needed")
        size = request.headers.get("content-length", "0")
        if not size.isdigit() or int(size) > LIMIT_BODY_BYTES:
            return _error(413, f"the body is larger than {LIMIT_BODY_BYTES:,} bytes")
        return await call_next(request)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", **scheduler.load}

    @app.get("/metrics")
    async def metrics() -> Any:
        values = {**scheduler.load, **{f"{key}_total": value for key, value in answered.items()}}
        lines = "".join(f"ziya_visual_{key} {value}\n" for key, value in values.items())
        return StreamingResponse(iter([lines]), media_type="text/plain")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "ziya-visual"}]}

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Any:
        body = await _read_json(request)
        if body.get("model") not in (name, None):
            return _error(404, f"model {body.get('model')!r} is not served here, {name!r} is")
        job = _job(body, model, scheduler.max_context)
        scheduler.submit(job)
        answered["requests"] += 1
        made = {"id": f"chatcmpl-{uuid.uuid4().hex[:24]}", "created": int(time.time()), "model": name}
        if body.get("stream"):
            usage = bool((body.get("stream_options") or {}).get("include_usage"))
            return StreamingResponse(_events(scheduler, job, made, usage), media_type="text/event-stream")
        text, finished = await _whole(scheduler, job, request)
        answered["tokens"] += finished.completion_tokens
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": finished.reason,
        }
        return JSONResponse(
            {**made, "object": "chat.completion", "choices": [choice], "usage": _usage(finished)}
        )

    return app


async def _read_json(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except ValueError as error:
        raise DataError("the body is not JSON") from error
    if not isinstance(body, dict):
        raise DataError("the body must be a JSON object")
    return body


def _job(body: dict[str, Any], model: TextModel, max_context: int) -> Job:
    """Check what is asked for and make a request of it."""
    messages, pictures = read_messages(body.get("messages"))
    queries = model.processor.num_query_tokens if isinstance(model, ZiyaVisual) else 0
    if pictures and not queries:
        raise DataError(BLIND)
    limit = _number(body, "max_completion_tokens", _number(body, "max_tokens", DEFAULT_MAX_TOKENS, 1), 1)
    encoded = model.format.encode(
        messages,
        num_image_tokens=queries if pictures else 0,
        num_images=len(pictures),
        add_generation_prompt=True,
    )
    length = len(encoded.ids)
    if length >= max_context:
        raise DataError(f"the dialogue has {length} tokens, the model's context {max_context}")
    stop = body.get("stop") or ()
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(one, str) and one for one in stops):
        raise DataError("'stop' must be a string or a list of strings")
    seed = body.get("seed")
    sampling = Sampling(
        temperature=_number(body, "temperature", 0.0, 0.0, 2.0),
        top_p=_number(body, "top_p", 1.0, 0.0, 1.0),
        seed=seed if isinstance(seed, int) else None,
    )
    return Job(
        messages, pictures, int(min(limit, max_context - length)), sampling, stops, bool(body.get("stream"))
    )


def _number(body: dict[str, Any], key: str, default: float, low: float, high: float = float("inf")) -> float:
    value = body.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise DataError(f"{key!r} must be a number from {low:g} to {high:g}, found {value!r:.40}")
    return value


async def _next(scheduler: Scheduler, job: Job) -> str | Finished:
    """The next piece, without a thread a request: most pieces are there at once or after a step."""
    while job.pieces.empty():
        await asyncio.sleep(0.004)
    return next(scheduler.pieces(job))


async def _whole(scheduler: Scheduler, job: Job, request: Request) -> tuple[str, Finished]:
    texts: list[str] = []
    try:
        while True:
            piece = await _next(scheduler, job)
            if isinstance(piece, Finished):
                return "".join(texts), piece
            texts.append(piece)
            if len(texts) % 32 == 0 and await request.is_disconnected():
                job.cancelled = True
    except asyncio.CancelledError:
        job.cancelled = True
        raise


async def _events(scheduler: Scheduler, job: Job, made: dict[str, Any], usage: bool) -> AsyncIterator[str]:
    def event(delta: dict[str, Any], reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {**made, "object": "chat.completion.chunk", "choices": [choice], **more}
        return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"

    try:
        yield event({"role": "assistant", "content": ""})
        while True:
            piece = await _next(scheduler, job)
            if isinstance(piece, Finished):
                yield event({}, piece.reason)
                if usage:
                    chunk = {**made, "object": "chat.completion.chunk", "choices": [], "usage": _usage(piece)}
                    yield f"data: {json.dumps(chunk)}\n\n"
                yield "data: [DONE]\n\n"
                return
            yield event({"content": piece})
    finally:
        job.cancelled = True  # a caller that went away frees its slot; one that was answered has none


def _usage(finished: Finished) -> dict[str, int]:
    asked, said = finished.prompt_tokens, finished.completion_tokens
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    kind = "invalid_request_error" if status < 429 else "rate_limit_error"
    return JSONResponse({"error": {"message": message, "type": kind, "code": None}}, status, headers)


def serve(path: Path, *, host: str = "127.0.0.1", port: int = 8000, api_key_env: str | None = None) -> None:
    """Open a checkpoint and serve it until interrupted.

    Raises:
        ConfigError: a public address without a key, or the named environment variable is empty.
        CheckpointError: the checkpoint cannot be opened.
    """
    key = os.environ.get(api_key_env) if api_key_env else None
    if api_key_env and not key:
        raise ConfigError(f"the environment variable {api_key_env} is empty; put the API key there")
    if key is None and host not in ("127.0.0.1", "localhost", "::1"):
        raise ConfigError(
            f"{host} may be reached by others: give a key with --api-key-env NAME, or use 127.0.0.1"
        )
    name = path.resolve().name
    app = create_app(open_model(path), name=name, api_key=key)
    log.logger.info("serving %s at http://%s:%d/v1", name, host, port)
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False)


@contextlib.contextmanager
def running_server(path: Path) -> Iterator[str]:
    """Serve a checkpoint from a process of its own on a free loopback port; yields the base URL.

    Raises:
        EndpointError: the server did not start; the message ends with what it said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from pathlib import Path; from ziya_visual.serve.api import serve; "
    code += f"serve(Path({str(path)!r}), port={port})"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        _await_health(process, port)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _await_health(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = (process.stderr.read() if process.stderr else "").strip().splitlines()
            raise EndpointError(f"the server ended at its start: {said[-1] if said else 'it said nothing'}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).status_code == 200:
                return
        time.sleep(0.1)
    raise EndpointError(f"the server did not answer within {START_SECONDS} s")

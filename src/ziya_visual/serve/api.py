"""An OpenAI-compatible application over one checkpoint: chat completions, embeddings, models, health."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ziya_visual.core.errors import DataError
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.infer.scheduler import BusyError, Finished, LateError, Piece, Scheduler
from ziya_visual.infer.text_model import TextModel
from ziya_visual.serve.answers import Answer, Formatter, embeddings_response, error_response
from ziya_visual.serve.guard import Guard
from ziya_visual.serve.pictures import Fetcher
from ziya_visual.serve.requests import ChatRequest, EmbeddingRequest

RETRY_SECONDS = "2"
POLL_SECONDS = 0.5  # between checks whether the caller of a whole answer is still connected


class Service(Collector):
    """One model, its scheduler and its request counters."""

    def __init__(self, model: TextModel, name: str, fetcher: Fetcher) -> None:
        """Start the scheduler; ``name`` is the model's id for callers."""
        self.model, self.name, self.fetcher = model, name, fetcher
        self.context = int(getattr(model.language_model.config, "max_position_embeddings", 2048))
        self.scheduler = Scheduler(model)
        self.counts: Counter[str] = Counter(requests=0, completion_tokens=0, prompt_tokens=0)
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._embedding = asyncio.Lock()

    def check_name(self, requested: str | None) -> None:
        """Refuse a request for another model."""
        if requested not in (self.name, None):
            raise HTTPException(404, f"model {requested!r:.80} is not served here, {self.name!r} is")

    async def submit(self, body: ChatRequest) -> tuple[list[Answer], asyncio.Queue[Any]]:
        """Queue the requested answers; return them with a queue of (choice, piece, finish or exception)."""
        self.check_name(body.model)
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def put(choice: int, piece: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed and nobody listens
                loop.call_soon_threadsafe(pieces.put_nowait, (choice, piece))

        fetched = await self.fetcher.fetch(body.urls)
        requests = await asyncio.to_thread(body.requests, self.model, self.context, fetched, put)
        answers = [Answer(request) for request in requests]
        try:
            for request in requests:
                self.scheduler.submit(request)
        except BusyError:
            cancel(answers)
            raise
        self.counts["requests"] += 1
        return answers, pieces

    async def follow(
        self, answers: Sequence[Answer], pieces: asyncio.Queue[Any]
    ) -> AsyncIterator[tuple[int, Piece | Finished]]:
        """Yield pieces until all answers have finished, recording them in ``answers``; raise any error."""
        while not all(answer.finished for answer in answers):
            choice, piece = await pieces.get()
            answer = answers[choice]
            if isinstance(piece, DataError | LateError):
                raise piece
            if isinstance(piece, Exception):  # raising it as it is would close the connection
                raise HTTPException(500, f"internal server error ({type(piece).__name__})")
            if isinstance(piece, Finished):
                answer.finished = piece
                self.counts["completion_tokens"] += piece.completion_tokens
                self.counts["prompt_tokens"] += piece.prompt_tokens
            else:
                answer.text += piece.text
                answer.logprobs += piece.logprobs
            yield choice, piece

    async def embed(self, body: EmbeddingRequest) -> dict[str, Any]:
        """Embed texts and images; raise ``DataError`` if the checkpoint has no retrieval side."""
        self.check_name(body.model)
        model = self.model
        if not isinstance(model, ZiyaVisual) or not model.retrieves:
            raise DataError("this checkpoint has no retrieval side, which embeddings come from")
        fetched = await self.fetcher.fetch(body.urls)
        contents = await asyncio.to_thread(body.contents, fetched)
        async with self._embedding:  # one at a time: embedding shares the processor with chat
            vectors = await asyncio.to_thread(model.embed, contents)
        tokens = sum(len(model.format.text_ids(text)) for text in contents if isinstance(text, str))
        self.counts["requests"] += 1
        in_base64 = body.encoding_format == "base64"
        return embeddings_response(self.name, vectors, tokens=tokens, in_base64=in_base64)

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yield the server's metrics for Prometheus."""
        gauges: dict[str, int] = dict(self.scheduler.load)
        counts = dict(self.counts)
        if isinstance(self.model, ZiyaVisual):
            counts["pictures_encoded"] = self.model.images_encoded
            gauges["pictures_kept"] = len(self.model.prefix_cache)
            gauges["pictures_kept_bytes"] = self.model.prefix_cache.nbytes + self.model.token_cache.nbytes
        for name, value in gauges.items():
            yield GaugeMetricFamily(f"ziya_visual_{name}", name.replace("_", " "), value)
        for name, value in counts.items():
            yield CounterMetricFamily(f"ziya_visual_{name}", name.replace("_", " "), value)


def cancel(answers: Sequence[Answer]) -> None:
    """Free the slots of answers; finished ones have none."""
    for answer in answers:
        answer.request.cancelled = True


def create_app(
    model: TextModel, *, name: str, api_key: str | None = None, image_hosts: Sequence[str] = ()
) -> FastAPI:
    """Create the application; ``name`` is the model's id for callers."""
    service = Service(model, name, Fetcher(image_hosts))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.scheduler.close)

    app = FastAPI(title="Ziya-Visual", lifespan=lifespan)
    app.add_middleware(Guard, api_key=api_key)
    _add_error_handlers(app)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", **service.scheduler.load}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        return generate_latest(service.registry).decode()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "ziya-visual"}]}

    @app.post("/v1/embeddings")
    async def embed(body: EmbeddingRequest) -> dict[str, Any]:
        return await service.embed(body)

    @app.post("/v1/chat/completions")
    async def complete(body: ChatRequest, http_request: HttpRequest) -> Any:
        answers, pieces = await service.submit(body)
        formatter = Formatter(model, name, logprobs=bool(body.logprobs))
        if body.stream:
            with_usage = bool(body.stream_options and body.stream_options.include_usage)
            events = _events(service, answers, pieces, formatter, with_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        await _wait(service, answers, pieces, http_request)
        return JSONResponse(formatter.completion(answers))

    return app


def _add_error_handlers(app: FastAPI) -> None:
    """Return every error in OpenAI's format; internal errors reveal only their type."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: HttpRequest, error: RequestValidationError) -> JSONResponse:
        deepest = max(error.errors(), key=lambda detail: len(detail["loc"]))  # of the alternatives of a key
        where = ".".join(str(part) for part in deepest["loc"][1:])
        message = str(deepest["msg"]).removeprefix("Value error, ")
        return error_response(400, f"{where}: {message}" if where else message, param=where or None)

    @app.exception_handler(HTTPException)
    async def refused(_: HttpRequest, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail))

    @app.exception_handler(DataError)
    @app.exception_handler(BusyError)
    @app.exception_handler(LateError)
    async def ours(_: HttpRequest, error: DataError | BusyError | LateError) -> JSONResponse:
        if isinstance(error, BusyError):
            return error_response(429, str(error), headers={"Retry-After": RETRY_SECONDS})
        return error_response(504 if isinstance(error, LateError) else 400, str(error))

    @app.exception_handler(Exception)
    async def internal(_: HttpRequest, error: Exception) -> JSONResponse:
        return error_response(500, f"internal server error ({type(error).__name__})")


async def _wait(
    service: Service, answers: Sequence[Answer], pieces: asyncio.Queue[Any], http_request: HttpRequest
) -> None:
    """Wait for all answers; free the slots of a caller that disconnects."""

    async def cancel_on_disconnect() -> None:
        while not await http_request.is_disconnected():
            await asyncio.sleep(POLL_SECONDS)
        cancel(answers)

    polling = asyncio.create_task(cancel_on_disconnect())
    try:
        async for _ in service.follow(answers, pieces):
            pass
    finally:
        polling.cancel()
        cancel(answers)


async def _events(
    service: Service, answers: Sequence[Answer], pieces: asyncio.Queue[Any], formatter: Formatter, usage: bool
) -> AsyncIterator[str]:
    """Yield the events of a stream; an error after its start is an event as well."""
    try:
        for choice in range(len(answers)):
            yield formatter.event(choice, {"role": "assistant", "content": ""})
        async for choice, piece in service.follow(answers, pieces):
            if isinstance(piece, Finished):
                yield formatter.event(choice, {}, reason=piece.reason)
            else:
                yield formatter.event(choice, {"content": piece.text}, logprobs=piece.logprobs)
        if usage:
            yield formatter.usage_event(answers)
        yield "data: [DONE]\n\n"
    except (DataError, LateError, HTTPException) as error:
        message = str(getattr(error, "detail", error))
        yield f"data: {bytes(error_response(500, message).body).decode()}\n\n"
    finally:
        cancel(answers)  # frees the slots of a caller that disconnected

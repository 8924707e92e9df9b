"""An OpenAI-compatible application over one checkpoint: chat completions, embeddings, models, health."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from ziya_visual.core.errors import DataError
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.infer.scheduler import BusyError, Finished, LateError, Piece, Scheduler
from ziya_visual.infer.scheduler import Request as Job
from ziya_visual.infer.text_model import TextModel
from ziya_visual.serve.answers import Answer, Form, embeddings, error
from ziya_visual.serve.guard import Guard
from ziya_visual.serve.pictures import Fetcher
from ziya_visual.serve.requests import ChatRequest, EmbeddingRequest

RETRY_SECONDS = "2"
LOOKS = 0.5  # seconds between two looks whether the caller of a whole answer is still there


class Service:
    """One model, its scheduler, and what was asked of it so far."""

    def __init__(self, model: TextModel, name: str, fetcher: Fetcher) -> None:
        """Start answering; ``name`` is the model's id for callers."""
        self.model, self.name, self.fetcher = model, name, fetcher
        self.context = int(getattr(model.language_model.config, "max_position_embeddings", 2048))
        self.scheduler = Scheduler(model)
        self.counts: Counter[str] = Counter(requests=0, completion_tokens=0, prompt_tokens=0)
        self._embedding = asyncio.Lock()

    def check(self, asked: str | None) -> None:
        """Refuse another model's name."""
        if asked not in (self.name, None):
            raise HTTPException(404, f"model {asked!r:.80} is not served here, {self.name!r} is")

    async def submit(self, body: ChatRequest) -> tuple[list[Job], asyncio.Queue[Any]]:
        """Queue the answers that are asked for; the queue gets (choice, :class:`Piece` or how it ended)."""
        self.check(body.model)
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def put(number: int, piece: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens
                loop.call_soon_threadsafe(pieces.put_nowait, (number, piece))

        fetched = await self.fetcher.fetch(body.urls)
        jobs = await asyncio.to_thread(body.jobs, self.model, self.context, fetched, put)
        try:
            for job in jobs:
                self.scheduler.submit(job)
        except BusyError:
            cancel(jobs)
            raise
        self.counts["requests"] += 1
        return jobs, pieces

    async def follow(
        self, answers: Sequence[Answer], pieces: asyncio.Queue[Any]
    ) -> AsyncIterator[tuple[int, Piece | Finished]]:
        """What comes until all have ended, taken down in ``answers``; an error of any is raised."""
        while not all(answer.finished for answer in answers):
            number, piece = await pieces.get()
            answer = answers[number]
            if isinstance(piece, DataError | LateError):
                raise piece
            if isinstance(piece, Exception):  # raised as it is, it would cost the caller the connection
                raise HTTPException(500, f"a fault of the server ({type(piece).__name__})")
            if isinstance(piece, Finished):
                answer.finished = piece
                self.counts["completion_tokens"] += piece.completion_tokens
                self.counts["prompt_tokens"] += piece.prompt_tokens
            else:
                answer.text += piece.text
                answer.likelihoods += piece.likelihoods
            yield number, piece

    async def embed(self, body: EmbeddingRequest) -> dict[str, Any]:
        """Vectors of texts and pictures; ``DataError`` where the checkpoint has no retrieval side."""
        self.check(body.model)
        model = self.model
        if not isinstance(model, ZiyaVisual) or not model.retrieves:
            raise DataError("this checkpoint has no retrieval side, which embeddings come from")
        fetched = await self.fetcher.fetch(body.urls)
        contents = await asyncio.to_thread(body.contents, fetched)
        async with self._embedding:  # one at a time: they share the processor with those who chat
            vectors = await asyncio.to_thread(model.embed, contents)
        tokens = sum(len(model.format.text_ids(one)) for one in contents if isinstance(one, str))
        self.counts["requests"] += 1
        in_base64 = body.encoding_format == "base64"
        return embeddings(self.name, vectors, tokens=tokens, in_base64=in_base64)

    @property
    def metrics(self) -> str:
        """In Prometheus' text form."""
        gauges: dict[str, int] = dict(self.scheduler.load)
        counts = dict(self.counts)
        if isinstance(self.model, ZiyaVisual):
            counts["pictures_encoded"] = self.model.encoded
            gauges["pictures_kept"] = len(self.model.kept)
            gauges["pictures_kept_bytes"] = self.model.kept.nbytes + self.model.tokens.nbytes
        lines = [f"# TYPE ziya_visual_{key} gauge\nziya_visual_{key} {n}\n" for key, n in gauges.items()]
        for key, n in counts.items():
            lines.append(f"# TYPE ziya_visual_{key}_total counter\nziya_visual_{key}_total {n}\n")
        return "".join(lines)


def cancel(jobs: Sequence[Job]) -> None:
    """Give the slots of requests back; one that has ended has none."""
    for job in jobs:
        job.cancelled = True


def create_app(
    model: TextModel, *, name: str, api_key: str | None = None, image_hosts: Sequence[str] = ()
) -> FastAPI:
    """The application.

    Args:
        model: that answers.
        name: its id for callers.
        api_key: requests must carry it, where one is given.
        image_hosts: where pictures may be fetched from.
    """
    service = Service(model, name, Fetcher(image_hosts))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.scheduler.close)

    app = FastAPI(title="Ziya-Visual", lifespan=lifespan)
    app.add_middleware(Guard, api_key=api_key)
    _say_errors(app)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", **service.scheduler.load}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        return service.metrics

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "ziya-visual"}]}

    @app.post("/v1/embeddings")
    async def embed(body: EmbeddingRequest) -> dict[str, Any]:
        return await service.embed(body)

    @app.post("/v1/chat/completions")
    async def complete(body: ChatRequest, request: Request) -> Any:
        jobs, pieces = await service.submit(body)
        answers = [Answer() for _ in jobs]
        form = Form(model, name, logprobs=bool(body.logprobs))
        if body.stream:
            usage = bool(body.stream_options and body.stream_options.include_usage)
            events = _events(service, jobs, pieces, answers, form, usage)
            return StreamingResponse(events, media_type="text/event-stream")
        await _whole(service, jobs, pieces, answers, request)
        return JSONResponse(form.whole(answers))

    return app


def _say_errors(app: FastAPI) -> None:
    """Every error in OpenAI's form; what goes wrong inside is told without contents."""

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, found: RequestValidationError) -> JSONResponse:
        deepest = max(found.errors(), key=lambda one: len(one["loc"]))  # of the forms that a key may have
        where = ".".join(str(part) for part in deepest["loc"][1:])
        said = str(deepest["msg"]).removeprefix("Value error, ")
        return error(400, f"{where}: {said}" if where else said, param=where or None)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, found: HTTPException) -> JSONResponse:
        return error(found.status_code, str(found.detail))

    @app.exception_handler(DataError)
    async def unfit(_: Request, found: DataError) -> JSONResponse:
        return error(400, str(found))

    @app.exception_handler(BusyError)
    async def busy(_: Request, found: BusyError) -> JSONResponse:
        return error(429, str(found), headers={"Retry-After": RETRY_SECONDS})

    @app.exception_handler(LateError)
    async def late(_: Request, found: LateError) -> JSONResponse:
        return error(504, str(found))

    @app.exception_handler(Exception)
    async def fault(_: Request, found: Exception) -> JSONResponse:
        return error(500, f"a fault of the server ({type(found).__name__})")


async def _whole(
    service: Service,
    jobs: Sequence[Job],
    pieces: asyncio.Queue[Any],
    answers: Sequence[Answer],
    request: Request,
) -> None:
    """Wait for all answers; a caller that goes away frees their slots."""

    async def watch() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(LOOKS)
        cancel(jobs)

    watching = asyncio.create_task(watch())
    try:
        async for _ in service.follow(answers, pieces):
            pass
    finally:
        watching.cancel()
        cancel(jobs)


async def _events(
    service: Service,
    jobs: Sequence[Job],
    pieces: asyncio.Queue[Any],
    answers: Sequence[Answer],
    form: Form,
    usage: bool,
) -> AsyncIterator[str]:
    """A stream's lines; an error after its beginning is a line as well."""
    try:
        for number in range(len(jobs)):
            yield form.event(number, {"role": "assistant", "content": ""})
        async for number, piece in service.follow(answers, pieces):
            if isinstance(piece, Finished):
                yield form.event(number, {}, reason=piece.reason)
            else:
                yield form.event(number, {"content": piece.text}, likelihoods=piece.likelihoods)
        if usage:
            yield form.usage_event(answers)
        yield "data: [DONE]\n\n"
    except (DataError, LateError, HTTPException) as found:
        said = str(getattr(found, "detail", found))
        yield f"data: {bytes(error(500, said).body).decode()}\n\n"
    finally:
        cancel(jobs)  # a caller that went away frees its slots

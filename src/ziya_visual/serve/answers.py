"""Responses in OpenAI's formats: whole answers, stream events, embeddings and errors."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from ziya_visual.infer.decoder import TokenLogprobs
from ziya_visual.infer.scheduler import Finished, Request
from ziya_visual.infer.text_model import TextModel

ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_response(
    status: int, message: str, *, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return an error in the format that OpenAI's client reads."""
    kind = ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    body = {"message": message, "type": kind, "param": param, "code": None}
    return JSONResponse({"error": body}, status, headers)


@dataclass
class Answer:
    """One answer while it grows, and its request to the scheduler."""

    request: Request
    text: str = ""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finished: Finished | None = None


class Formatter:
    """Formats the answers to one request."""

    def __init__(self, model: TextModel, name: str, *, logprobs: bool) -> None:
        """Take the model, its id for callers, and whether they requested log-probabilities."""
        self._model, self._with_logprobs = model, logprobs
        identity = f"chatcmpl-{uuid.uuid4().hex[:24]}"
        self._header: dict[str, Any] = {"id": identity, "created": int(time.time()), "model": name}

    def completion(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return a ``chat.completion``."""
        choices = []
        for index, answer in enumerate(answers):
            message = {"role": "assistant", "content": answer.text}
            reason = answer.finished.reason if answer.finished else None
            choices.append(self._choice(index, "message", message, reason, answer.logprobs))
        return ChatCompletion.construct(
            None, **self._header, object="chat.completion", choices=choices, usage=usage(answers)
        ).to_dict(mode="json")

    def event(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        logprobs: Sequence[TokenLogprobs] = (),
        reason: str | None = None,
    ) -> str:
        """Return a ``chat.completion.chunk`` of one choice as a stream event."""
        return self._chunk(choices=[self._choice(index, "delta", delta, reason, logprobs)])

    def usage_event(self, answers: Sequence[Answer]) -> str:
        """Return the last chunk, which has no choices and reports the token counts."""
        return self._chunk(choices=[], usage=usage(answers))

    def _chunk(self, **body: Any) -> str:
        chunk = ChatCompletionChunk.construct(None, **self._header, object="chat.completion.chunk", **body)
        return f"data: {chunk.to_json(indent=None)}\n\n"

    def _choice(
        self, index: int, key: str, content: Any, reason: str | None, logprobs: Sequence[TokenLogprobs]
    ) -> dict[str, Any]:
        tokens = [
            self._token(t.token, t.logprob) | {"top_logprobs": [self._token(*pair) for pair in t.top]}
            for t in logprobs
        ]
        details = {"content": tokens, "refusal": None} if self._with_logprobs else None
        return {"index": index, key: content, "finish_reason": reason, "logprobs": details}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = str(self._model.format.tokenizer.decode([token]))
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}


def usage(answers: Sequence[Answer]) -> CompletionUsage:
    """Count the tokens of a request; the prompt counts once for all its answers."""
    finished = [answer.finished for answer in answers if answer.finished]
    prompt = finished[0].prompt_tokens if finished else 0
    completion = sum(end.completion_tokens for end in finished)
    return CompletionUsage(
        prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
    )


def embeddings_response(
    name: str, vectors: Sequence[NDArray[np.float32]], *, tokens: int, in_base64: bool
) -> dict[str, Any]:
    """Return a list of embeddings, each flat with its ``shape``: [Dp] for a text, [Q, Dp] for an image."""
    data = []
    for index, vector in enumerate(vectors):
        values: str | list[float] = vector.ravel().tolist()
        if in_base64:
            values = base64.b64encode(vector.astype("<f4").tobytes()).decode()
        shape = list(vector.shape)
        data.append({"object": "embedding", "index": index, "shape": shape, "embedding": values})
    token_counts = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": name, "usage": token_counts}

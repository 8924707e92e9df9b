"""Answers in OpenAI's forms: whole, in events, embeddings, errors."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from ziya_visual.infer.decoder import Likelihood
from ziya_visual.infer.scheduler import Finished
from ziya_visual.infer.text_model import TextModel

KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def error(
    status: int, message: str, *, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An error as OpenAI's client reads it."""
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    body = {"message": message, "type": kind, "param": param, "code": None}
    return JSONResponse({"error": body}, status, headers)


@dataclass
class Answer:
    """One of the answers to a request while it grows."""

    text: str = ""
    likelihoods: list[Likelihood] = field(default_factory=list)
    finished: Finished | None = None


class Form:
    """How the answers to one request are written."""

    def __init__(self, model: TextModel, name: str, *, logprobs: bool) -> None:
        """Take the model that answers, its id for callers, and whether they asked for log-probabilities."""
        self._model, self._logprobs = model, logprobs
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex[:24]}",
            "created": int(time.time()),
            "model": name,
        }

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """A ``chat.completion``."""
        choices = [
            {
                "index": number,
                "message": {"role": "assistant", "content": answer.text},
                "finish_reason": answer.finished.reason if answer.finished else None,
                "logprobs": self._content(answer.likelihoods),
            }
            for number, answer in enumerate(answers)
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage(answers)}

    def event(
        self,
        number: int,
        delta: dict[str, Any],
        *,
        likelihoods: Sequence[Likelihood] = (),
        reason: str | None = None,
    ) -> str:
        """A ``chat.completion.chunk`` of one choice, as a line of the stream."""
        choice = {
            "index": number,
            "delta": delta,
            "finish_reason": reason,
            "logprobs": self._content(likelihoods),
        }
        return self._line({"choices": [choice]})

    def usage_event(self, answers: Sequence[Answer]) -> str:
        """The chunk without choices that says what the stream cost."""
        return self._line({"choices": [], "usage": usage(answers)})

    def _line(self, body: dict[str, Any]) -> str:
        chunk = {**self._head, "object": "chat.completion.chunk", **body}
        return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"

    def _content(self, likelihoods: Sequence[Likelihood]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        content = [
            {
                **self._token(one.token, one.logprob),
                "top_logprobs": [self._token(*pair) for pair in one.likeliest],
            }
            for one in likelihoods
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = str(self._model.format.tokenizer.decode([token]))
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}


def usage(answers: Sequence[Answer]) -> dict[str, int]:
    """What a request cost: its prompt counts once however many answers it has."""
    ends = [answer.finished for answer in answers if answer.finished]
    asked = ends[0].prompt_tokens if ends else 0
    said = sum(end.completion_tokens for end in ends)
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def embeddings(
    name: str, vectors: Sequence[NDArray[np.float32]], *, tokens: int, in_base64: bool
) -> dict[str, Any]:
    """A list of embeddings, each flat with its ``shape``: [Dp] of a text, [Q, Dp] of a picture."""
    data = [
        {
            "object": "embedding",
            "index": number,
            "shape": list(one.shape),
            "embedding": base64.b64encode(one.astype("<f4").tobytes()).decode()
            if in_base64
            else one.ravel().tolist(),
        }
        for number, one in enumerate(vectors)
    ]
    return {
        "object": "list",
        "data": data,
        "model": name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }

"""Continuous batching: one thread owns the model, and requests join while others decode."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ziya_visual.core import log
from ziya_visual.core.errors import DataError, EndpointError
from ziya_visual.infer.decoder import Decoder, Prompt, Slot, TokenLogprobs
from ziya_visual.infer.text_model import Dialogue, TextModel

SLOTS = 128
MIN_FREE_SLOTS = 24  # before requests join a nearly full decoder: prefilling a few costs as much as many
MAX_WAITING = 512
LIMIT_SECONDS = 600.0  # from the request to the end of its answer
INCOMPLETE_CHARACTER = "\ufffd"


class BusyError(EndpointError):
    """The queue is full; try again later."""


class LateError(EndpointError):
    """The answer took longer than a request may take."""


@dataclass
class Request(Dialogue):
    """A dialogue whose answer is delivered in pieces, or whole unless ``streamed``.

    The scheduler's thread calls ``put`` with each :class:`Piece`, and at the end with a :class:`Finished` or
    an exception.
    """

    put: Callable[[Piece | Finished | Exception], None] = field(kw_only=True)
    stop: tuple[str, ...] = ()
    streamed: bool = False
    cancelled: bool = False
    prompt_tokens: int = 0
    sent_text: str = ""
    sent_logprobs: int = 0
    expires: float = float("inf")  # by time.monotonic


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of an answer, and the log-probabilities of its tokens if requested."""

    text: str
    logprobs: Sequence[TokenLogprobs] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """How an answer ended (``stop`` or ``length``), and its token counts."""

    reason: str
    prompt_tokens: int
    completion_tokens: int


class Scheduler:
    """Continuous batching over one model."""

    def __init__(self, model: TextModel) -> None:
        """Start the thread."""
        self.model = model
        self._waiting: queue.Queue[Request | None] = queue.Queue(MAX_WAITING)
        self._decoder = Decoder(model.language_model, eos_id=model.format.eos_id)
        self._active: dict[int, Request] = {}
        self._next_tag = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queue a request; raise ``BusyError`` if the queue is full or the server is closing."""
        if self._closed:
            raise BusyError("the server is closing")
        request.expires = time.monotonic() + LIMIT_SECONDS
        try:
            self._waiting.put_nowait(request)
        except queue.Full:
            message = f"{MAX_WAITING} requests are waiting already; try again in a few seconds"
            raise BusyError(message) from None

    def close(self) -> None:
        """Answer queued requests, accept no new ones, and end the thread."""
        self._closed = True
        self._waiting.put(None)
        self._thread.join()

    @property
    def load(self) -> dict[str, int]:
        """Return the numbers of active and waiting requests."""
        return {"active": len(self._active), "waiting": self._waiting.qsize()}

    def _run(self) -> None:
        running = True
        while running or self._active:
            new, running = self._take_waiting(running)
            if not running and not new and not self._active:
                return
            if new:
                self._admit([request for request in new if not request.cancelled])
            try:
                self._decoder.step()
            except Exception as error:  # one failed step must not end the thread for later requests
                log.logger.exception("a decoding step failed")
                self._fail_active(error)
            self._deliver()

    def _take_waiting(self, running: bool) -> tuple[list[Request], bool]:
        """Return the requests to admit and whether the queue is still open; wait if nothing is active."""
        new: list[Request] = []
        if len(self._active) > SLOTS - MIN_FREE_SLOTS:
            return new, running
        while len(self._active) + len(new) < SLOTS:
            try:
                request = self._waiting.get(block=not (self._active or new))
            except queue.Empty:
                break
            if request is None:
                return new, False
            new.append(request)
        return new, running

    def _fail_active(self, error: Exception) -> None:
        """Report an error to all active requests, and start with an empty decoder."""
        for request in self._active.values():
            request.put(error)
        self._active.clear()
        self._decoder = Decoder(self.model.language_model, eos_id=self.model.format.eos_id)

    def _admit(self, new: list[Request]) -> None:
        """Prefill new requests; an error is reported to all of them and must not end the thread."""
        admitted: dict[int, Request] = {}
        try:
            prompts: list[Prompt] = []
            for request, prompt in zip(new, self.model.prompts(new), strict=True):
                if isinstance(prompt, DataError):
                    request.put(prompt)
                    continue
                request.prompt_tokens = prompt.start + len(prompt.ids)
                prompts.append(prompt)
                admitted[self._next_tag] = request
                self._next_tag += 1
            if prompts:
                self._decoder.add(prompts, list(admitted))
                self._active.update(admitted)
        except Exception as error:
            log.logger.exception("a prompt could not be computed")
            for request in admitted.values() or new:
                request.put(error)
        self._deliver()

    def _deliver(self) -> None:
        """Send each caller the new part of its answer, and free the slots of finished ones."""
        for slot in self._decoder.slots:
            request = self._active.get(slot.tag)
            if request is None:
                slot.done = True  # also members of a group that failed after some were computed
            else:
                self._deliver_slot(slot, request)
        if not self._active:
            self._decoder.drop_done()

    def _deliver_slot(self, slot: Slot, request: Request) -> None:
        ended = slot.tokens[-1] == self.model.format.eos_id
        late = time.monotonic() > request.expires
        if not (slot.done or late or request.cancelled or request.streamed or request.stop):
            return  # nobody reads the text before its end
        text = self.model.decode(slot.tokens)
        cut = min((at for at in (text.find(stop) for stop in request.stop) if at >= 0), default=None)
        if cut is not None:
            text, slot.done, ended = text[:cut], True, True
        if slot.done or late or request.cancelled:
            slot.done = True
            del self._active[slot.tag]
            self._put(slot, request, text)
            reason = "stop" if ended else "length"
            finished = Finished(reason, request.prompt_tokens, len(slot.tokens))
            request.put(LateError(f"not done within {LIMIT_SECONDS:g} s") if late else finished)
        elif not text.endswith(INCOMPLETE_CHARACTER) and not _may_stop(text, request.stop):
            self._put(slot, request, text)

    @staticmethod
    def _put(slot: Slot, request: Request, text: str) -> None:
        new, logprobs = text[len(request.sent_text) :], slot.logprobs[request.sent_logprobs :]
        if new or logprobs:
            request.put(Piece(new, logprobs))
            request.sent_text = text
            request.sent_logprobs = len(slot.logprobs)


def _may_stop(text: str, stops: tuple[str, ...]) -> bool:
    """Check whether the text ends in a prefix of a stop string and must wait for the next token."""
    return any(text.endswith(stop[:length]) for stop in stops for length in range(1, len(stop)))

"""One thread that owns the model and answers many callers at once: requests join while others decode."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ziya_visual.core import log
from ziya_visual.core.errors import DataError, EndpointError
from ziya_visual.infer.decoder import Decoder, Likelihood, Prompt, Slot
from ziya_visual.infer.text_model import Asked, TextModel

SLOTS = 128
ROOM = 24  # free slots before requests join a nearly full decoder: prefilling a few is as dear as many
MAX_WAITING = 512
LIMIT_SECONDS = 600.0  # from the request to the end of its answer
HALF_CHARACTER = "\ufffd"


class BusyError(EndpointError):
    """More requests are waiting than the server takes; try again later."""


class LateError(EndpointError):
    """The answer was not done within the time that a request may take."""


@dataclass
class Request(Asked):
    """The answer to a dialogue as it grows, or whole where it is not ``streamed``.

    ``put`` gets :class:`Piece` after piece and at the end a :class:`Finished` or an exception; the
    scheduler's thread calls it.
    """

    put: Callable[[Piece | Finished | Exception], None] = field(kw_only=True)
    stop: tuple[str, ...] = ()
    streamed: bool = False
    cancelled: bool = False
    prompt_tokens: int = 0
    said: str = ""
    likelihoods_said: int = 0
    expires: float = float("inf")  # by time.monotonic


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of an answer, and of its tokens' likelihoods where they were asked for."""

    text: str
    likelihoods: Sequence[Likelihood] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """How an answer ended (``stop`` or ``length``) and what it cost in tokens."""

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
        self._next = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
            BusyError: the queue is full, or the server is closing.
        """
        if self._closed:
            raise BusyError("the server is closing")
        request.expires = time.monotonic() + LIMIT_SECONDS
        try:
            self._waiting.put_nowait(request)
        except queue.Full:
            raise BusyError(
                f"{MAX_WAITING} requests are waiting already; try again in a few seconds"
            ) from None

    def close(self) -> None:
        """Answer what is queued, take nothing more, and end the thread."""
        self._closed = True
        self._waiting.put(None)
        self._thread.join()

    @property
    def load(self) -> dict[str, int]:
        """How many requests are decoded and how many wait."""
        return {"active": len(self._active), "waiting": self._waiting.qsize()}

    def _run(self) -> None:
        open_ = True
        while open_ or self._active:
            fresh = []
            if not self._active:
                first = self._waiting.get()
                if first is None:
                    return
                fresh.append(first)
            crowded = SLOTS - ROOM < len(self._active) + len(fresh)
            while not crowded and len(self._active) + len(fresh) < SLOTS:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    open_ = False
                    break
                fresh.append(more)
            if fresh:
                self._admit([request for request in fresh if not request.cancelled])
            try:
                self._decoder.step()
            except Exception as error:  # the fault of one step must not end the thread for all to come
                log.logger.exception("a decoding step failed")
                self._give_up(error)
            self._hand_out()

    def _give_up(self, error: Exception) -> None:
        """Tell everyone who is being answered, and start with an empty decoder."""
        for request in self._active.values():
            request.put(error)
        self._active.clear()
        self._decoder = Decoder(self.model.language_model, eos_id=self.model.format.eos_id)

    def _admit(self, fresh: list[Request]) -> None:
        """Prefill new requests; a fault is told to all of them and must not end the thread for others."""
        asked: dict[int, Request] = {}
        try:
            prompts: list[Prompt] = []
            for request, prompt in zip(fresh, self.model.prompts(fresh), strict=True):
                if isinstance(prompt, DataError):
                    request.put(prompt)
                    continue
                behind = 0 if prompt.prefix is None else prompt.prefix.length
                request.prompt_tokens = behind + len(prompt.ids)
                prompts.append(prompt)
                asked[self._next] = request
                self._next += 1
            if prompts:
                self._decoder.add(prompts, list(asked))
                self._active.update(asked)
        except Exception as error:
            log.logger.exception("a prompt could not be computed")
            for request in asked.values() or fresh:
                request.put(error)
        self._hand_out()

    def _hand_out(self) -> None:
        """Give each caller what is new of its answer, and free the slots of those that ended."""
        for slot in self._decoder.slots:
            request = self._active.get(slot.tag)
            if request is None:
                slot.done = True  # also of a group that failed after its first prompts were computed
            else:
                self._tell(slot, request)
        if not self._active:
            self._decoder.drop_done()

    def _tell(self, slot: Slot, request: Request) -> None:
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
        elif not text.endswith(HALF_CHARACTER) and not _may_stop(text, request.stop):
            self._put(slot, request, text)

    @staticmethod
    def _put(slot: Slot, request: Request, text: str) -> None:
        new, likelihoods = text[len(request.said) :], slot.likelihoods[request.likelihoods_said :]
        if new or likelihoods:
            request.put(Piece(new, likelihoods))
            request.said = text
            request.likelihoods_said = len(slot.likelihoods)


def _may_stop(text: str, stops: tuple[str, ...]) -> bool:
    """Whether the text ends in the beginning of a stop string, so that its end must be held back."""
    return any(text.endswith(stop[:length]) for stop in stops for length in range(1, len(stop)))

"""One thread that owns the model and answers many callers at once: requests join while others decode."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ziya_visual.core.errors import DataError, EndpointError
from ziya_visual.data.chat_format import Said
from ziya_visual.infer.decode import Decoder, Prompt, Sampling, Slot
from ziya_visual.infer.text_model import TextModel

SLOTS = 128
ROOM = 24  # free slots before requests join a nearly full decoder: prefilling a few is as dear as many
MAX_WAITING = 512
HALF_CHARACTER = "\ufffd"
GREEDY = Sampling()


class BusyError(EndpointError):
    """More requests are waiting than the server takes; try again later."""


@dataclass
class Request:
    """A dialogue to be answered, and the answer as it grows, or whole where it is not ``streamed``.

    ``pieces`` gets texts and, at the end, the reason: a :class:`Finished` or an exception.
    """

    messages: Sequence[Said]
    pictures: Sequence[Image.Image]
    max_new_tokens: int
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    streamed: bool = False
    pieces: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    cancelled: bool = False
    prompt_tokens: int = 0
    said: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """How an answer ended (``stop`` or ``length``) and what it cost in tokens."""

    reason: str
    prompt_tokens: int
    completion_tokens: int


class Scheduler:
    """Continuous batching over one model."""

    def __init__(self, model: TextModel, *, max_context: int) -> None:
        """Start the thread; ``max_context`` bounds prompt and answer together, in tokens."""
        self.model = model
        self.max_context = max_context
        self._waiting: queue.Queue[Request | None] = queue.Queue(MAX_WAITING)
        # A prompt behind a prefix and one without cannot be prefilled together, but decode together.
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
        try:
            self._waiting.put_nowait(request)
        except queue.Full:
            raise BusyError(
                f"{MAX_WAITING} requests are waiting already; try again in a few seconds"
            ) from None

    def pieces(self, request: Request) -> Iterator[str | Finished]:
        """The texts of a submitted request as they come, then how it ended; its exception is raised."""
        while True:
            piece = request.pieces.get()
            if isinstance(piece, BaseException):
                raise piece
            yield piece
            if isinstance(piece, Finished):
                return

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
            self._admit([request for request in fresh if not request.cancelled])
            self._decoder.step()
            self._hand_out()

    def _admit(self, fresh: list[Request]) -> None:
        """Prefill new requests, those behind a picture's prefix and others apart."""
        groups: dict[bool, list[Request]] = {False: [], True: []}
        for request in fresh:
            try:
                groups[self.model.has_prefix(request.messages, len(request.pictures))].append(request)
            except DataError as error:
                request.pieces.put(error)
        for sharing, group in groups.items():
            if group:
                try:
                    self._prefill(group, sharing)
                except Exception as error:  # the fault of one group must not end the thread for all
                    for request in group:
                        request.pieces.put(error)
        self._hand_out()

    def _prefill(self, group: list[Request], sharing: bool) -> None:
        seen = [request.pictures[0] for request in group] if sharing else []
        prefixes = self.model.prefixes(seen, [request.messages for request in group])
        width = 0 if prefixes is None else prefixes.shape[1]
        prompts: list[Prompt] = []
        tags, taken = [], []
        for request in group:
            row = None if prefixes is None else len(prompts)
            prompt = self.model.prompt(
                request.messages, request.max_new_tokens, request.sampling, row, request.pictures
            )
            request.prompt_tokens = width + len(prompt.ids)
            prompts.append(prompt)
            tags.append(self._next)
            taken.append(request)
            self._next += 1
        self._decoder.add(prompts, tags, prefixes)
        self._active.update(zip(tags, taken, strict=True))

    def _hand_out(self) -> None:
        """Give each caller what is new of its answer, and free the slots of those that ended."""
        for slot in self._decoder.slots:
            request = self._active.get(slot.tag)
            if request is not None:
                self._tell(slot, request)
        if not self._active:
            for slot in self._decoder.slots:
                slot.done = True
            self._decoder.drop_done()

    def _tell(self, slot: Slot, request: Request) -> None:
        ended = slot.tokens[-1] == self.model.format.eos_id
        if not (slot.done or request.cancelled or request.streamed or request.stop):
            return  # nobody reads the text before its end
        text = self.model.decode(slot.tokens)
        cut = min((at for at in (text.find(stop) for stop in request.stop) if at >= 0), default=None)
        if cut is not None:
            text, slot.done, ended = text[:cut], True, True
        if slot.done or request.cancelled:
            slot.done = True
            del self._active[slot.tag]
            self._put(request, text)
            reason = "stop" if ended else "length"
            request.pieces.put(Finished(reason, request.prompt_tokens, len(slot.tokens)))
        elif not text.endswith(HALF_CHARACTER) and not _may_stop(text, request.stop):
            self._put(request, text)

    @staticmethod
    def _put(request: Request, text: str) -> None:
        new = text[len(request.said) :]
        if new:
            request.pieces.put(new)
            request.said = text


def _may_stop(text: str, stops: tuple[str, ...]) -> bool:
    """Whether the text ends in the beginning of a stop string, so that its end must be held back."""
    return any(text.endswith(stop[:length]) for stop in stops for length in range(1, len(stop)))

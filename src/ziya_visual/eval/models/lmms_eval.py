"""Our checkpoints in lmms-eval 0.7: ``--model ziya_visual --model_args pretrained=CKPT --tasks ...``.

Only lmms-eval imports this module, through the entry point ``lmms_eval.models``. It is a chat model in their
terms: a task provides messages. Questions about the same image share its prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image

from ziya_visual.core.errors import DataError
from ziya_visual.core.pictures import to_rgb
from ziya_visual.core.records import Example, Message
from ziya_visual.data.chat.chat_format import Turn
from ziya_visual.eval.models.answer_cache import image_hash
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.model.checkpoint import local_folder

MAX_NEW_TOKENS = 256  # for tasks that set none
_BATCH = 256


class _Request(NamedTuple):
    """A request of a task: the turns with the positions of their images, and how the answer ends."""

    turns: tuple[Turn, ...]
    images: tuple[Image.Image, ...]
    max_new_tokens: int
    until: tuple[str, ...]


class ZiyaVisualLmms(lmms):  # type: ignore[misc]
    """One of our checkpoints as an lmms-eval model; it decodes greedily, as their tasks do by default."""

    is_simple = False

    def __init__(self, pretrained: str, batch_size: int | str = 1, device: str | None = None) -> None:
        """Open the checkpoint, a folder or hub id.

        ``batch_size`` and ``device`` are accepted for lmms-eval and ignored: questions are batched by image,
        and the engine chooses its device.
        """
        super().__init__()
        self._engine = ZiyaVisual.from_pretrained(local_folder(pretrained))

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return the greedy answer to each request, cut before the first of its ``until`` strings."""
        answers: list[str] = []
        for start in range(0, len(requests), _BATCH):
            batch = [self._read(*request.args) for request in requests[start : start + _BATCH]]
            for text, request in zip(self._answer(batch), batch, strict=True):
                ends = [at for end in request.until if end and (at := text.find(end)) >= 0]
                answers.append(text[: min(ends, default=len(text))])
        return answers

    def _answer(self, requests: Sequence[_Request]) -> list[str]:
        """Answer requests that begin with their one image by its shared prefix, and others one by one."""
        answers: dict[int, str] = {}
        chat = self._engine.format
        sharing = [n for n, r in enumerate(requests) if chat.has_prefix(r.turns, len(r.images))]
        for limit in dict.fromkeys(requests[n].max_new_tokens for n in sharing):
            numbers = [n for n in sharing if requests[n].max_new_tokens == limit]
            examples, images = _examples([requests[n] for n in numbers])
            texts = self._engine.answer(examples, max_new_tokens=limit, images=images)
            answers.update(zip(numbers, texts, strict=True))
        for number, request in enumerate(requests):
            if number not in answers:
                answers[number] = self._engine.chat_about(
                    list(request.images), request.turns, max_new_tokens=request.max_new_tokens
                )
        return [answers[number] for number in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Raise: none of the paper's tasks is scored by likelihood."""
        raise NotImplementedError("ziya_visual generates text; choose a task of output type generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Raise: rounds are not supported."""
        raise NotImplementedError("ziya_visual answers single rounds; choose a task of type generate_until")

    def _read(
        self, _: str, to_messages: Any, options: Mapping[str, Any], doc_id: int, task: str, split: str
    ) -> _Request:
        if options.get("do_sample") or (options.get("num_beams") or 1) > 1:
            raise DataError(f"{task}: asks for {dict(options)}; ziya_visual decodes greedily")
        turns, images = [], []
        for message in to_messages(self.task_dict[task][split][doc_id]):
            text, positions = "", []
            for part in message["content"]:
                if part["type"] == "text":
                    text += f"\n{part['text']}" if text else part["text"]
                elif part["type"] == "image":
                    positions.append(len(text))
                    images.append(to_rgb(part["url"]))
                else:
                    raise DataError(f"{task}: contains {part['type']}; ziya_visual takes images only")
            turns.append(Turn(message["role"], text, tuple(positions)))
        until = options.get("until") or ()
        ends = (until,) if isinstance(until, str) else tuple(until)
        return _Request(tuple(turns), tuple(images), options.get("max_new_tokens") or MAX_NEW_TOKENS, ends)


def manifest() -> Any:
    """Return the manifest that the entry point gives to lmms-eval."""
    return ModelManifest(model_id="ziya_visual", chat_class_path=f"{__name__}.{ZiyaVisualLmms.__name__}")


def _examples(requests: Sequence[_Request]) -> tuple[list[Example], dict[str, Image.Image]]:
    """Return requests about one image each as records, and the images by their hash."""
    examples, images = [], {}
    for number, request in enumerate(requests):
        (image,) = request.images
        name = image_hash(image)
        images[name] = image
        turns = tuple(Message(turn.role, turn.content) for turn in request.turns)  # type: ignore[arg-type]
        examples.append(Example(str(number), "", "vqa", turns, image_id=name))
    return examples, images

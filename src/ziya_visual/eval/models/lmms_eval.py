"""Our checkpoints in lmms-eval 0.7: ``--model ziya_visual --model_args pretrained=CKPT --tasks ...``.

Imported by lmms-eval alone, which finds it through the entry point ``lmms_eval.models``. It is a chat model
of theirs: a task gives messages. The questions of a picture are answered together, behind its one prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import hash_bytes
from ziya_visual.core.pictures import to_rgb
from ziya_visual.core.records import Example, Message
from ziya_visual.data.chat.chat_format import Turn
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.model.checkpoint import local_folder

MAX_NEW_TOKENS = 256  # where a task names none
_AT_ONCE = 256


@dataclass(frozen=True)
class _Request:
    """What a task asks: the turns with the places of their pictures, and how the answer ends."""

    turns: tuple[Turn, ...]
    pictures: tuple[Image.Image, ...]
    max_new_tokens: int
    until: tuple[str, ...]


class ZiyaVisualLmms(lmms):  # type: ignore[misc]
    """A checkpoint of ours as lmms-eval asks it; greedy, as its tasks are by default."""

    is_simple = False

    def __init__(self, pretrained: str, batch_size: int | str = 1, device: str | None = None) -> None:
        """Open the checkpoint.

        Args:
            pretrained: folder or hub id.
            batch_size: theirs; questions are batched by picture here.
            device: theirs; the engine says where it runs.

        Raises:
            CheckpointError: it cannot be opened.
        """
        super().__init__()
        self._engine = ZiyaVisual.from_pretrained(local_folder(pretrained))

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The greedy answer to each request, cut before the first of its ``until``.

        Raises:
            DataError: a task wants sampling, or shows a video or sound.
        """
        said: list[str] = []
        for start in range(0, len(requests), _AT_ONCE):
            asked = [self._read(*request.args) for request in requests[start : start + _AT_ONCE]]
            said += [_cut(text, one.until) for text, one in zip(self._answer(asked), asked, strict=True)]
        return said

    def _answer(self, asked: Sequence[_Request]) -> list[str]:
        """Those that begin with their one picture by its prefix, the others each by itself."""
        said: dict[int, str] = {}
        sharing = [n for n, one in enumerate(asked) if self._engine.has_prefix(one.turns, len(one.pictures))]
        for limit in dict.fromkeys(asked[place].max_new_tokens for place in sharing):
            places = [place for place in sharing if asked[place].max_new_tokens == limit]
            examples, images = _examples([asked[place] for place in places])
            answers = self._engine.answer(examples, max_new_tokens=limit, images=images)
            said.update(zip(places, answers, strict=True))
        for place, one in enumerate(asked):
            if place not in said:
                pictures = list(one.pictures)
                said[place] = self._engine.chat_about(pictures, one.turns, max_new_tokens=one.max_new_tokens)
        return [said[place] for place in range(len(asked))]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not given: none of the paper's tasks is scored so."""
        raise NotImplementedError("ziya_visual answers in text; take a task of output type generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not given."""
        raise NotImplementedError("ziya_visual answers single rounds; take a task of type generate_until")

    def _read(
        self, _: str, to_messages: Any, options: Mapping[str, Any], doc_id: int, task: str, split: str
    ) -> _Request:
        if options.get("do_sample") or (options.get("num_beams") or 1) > 1:
            raise DataError(f"{task}: wants {dict(options)}; ziya_visual answers greedily")
        turns, pictures = [], []
        for message in to_messages(self.task_dict[task][split][doc_id]):
            text, places = "", []
            for part in message["content"]:
                if part["type"] == "text":
                    text += f"\n{part['text']}" if text else part["text"]
                elif part["type"] == "image":
                    places.append(len(text))
                    pictures.append(to_rgb(part["url"]))
                else:
                    raise DataError(f"{task}: shows a {part['type']}; ziya_visual sees pictures")
            turns.append(Turn(message["role"], text, tuple(places)))
        until = options.get("until") or ()
        ends = (until,) if isinstance(until, str) else tuple(until)
        return _Request(tuple(turns), tuple(pictures), options.get("max_new_tokens") or MAX_NEW_TOKENS, ends)


def manifest() -> Any:
    """What the entry point tells lmms-eval."""
    return ModelManifest(model_id="ziya_visual", chat_class_path=f"{__name__}.{ZiyaVisualLmms.__name__}")


def _examples(requests: Sequence[_Request]) -> tuple[list[Example], dict[str, Image.Image]]:
    """Requests about one picture each as records, and the pictures by their hash."""
    examples, images = [], {}
    for number, one in enumerate(requests):
        (picture,) = one.pictures
        name = hash_bytes(f"{picture.size}".encode() + picture.tobytes())
        images[name] = picture
        turns = tuple(Message(turn.role, turn.content) for turn in one.turns)  # type: ignore[arg-type]
        examples.append(Example(str(number), "", "vqa", turns, image_id=name))
    return examples, images


def _cut(text: str, until: Sequence[str]) -> str:
    return text[: min((at for end in until if end and (at := text.find(end)) >= 0), default=len(text))]

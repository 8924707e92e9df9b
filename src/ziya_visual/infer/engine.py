"""Checkpoints that answer: load once, encode each picture once, decode in batches.

``ZiyaVisual`` opens a vision-language checkpoint of ours, ``TextModel`` a plain causal language model; both
give the server and the evaluation the same few methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ziya_visual.core.errors import CheckpointError, DataError
from ziya_visual.core.pictures import Pictures, open_picture, open_pictures
from ziya_visual.core.records import Example, Message
from ziya_visual.data.chat.chat_format import TurnLike
from ziya_visual.infer.decoder import GREEDY, Decoder, generate
from ziya_visual.infer.picture_model import AT_ONCE, PictureModel
from ziya_visual.infer.quantized import Dtype, quantize, read_as
from ziya_visual.infer.text_model import Asked
from ziya_visual.model.alignment import Alignment
from ziya_visual.model.build.layouts import ALIGNMENT
from ziya_visual.model.checkpoint import load_checkpoint
from ziya_visual.model.network import VisualModel
from ziya_visual.model.packed.attention import INFERENCE
from ziya_visual.model.processor import ZiyaProcessor

Floats = NDArray[np.float32]


class ZiyaVisual(PictureModel):
    """A vision-language checkpoint of ours.

    >>> model = ZiyaVisual.from_pretrained("runs/quickstart/checkpoint")  # doctest: +SKIP
    >>> model.chat("scene.png", "What color is the ring?")  # doctest: +SKIP
    'The ring is red.'
    """

    def __init__(self, model: VisualModel, alignment: Alignment | None, processor: ZiyaProcessor) -> None:
        """Join the parts; without an ``alignment`` it answers, and cannot embed."""
        super().__init__(model, processor)
        self._alignment = None if alignment is None else alignment.eval()

    @staticmethod
    def from_pretrained(folder: Path | str, *, dtype: Dtype = "auto") -> ZiyaVisual:
        """Open a checkpoint folder.

        Args:
            folder: see :func:`~ziya_visual.model.checkpoint.load_checkpoint`.
            dtype: of the weights in memory: as they were saved, or one by name. ``int8`` keeps the language
                model's linear layers in eight bits and computes in bfloat16.

        Raises:
            CheckpointError: in one line.
        """
        model = ZiyaVisual(*load_checkpoint(Path(folder), attention=INFERENCE, dtype=read_as(dtype)))
        if dtype == "int8":
            quantize(model.language_model)
        return model

    def chat_about(self, images: Pictures, messages: Sequence[TurnLike], *, max_new_tokens: int = 128) -> str:
        """The greedy answer to a dialogue about pictures, or about none.

        Args:
            images: a picture, a path, a list of them, or None; in the order in which the turns show them.
            messages: records' messages, or turns that say where each picture stands
                (:class:`~ziya_visual.data.chat.chat_format.Turn`);
                pictures that none shows are of the first turn.
            max_new_tokens: of the answer.

        Raises:
            DataError: a picture cannot be read, or see :meth:`ChatFormat.encode`.
        """
        streamed = self._stream(open_pictures(images), messages, max_new_tokens)
        return self.decode([token for tokens in streamed for token in tokens])

    def chat(self, image: Pictures, question: str, *, max_new_tokens: int = 128) -> str:
        """The answer to one question; ``image`` is a picture, a path, a list of them, or None.

        Raises:
            DataError: a picture cannot be read, or the question is empty.
        """
        if not question.strip():
            raise DataError("the question is empty")
        return self.chat_about(image, [Message("user", question)], max_new_tokens=max_new_tokens)

    def stream(
        self, images: Pictures, messages: Sequence[TurnLike], *, max_new_tokens: int = 128
    ) -> Iterator[str]:
        """The answer in pieces, each whole characters; see :meth:`chat_about`."""
        said, tokens = "", []
        for some in self._stream(open_pictures(images), messages, max_new_tokens):
            tokens += some
            text = self.decode(tokens)
            if not text.endswith("\ufffd"):
                yield text[len(said) :]
                said = text

    def answer(
        self,
        examples: Sequence[Example],
        *,
        max_new_tokens: int,
        images: Mapping[str, Image.Image] | None = None,
    ) -> list[str]:
        """Greedy answers to what stands before each record's last assistant turn; a picture is encoded once.

        Args:
            examples: all with a picture.
            max_new_tokens: for each.
            images: pictures by ``image_id``; without it each record's own is opened.
        """
        keys = [(str(example.image_id), self._instruction(example.prompt_turns)) for example in examples]
        one = dict(zip(keys, examples, strict=True))  # record of each picture and instruction
        pictures = [open_picture(one[key]) if images is None else images[key[0]] for key in one]
        found_prefixes = self.prefixes(pictures, [example.prompt_turns for example in one.values()])
        prefixes = dict(zip(one, found_prefixes, strict=True))
        prompts = [
            self._branch(example.prompt_turns, max_new_tokens, GREEDY, prefixes[key])
            for key, example in zip(keys, examples, strict=True)
        ]
        found = generate(self.language_model, prompts, eos_id=self.format.eos_id, rows=AT_ONCE)
        return [self.decode(tokens) for tokens in found]

    def embed(self, contents: Sequence[str | Path | Image.Image]) -> list[Floats]:
        """Unit vectors that can be compared: float32[Dp] of each text, float32[Q, Dp] of each picture.

        Texts are strings, pictures are open or paths. How well a text fits a picture is the largest of the
        picture's dot products with it.

        Raises:
            CheckpointError: the checkpoint has no retrieval side.
            DataError: a picture cannot be read.
        """
        texts = [one for one in contents if isinstance(one, str)]
        pictures = open_pictures([one for one in contents if not isinstance(one, str)])
        of_texts = iter(self.embed_texts(texts) if texts else ())
        of_pictures = iter(self.embed_images(pictures) if pictures else ())
        return [next(of_texts if isinstance(one, str) else of_pictures) for one in contents]

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image.Image]) -> Floats:
        """Unit vectors float32[N, Q, Dp]; a text fits as well as its best query."""
        parts = [
            self.alignment.image_features(self._queries(images[start : start + AT_ONCE]))
            for start in range(0, len(images), AT_ONCE)
        ]
        return torch.cat(parts).float().numpy()

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Unit vectors float32[M, Dp]."""
        ids, mask = self._qformer_ids(texts, self.alignment.qformer_tokenizer)
        return self.alignment.text_features(self.model, ids, mask).float().numpy()

    def match(
        self, images: Mapping[str, Image.Image], asked: Sequence[tuple[str, Sequence[str]]]
    ) -> list[Floats]:
        """The matching head's logits of "this text fits", float32[M] for each picture's own M texts."""
        return [self._match(images[name], texts) for name, texts in asked]

    @torch.inference_mode()
    def _match(self, image: Image.Image, texts: Sequence[str]) -> Floats:
        """Of one picture, which the ViT sees once."""
        embeds = self.model.encode_images(self.processor.pixels([image]))
        found = [torch.empty(0)]
        for start in range(0, len(texts), AT_ONCE):
            some = texts[start : start + AT_ONCE]
            ids, mask = self._qformer_ids(some, self.alignment.qformer_tokenizer)
            seen = embeds.expand(len(some), -1, -1)
            found.append(self.alignment.matching_logits(self.model, seen, ids, mask)[:, 1])
        return torch.cat(found).float().numpy()

    @property
    def retrieves(self) -> bool:
        """Whether it can embed and match: whether the checkpoint has an alignment."""
        return self._alignment is not None

    @property
    def alignment(self) -> Alignment:
        """What embeds; ``CheckpointError`` where the checkpoint has none."""
        if self._alignment is None:
            raise CheckpointError(
                f"this checkpoint has no {ALIGNMENT}, which retrieval needs; compose one that has with `init`"
            )
        return self._alignment

    def _stream(
        self, pictures: Sequence[Image.Image], messages: Sequence[TurnLike], max_new_tokens: int
    ) -> Iterator[list[int]]:
        (prompt,) = self.prompts([Asked(messages, pictures, max_new_tokens)])
        if isinstance(prompt, DataError):
            raise prompt
        decoder = Decoder(self.language_model, eos_id=self.format.eos_id)
        decoder.add([prompt], [0])
        (slot,) = decoder.slots
        while True:
            if slot.tokens[-1] != self.format.eos_id:
                yield slot.tokens[-1:]
            if slot.done:
                return
            decoder.step()

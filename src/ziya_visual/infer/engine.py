"""Checkpoints that answer: load once, encode each picture once, decode in batches.

``ZiyaVisual`` opens a vision-language checkpoint of ours, ``TextModel`` a plain causal language model; both
give the server and the evaluation the same few methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ziya_visual.core.errors import CheckpointError, DataError
from ziya_visual.core.records import Example, Message
from ziya_visual.data.chat_format import Said
from ziya_visual.data.images import Pictures, open_picture, open_pictures
from ziya_visual.data.text_batch import text_batch
from ziya_visual.infer.decode import Decoder, Prompt, Sampling, compute_prefixes, generate
from ziya_visual.infer.int8 import Dtype, quantize, read_as
from ziya_visual.infer.prefixes import ByteCache, Prefix, Shown, kept, named
from ziya_visual.infer.text_model import TextModel
from ziya_visual.model.alignment import Alignment
from ziya_visual.model.attention import INFERENCE
from ziya_visual.model.checkpoint import load_checkpoint
from ziya_visual.model.interop import ALIGNMENT
from ziya_visual.model.model import VisualModel, ZiyaInstructModel
from ziya_visual.model.processor import ZiyaProcessor

Floats = NDArray[np.float32]
KEPT_BYTES = 1_000_000_000  # of pictures' tokens, and as much of their keys and values
AT_ONCE = 128


class ZiyaVisual(TextModel):
    """A vision-language checkpoint of ours.

    >>> model = ZiyaVisual.from_pretrained("runs/quickstart/checkpoint")  # doctest: +SKIP
    >>> model.chat("scene.png", "What color is the ring?")  # doctest: +SKIP
    'The ring is red.'
    """

    def __init__(self, model: VisualModel, alignment: Alignment | None, processor: ZiyaProcessor) -> None:
        """Join the parts; without an ``alignment`` it answers, and cannot embed."""
        super().__init__(model.language_model, processor.chat)
        self.model = model.eval()
        self._alignment = None if alignment is None else alignment.eval()
        self.processor = processor
        self.encoded = 0  # pictures so far
        self.tokens: ByteCache[Tensor] = ByteCache(KEPT_BYTES)
        self.kept: ByteCache[Prefix] = ByteCache(KEPT_BYTES)

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

    def chat_about(self, images: Pictures, messages: Sequence[Said], *, max_new_tokens: int = 128) -> str:
        """The greedy answer to a dialogue about pictures, or about none.

        Args:
            images: a picture, a path, a list of them, or None; in the order in which the turns show them.
            messages: records' messages, or turns that say where each picture stands
                (:class:`~ziya_visual.data.chat_format.Turn`); pictures that none shows are of the first turn.
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
        self, images: Pictures, messages: Sequence[Said], *, max_new_tokens: int = 128
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
        keys = [(str(example.image_id), self._instruction(example.asked)) for example in examples]
        one = dict(zip(keys, examples, strict=True))  # record of each picture and instruction
        pictures = [open_picture(one[key]) if images is None else images[key[0]] for key in one]
        found_prefixes = self.prefixes(pictures, [example.asked for example in one.values()])
        prefixes = dict(zip(one, found_prefixes, strict=True))
        prompts = [
            self.prompt(example.asked, max_new_tokens, Sampling(), prefix=prefixes[key])
            for key, example in zip(keys, examples, strict=True)
        ]
        found = generate(self.language_model, prompts, eos_id=self.format.eos_id, rows=AT_ONCE)
        return [self.decode(tokens) for tokens in found]

    def has_prefix(self, messages: Sequence[Said], num_pictures: int) -> bool:
        """See :meth:`ChatFormat.has_prefix`."""
        return self.format.has_prefix(messages, num_pictures)

    def prompt(
        self,
        messages: Sequence[Said],
        max_new_tokens: int,
        sampling: Sampling,
        prefix: Prefix | None = None,
        pictures: Sequence[Image.Image] = (),
    ) -> Prompt:
        """A dialogue as token ids: the branch alone behind a ``prefix``, else all, its pictures within."""
        queries = self.processor.num_query_tokens
        if prefix is not None:
            branch = self.format.branch(messages, num_image_tokens=queries, add_generation_prompt=True)
            return Prompt(branch.ids, max_new_tokens, prefix, sampling)
        whole = self.format.encode(
            messages,
            num_image_tokens=queries if pictures else 0,
            num_images=len(pictures),
            add_generation_prompt=True,
        )
        starts = [start for start, _ in whole.image_spans]
        shown = named(pictures, [self._instruction(messages)] * len(pictures))
        tokens = tuple(zip(starts, self._tokens(shown), strict=True))
        return Prompt(whole.ids, max_new_tokens, sampling=sampling, pictures=tokens)

    @torch.inference_mode()
    def prefixes(self, pictures: Sequence[Image.Image], dialogues: Sequence[Sequence[Said]]) -> list[Prefix]:
        """What dialogues about each picture begin with; what was asked about before is kept.

        An instruction-aware Q-Former reads the last question of the picture's dialogue, and each question
        gives another prefix.
        """
        shown = named(pictures, [self._instruction(messages) for messages in dialogues])
        ids = torch.tensor(self.format.prefix_ids(self.processor.num_query_tokens))

        def make(some: Sequence[Shown]) -> list[Prefix]:
            embeds = self.language_model.get_input_embeddings()(ids).repeat(len(some), 1, 1)
            embeds[:, ids == self.format.image_id] = torch.stack(self._tokens(some)).to(embeds.dtype)
            return compute_prefixes(self.language_model, embeds)

        return kept(self.kept, shown, make, at_once=AT_ONCE)

    @torch.inference_mode()
    def _tokens(self, shown: Sequence[Shown]) -> list[Tensor]:
        """Each picture's tokens, float[Q, D]; one seen before is not encoded again for the same question."""

        def make(some: Sequence[Shown]) -> list[Tensor]:
            self.encoded += len(some)
            _, pictures, asked = zip(*some, strict=True)
            encoded = self.model.image_prefix(self._queries(pictures, asked))
            return [tokens.clone() for tokens in encoded]  # not views that would keep all of them

        return kept(self.tokens, shown, make, at_once=AT_ONCE)

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

    def _instruction(self, messages: Sequence[Said]) -> str:
        """What the Q-Former reads with the picture: the last question, or nothing, as in BLIP-2."""
        if not isinstance(self.model, ZiyaInstructModel):
            return ""
        return next((turn.content for turn in reversed(messages) if turn.role == "user"), "")

    def look(self, picture: Image.Image, messages: Sequence[Said]) -> Tensor:
        """What the Q-Former reads out of a picture, float[1, Q, Dq], computed anew."""
        return self._queries([picture], [self._instruction(messages)])

    def _queries(self, pictures: Sequence[Image.Image], instructions: Sequence[str] = ()) -> Tensor:
        embeds = self.model.encode_images(self.processor.pixels(pictures))
        if isinstance(self.model, ZiyaInstructModel):
            read = self._qformer_ids(instructions, self.model.qformer_tokenizer)
            return self.model.query_images(embeds, read)
        return self.model.query_images(embeds)

    def _qformer_ids(self, texts: Sequence[str], own: Any | None) -> tuple[Tensor, Tensor]:
        limit = self.model.config.qformer_config.max_position_embeddings
        ids, mask = text_batch(texts, limit=limit, chat=self.format, own=own)
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def _stream(
        self, pictures: Sequence[Image.Image], messages: Sequence[Said], max_new_tokens: int
    ) -> Iterator[list[int]]:
        sharing = self.has_prefix(messages, len(pictures))
        prefix = self.prefixes(pictures, [messages])[0] if sharing else None
        prompt = self.prompt(messages, max_new_tokens, Sampling(), prefix, pictures)
        decoder = Decoder(self.language_model, eos_id=self.format.eos_id)
        decoder.add([prompt], [0])
        (slot,) = decoder.slots
        while True:
            if slot.tokens[-1] != self.format.eos_id:
                yield slot.tokens[-1:]
            if slot.done:
                return
            decoder.step()

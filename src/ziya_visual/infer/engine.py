"""Checkpoints that answer: load once, encode each image once, decode in batches.

``ZiyaVisual`` opens a vision-language checkpoint of ours, :func:`open_model` also a plain causal language
model. Image tokens, and the keys and values that dialogues about an image start with, are cached by content.

Legend: N images, M texts, Q queries, Dq Q-Former width, D language-model width, Dp projection width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ziya_visual.core.errors import CheckpointError, DataError
from ziya_visual.core.files import read_json
from ziya_visual.core.pictures import Pictures, open_picture, open_pictures
from ziya_visual.core.records import Example, Message
from ziya_visual.data.chat.chat_format import Encoded, TurnLike
from ziya_visual.data.packing import text_batch
from ziya_visual.infer.decoder import GREEDY, Decoder, Prompt, Sampling, compute_prefixes, generate
from ziya_visual.infer.prefix_cache import ByteCache, KeyedImage, Prefix, get_or_compute, key_images
from ziya_visual.infer.quantized import Dtype, load_dtype, quantize
from ziya_visual.infer.text_model import Dialogue, TextModel
from ziya_visual.model.checkpoint import ALIGNMENT, CONFIGS, load_checkpoint
from ziya_visual.model.lora import ADAPTER_FILE
from ziya_visual.model.network import Alignment, VisualModel, ZiyaInstructModel
from ziya_visual.model.packed.attention import INFERENCE
from ziya_visual.model.processor import ZiyaProcessor

Floats = NDArray[np.float32]

CACHE_BYTES = 1_000_000_000  # for image tokens, and as much for prefixes
BATCH_SIZE = 128  # images, texts or prompts processed together


class ZiyaVisual(TextModel):
    """A vision-language checkpoint of ours.

    >>> model = ZiyaVisual.from_pretrained("runs/quickstart/checkpoint")  # doctest: +SKIP
    >>> model.chat("scene.png", "What color is the ring?")  # doctest: +SKIP
    'The ring is red.'
    """

    def __init__(self, model: VisualModel, alignment: Alignment | None, processor: ZiyaProcessor) -> None:
        """Join the parts; without an ``alignment``, the model answers but cannot embed."""
        super().__init__(model.language_model, processor.chat)
        self.model = model.eval()
        self.processor = processor
        self._alignment = None if alignment is None else alignment.eval()
        self.images_encoded = 0  # since loading
        self.token_cache: ByteCache[Tensor] = ByteCache(CACHE_BYTES)
        self.prefix_cache: ByteCache[Prefix] = ByteCache(CACHE_BYTES)

    @staticmethod
    def from_pretrained(folder: Path | str, *, dtype: Dtype = "auto") -> ZiyaVisual:
        """Open a checkpoint folder.

        Args:
            folder: see :func:`~ziya_visual.model.checkpoint.load_checkpoint`.
            dtype: dtype of the weights in memory; ``auto`` keeps the saved one. ``int8`` stores the language
                model's linear layers in eight bits and computes in bfloat16.

        Raises:
            CheckpointError: the folder cannot be opened.
        """
        model = ZiyaVisual(*load_checkpoint(Path(folder), attention=INFERENCE, dtype=load_dtype(dtype)))
        if dtype == "int8":
            quantize(model.language_model)
        return model

    def chat(self, image: Pictures, question: str, *, max_new_tokens: int = 128) -> str:
        """Answer one question, which must not be empty, about an image, a path, a list of them, or None."""
        if not question.strip():
            raise DataError("the question is empty")
        return self.chat_about(image, [Message("user", question)], max_new_tokens=max_new_tokens)

    def chat_about(self, images: Pictures, messages: Sequence[TurnLike], *, max_new_tokens: int = 128) -> str:
        """Answer a dialogue greedily.

        Args:
            images: an image, a path, a list of them, or None, in the order in which the turns show them.
            messages: messages of a record, or turns that say where each image is
                (:class:`~ziya_visual.data.chat.chat_format.Turn`); images that no turn shows belong to the
                first.
            max_new_tokens: length limit of the answer.

        Raises:
            DataError: an image cannot be read, or the dialogue cannot be encoded (:meth:`ChatFormat.encode`).
        """
        return self.decode(list(self._stream(open_pictures(images), messages, max_new_tokens)))

    def stream(
        self, images: Pictures, messages: Sequence[TurnLike], *, max_new_tokens: int = 128
    ) -> Iterator[str]:
        """Yield the answer in pieces of whole characters; see :meth:`chat_about`."""
        sent, tokens = "", []
        for token in self._stream(open_pictures(images), messages, max_new_tokens):
            tokens.append(token)
            text = self.decode(tokens)
            if not text.endswith("\ufffd"):
                yield text[len(sent) :]
                sent = text

    def _stream(
        self, images: Sequence[Image.Image], messages: Sequence[TurnLike], max_new_tokens: int
    ) -> Iterator[int]:
        """Yield the tokens of a greedy answer, without the end token."""
        (prompt,) = self.prompts([Dialogue(messages, images, max_new_tokens)])
        if isinstance(prompt, DataError):
            raise prompt
        decoder = Decoder(self.language_model, eos_id=self.format.eos_id)
        decoder.add([prompt], [0])
        (slot,) = decoder.slots
        while True:
            if slot.tokens[-1] != self.format.eos_id:
                yield slot.tokens[-1]
            if slot.done:
                return
            decoder.step()

    def answer(
        self,
        examples: Sequence[Example],
        *,
        max_new_tokens: int,
        images: Mapping[str, Image.Image] | None = None,
    ) -> list[str]:
        """Answer each record's dialogue before its last assistant turn, greedily; encode each image once.

        ``images`` are given by ``image_id``; by default, each record's own image is opened.
        """
        keys = [(str(example.image_id), self._instruction(example.prompt_turns)) for example in examples]
        by_key = dict(zip(keys, examples, strict=True))  # one record per image and instruction
        opened = [open_picture(by_key[key]) if images is None else images[key[0]] for key in by_key]
        prefixes = self.prefixes(opened, [example.prompt_turns for example in by_key.values()])
        prefix_of = dict(zip(by_key, prefixes, strict=True))
        prompts = [
            self._branch(example.prompt_turns, max_new_tokens, GREEDY, prefix_of[key])
            for key, example in zip(keys, examples, strict=True)
        ]
        completions = generate(self.language_model, prompts, eos_id=self.format.eos_id, rows=BATCH_SIZE)
        return [self.decode(tokens) for tokens in completions]

    def embed(self, contents: Sequence[str | Path | Image.Image]) -> list[Floats]:
        """Embed texts as unit vectors float32[Dp], and images as unit vectors float32[Q, Dp].

        Strings are texts; images are open or given as paths. The similarity of an image and a text is the
        largest of the image's dot products with the text.

        Raises:
            CheckpointError: the checkpoint has no retrieval side.
            DataError: an image cannot be read.
        """
        texts = [content for content in contents if isinstance(content, str)]
        images = open_pictures([content for content in contents if not isinstance(content, str)])
        text_vectors = iter(self.embed_texts(texts) if texts else ())
        image_vectors = iter(self.embed_images(images) if images else ())
        return [next(text_vectors if isinstance(content, str) else image_vectors) for content in contents]

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image.Image]) -> Floats:
        """Embed images as unit vectors float32[N, Q, Dp]; a text's similarity is that of the best query."""
        parts = [
            self.alignment.image_features(self._query_outputs(images[start : start + BATCH_SIZE]))
            for start in range(0, len(images), BATCH_SIZE)
        ]
        return torch.cat(parts).float().numpy()

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts as unit vectors float32[M, Dp]."""
        ids, mask = self._qformer_ids(texts, self.alignment.qformer_tokenizer)
        return self.alignment.text_features(self.model, ids, mask).float().numpy()

    def match(
        self, images: Mapping[str, Image.Image], candidates: Sequence[tuple[str, Sequence[str]]]
    ) -> list[Floats]:
        """Return the matching head's logits, float32[M], for each image id and its M candidate texts."""
        return [self._match(images[name], texts) for name, texts in candidates]

    @torch.inference_mode()
    def _match(self, image: Image.Image, texts: Sequence[str]) -> Floats:
        embeds = self.model.encode_images(self.processor.pixels([image]))
        logits = [torch.empty(0)]
        for start in range(0, len(texts), BATCH_SIZE):
            batch = texts[start : start + BATCH_SIZE]
            ids, mask = self._qformer_ids(batch, self.alignment.qformer_tokenizer)
            repeated = embeds.expand(len(batch), -1, -1)
            logits.append(self.alignment.matching_logits(self.model, repeated, ids, mask)[:, 1])
        return torch.cat(logits).float().numpy()

    @property
    def retrieves(self) -> bool:
        """Return whether the checkpoint has an alignment, and can embed and match."""
        return self._alignment is not None

    @property
    def alignment(self) -> Alignment:
        """Return the alignment; raise ``CheckpointError`` if the checkpoint has none."""
        if self._alignment is None:
            raise CheckpointError(
                f"this checkpoint has no {ALIGNMENT}, which retrieval needs; compose one that has with `init`"
            )
        return self._alignment

    def encode(self, messages: Sequence[TurnLike], num_images: int) -> Encoded:
        """Encode a whole dialogue about a number of images, up to the answer."""
        queries = self.processor.num_query_tokens if num_images else 0
        return self.format.encode(
            messages, num_image_tokens=queries, num_images=num_images, add_generation_prompt=True
        )

    def prompts(self, dialogues: Sequence[Dialogue]) -> list[Prompt | DataError]:
        """Encode dialogues: behind the cached prefix of a known image, otherwise whole.

        New images are encoded together. A new prefix is computed with its first question, in one pass, and
        cached. The reason takes the place of a dialogue that cannot be answered.
        """
        keyed = [
            key_images(dialogue.images, [self._instruction(dialogue.messages)] * len(dialogue.images))
            for dialogue in dialogues
        ]
        new = [image for images in keyed if not self._cached_prefix(images) for image in images]
        tokens = dict(zip([key for key, *_ in new], self._image_tokens(new), strict=True))
        prompts: list[Prompt | DataError] = []
        for dialogue, images in zip(dialogues, keyed, strict=True):
            try:
                prompts.append(self._encode(dialogue, images, tokens))
            except DataError as error:
                prompts.append(error)
        return prompts

    def _cached_prefix(self, images: Sequence[KeyedImage]) -> Prefix | None:
        """Return the cached prefix of a dialogue's only image."""
        return self.prefix_cache.get(images[0][0]) if len(images) == 1 else None

    def _encode(
        self, dialogue: Dialogue, images: Sequence[KeyedImage], tokens: Mapping[str, Tensor]
    ) -> Prompt:
        shares_prefix = self.format.has_prefix(dialogue.messages, len(images))
        if shares_prefix and (prefix := self._cached_prefix(images)):
            return self._branch(dialogue.messages, dialogue.max_new_tokens, dialogue.sampling, prefix)
        encoded = self.encode(dialogue.messages, len(images))
        embeds = [
            tokens[image[0]] if image[0] in tokens else self._image_tokens([image])[0] for image in images
        ]
        starts = [start for start, _ in encoded.image_spans]
        image_tokens = tuple(zip(starts, embeds, strict=True))
        prompt = Prompt(encoded.ids, dialogue.max_new_tokens, None, dialogue.sampling, image_tokens)
        if not shares_prefix:
            return prompt
        key, shared = images[0][0], len(self.format.prefix_ids(self.processor.num_query_tokens))
        return replace(
            prompt, shared=shared, on_prefix=lambda prefix: self.prefix_cache.put(key, prefix, prefix.nbytes)
        )

    def _branch(
        self, messages: Sequence[TurnLike], max_new_tokens: int, sampling: Sampling, prefix: Prefix
    ) -> Prompt:
        """Encode what follows the prefix."""
        queries = self.processor.num_query_tokens
        branch = self.format.branch(messages, num_image_tokens=queries, add_generation_prompt=True)
        return Prompt(branch.ids, max_new_tokens, prefix, sampling)

    @torch.inference_mode()
    def prefixes(
        self, images: Sequence[Image.Image], dialogues: Sequence[Sequence[TurnLike]]
    ) -> list[Prefix]:
        """Return the prefix that dialogues about each image start with, from the cache if possible.

        An instruction-aware Q-Former reads the last question of the image's dialogue, so each question has
        its own prefix.
        """
        keyed = key_images(images, [self._instruction(messages) for messages in dialogues])
        ids = torch.tensor(self.format.prefix_ids(self.processor.num_query_tokens))

        def compute(batch: Sequence[KeyedImage]) -> list[Prefix]:
            embeds = self.language_model.get_input_embeddings()(ids).repeat(len(batch), 1, 1)
            embeds[:, ids == self.format.image_id] = torch.stack(self._image_tokens(batch)).to(embeds.dtype)
            return compute_prefixes(self.language_model, embeds)

        return get_or_compute(self.prefix_cache, keyed, compute, batch_size=BATCH_SIZE)

    @torch.inference_mode()
    def _image_tokens(self, images: Sequence[KeyedImage]) -> list[Tensor]:
        """Return each image's tokens, float[Q, D], from the cache if possible."""

        def compute(batch: Sequence[KeyedImage]) -> list[Tensor]:
            self.images_encoded += len(batch)
            _, pictures, instructions = zip(*batch, strict=True)
            tokens = self.model.image_prefix(self._query_outputs(pictures, instructions))
            return [image_tokens.clone() for image_tokens in tokens]  # a view keeps the whole batch

        return get_or_compute(self.token_cache, images, compute, batch_size=BATCH_SIZE)

    def _instruction(self, messages: Sequence[TurnLike]) -> str:
        """Return the text that the Q-Former reads with an image: the last question, or nothing in BLIP-2."""
        if not isinstance(self.model, ZiyaInstructModel):
            return ""
        return next((turn.content for turn in reversed(messages) if turn.role == "user"), "")

    def query_image(self, image: Image.Image, messages: Sequence[TurnLike]) -> Tensor:
        """Compute the Q-Former's outputs for an image, float[1, Q, Dq], without the cache."""
        return self._query_outputs([image], [self._instruction(messages)])

    def _query_outputs(self, images: Sequence[Image.Image], instructions: Sequence[str] = ()) -> Tensor:
        embeds = self.model.encode_images(self.processor.pixels(images))
        if not isinstance(self.model, ZiyaInstructModel):
            return self.model.query_images(embeds)
        return self.model.query_images(embeds, self._qformer_ids(instructions, self.model.qformer_tokenizer))

    def _qformer_ids(self, texts: Sequence[str], own: Any | None) -> tuple[Tensor, Tensor]:
        limit = self.model.config.qformer_config.max_position_embeddings
        ids, mask = text_batch(texts, limit=limit, chat=self.format, own=own)
        return torch.from_numpy(ids), torch.from_numpy(mask)


def open_model(folder: Path, *, dtype: Dtype = "auto") -> TextModel:
    """Open a folder as a vision-language checkpoint or a plain language model, by its files."""
    if not (folder / ADAPTER_FILE).is_file():
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder}: no config.json there; expected a checkpoint folder")
        if read_json(folder / "config.json").get("model_type") not in CONFIGS:
            return TextModel.from_pretrained(folder, dtype=dtype)
    return ZiyaVisual.from_pretrained(folder, dtype=dtype)

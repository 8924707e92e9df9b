"""Batched decoding with slots: prompts of any length join and leave while others decode.

Keys and values live in one buffer a layer, a row a slot; every token is written at its own position of its
slot, so that rows need not be aligned. Works on any decoder of transformers that takes ``inputs_embeds``, a
4D additive mask, ``position_ids`` and a cache with ``update``.

Legend: B rows of a call, T tokens a row, H key heads, E head width, D model width, W visible positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

LONGER = 1.5  # than the shortest prompt of a group that is prefilled together


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen: greedily at temperature 0."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids behind a shared prefix, and how to go on.

    ``prefix`` is a row of the embeddings handed to :meth:`Decoder.add`, or None. ``pictures`` are tokens of
    pictures, float[Q, D] each, and the places in ``ids`` where they stand.
    """

    ids: list[int]
    max_new_tokens: int
    prefix: int | None = None
    sampling: Sampling = Sampling()
    pictures: tuple[tuple[int, Tensor], ...] = ()


class SlotCache:
    """Keys and values of all slots, and where the present call writes; stock attention calls ``update``."""

    def __init__(self) -> None:
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._rows: Tensor = torch.empty(0, dtype=torch.long)
        self._positions: Tensor = torch.empty(0, dtype=torch.long)
        self._width = 0
        self._reserved = (0, 0)

    def reserve(self, rows: int, length: int) -> None:
        """What will be needed soon, in rows and positions: room is made for it at once, not bit by bit."""
        self._reserved = max(rows, self._reserved[0]), max(length, self._reserved[1])

    def aim(self, rows: Tensor, positions: Tensor, width: int) -> None:
        """The next call writes rows int64[B], side by side, at positions int64[B, T], and sees ``width``."""
        assert rows[-1] - rows[0] + 1 == len(rows)
        self._rows, self._positions, self._width = rows, positions, width

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Write float[B, H, T, E] and return what the rows see, float[B, H, W, E] each."""
        if layer_idx == len(self._keys):
            self._keys.append(keys.new_zeros(0, keys.shape[1], 0, keys.shape[3]))
            self._values.append(values.new_zeros(0, values.shape[1], 0, values.shape[3]))
        self._grow(layer_idx)
        start, rows = int(self._positions[0, 0]), slice(int(self._rows[0]), int(self._rows[-1]) + 1)
        seen = []
        for buffer, new in ((self._keys[layer_idx], keys), (self._values[layer_idx], values)):
            if self._positions.stride(0) == 0:  # the same positions in all rows: a plain copy
                buffer[rows, :, start : start + new.shape[2]] = new
            else:
                buffer[self._rows[:, None], :, self._positions] = new.transpose(1, 2).to(buffer.dtype)
            seen.append(buffer[rows, :, : self._width])
        return seen[0], seen[1]

    def copy_prefix(self, source: SlotCache, source_rows: Tensor, rows: Tensor, length: int) -> None:
        """Take the first ``length`` positions of another cache's rows into rows of this one."""
        self.aim(rows, torch.arange(length)[None].expand(len(rows), -1), length)
        for layer, (keys, values) in enumerate(zip(source._keys, source._values, strict=True)):
            self.update(keys[source_rows, :, :length], values[source_rows, :, :length], layer)

    def keep(self, rows: Tensor) -> None:
        """Move the given rows to the front, in their order; the others are given up."""
        self._reserved = 0, self._reserved[1]
        self._keys = [buffer[rows] for buffer in self._keys]
        self._values = [buffer[rows] for buffer in self._values]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Of no use here, since positions are always given; stock code asks for it."""
        return 0

    def _grow(self, layer: int) -> None:
        """Room for the rows and positions aimed at, in steps, so that copies are rare."""
        buffer = self._keys[layer]
        rows, length = int(self._rows.max()) + 1, max(self._width, int(self._positions.max()) + 1)
        if rows <= buffer.shape[0] and length <= buffer.shape[2]:
            return
        shape = list(buffer.shape)
        shape[0] = max(shape[0], rows, self._reserved[0])
        shape[2] = max(shape[2], length, min(length + 64, self._reserved[1]))
        for buffers in (self._keys, self._values):
            grown = buffers[layer].new_zeros(shape)
            grown[: buffer.shape[0], :, : buffer.shape[2]] = buffers[layer]
            buffers[layer] = grown


@dataclass(frozen=True, slots=True)
class Shared:
    """Prefixes that were computed once: their keys and values, a row a prefix, and their length."""

    cache: SlotCache
    length: int


@dataclass
class Slot:
    """A prompt being answered."""

    prompt: Prompt
    tag: int
    tokens: list[int] = field(default_factory=list)
    generator: torch.Generator | None = None
    done: bool = False


class Decoder:
    """A causal language model and the prompts it is answering; rows 0.. of the cache are ``slots``."""

    def __init__(self, model: Any, *, eos_id: int) -> None:
        self._model = model
        self._head = model.get_output_embeddings()
        self._eos_id = eos_id
        self._cache = SlotCache()
        self._lengths = torch.empty(0, dtype=torch.long)  # tokens in each slot's cache
        self.slots: list[Slot] = []

    @torch.inference_mode()
    def share(self, prefixes: Tensor) -> Shared:
        """Compute shared prefixes, embeddings float[N, P, D], for prompts that are added in several calls."""
        count, length = prefixes.shape[:2]
        cache = SlotCache()
        positions = torch.arange(length)[None].expand(count, -1)
        self._forward(prefixes, torch.arange(count), positions, cache=cache)
        return Shared(cache, length)

    def reserve(self, prompts: Sequence[Prompt], shared: Shared | None) -> None:
        """Make room once for prompts that are added in several calls."""
        longest = max(len(prompt.ids) + prompt.max_new_tokens for prompt in prompts)
        length = longest + (0 if shared is None else shared.length)
        self._cache.reserve(len(self.slots) + len(prompts), length)

    @torch.inference_mode()
    def add(
        self, prompts: Sequence[Prompt], tags: Sequence[int], prefixes: Tensor | Shared | None = None
    ) -> None:
        """Prefill prompts and choose the first token of each.

        Args:
            prompts: all with a prefix, or all without.
            tags: the caller's name of each.
            prefixes: what :meth:`share` takes or gave.
        """
        first = len(self.slots)
        rows = torch.arange(first, first + len(prompts))
        shared = self.share(prefixes) if isinstance(prefixes, Tensor) else prefixes
        starts = 0 if shared is None else shared.length
        self.reserve(prompts, shared)
        if shared is not None:
            which = torch.tensor([prompt.prefix for prompt in prompts])
            self._cache.copy_prefix(shared.cache, which, rows, starts)
        lengths = torch.tensor([len(prompt.ids) for prompt in prompts])
        ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt.ids)] = torch.tensor(prompt.ids)
        embeds = self._model.get_input_embeddings()(ids)
        for row, prompt in enumerate(prompts):
            for at, tokens in prompt.pictures:
                embeds[row, at : at + len(tokens)] = tokens
        positions = starts + torch.arange(ids.shape[1])[None].expand(len(prompts), -1)
        states = self._forward(embeds, rows, positions)
        last = states[torch.arange(len(prompts)), lengths - 1]
        self._lengths = torch.cat([self._lengths, starts + lengths])
        for prompt, tag in zip(prompts, tags, strict=True):
            slot = Slot(prompt, tag)
            if prompt.sampling.temperature > 0:
                slot.generator = torch.Generator()
                if prompt.sampling.seed is not None:
                    slot.generator.manual_seed(prompt.sampling.seed)
            self.slots.append(slot)
        self._choose(self._head(last), self.slots[first:])

    @torch.inference_mode()
    def step(self) -> None:
        """One more token for every slot that is not done; many that are done are dropped first."""
        self._compact()
        if not self.slots:
            return
        rows = torch.arange(len(self.slots))
        ids = torch.tensor([slot.tokens[-1] for slot in self.slots])[:, None]
        states = self._forward(self._model.get_input_embeddings()(ids), rows, self._lengths[:, None])
        self._lengths += 1
        self._choose(self._head(states[:, 0]), self.slots)

    def drop_done(self) -> None:
        """Free the slots of all prompts that are done."""
        self._compact(always=True)

    def _forward(
        self, embeds: Tensor, rows: Tensor, positions: Tensor, cache: SlotCache | None = None
    ) -> Tensor:
        cache = cache or self._cache
        width = int(positions.max()) + 1
        cache.aim(rows, positions, width)
        hidden = torch.arange(width)[None, None, None] > positions[:, None, :, None]
        least = torch.finfo(embeds.dtype).min
        mask = torch.zeros(hidden.shape, dtype=embeds.dtype).masked_fill_(hidden, least)
        return self._model.base_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

    def _choose(self, logits: Tensor, slots: Sequence[Slot]) -> None:
        greedy = logits.argmax(-1).tolist()
        for row, slot in enumerate(slots):
            if slot.done:
                continue
            token = greedy[row] if slot.generator is None else _sample(logits[row], slot)
            slot.tokens.append(token)
            slot.done = token == self._eos_id or len(slot.tokens) >= slot.prompt.max_new_tokens

    def _compact(self, always: bool = False) -> None:
        kept = [row for row, slot in enumerate(self.slots) if not slot.done]
        if len(kept) == len(self.slots) or (not always and len(kept) > 0.7 * len(self.slots)):
            return
        rows = torch.tensor(kept, dtype=torch.long)
        self._cache.keep(rows)
        self._lengths = self._lengths[rows]
        self.slots = [self.slots[row] for row in kept]


def _sample(logits: Tensor, slot: Slot) -> int:
    """A token by temperature and nucleus."""
    sampling = slot.prompt.sampling
    weights = (logits.float() / sampling.temperature).softmax(-1)
    ordered, tokens = weights.sort(descending=True)
    ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0
    return int(tokens[torch.multinomial(ordered, 1, generator=slot.generator)])


def generate(
    model: Any,
    prompts: Sequence[Prompt],
    *,
    eos_id: int,
    prefixes: Tensor | None = None,
    rows: int = 128,
) -> list[list[int]]:
    """The new tokens of every prompt, the end token left out; ``rows`` prompts are decoded at a time.

    All prompts have a prefix of ``prefixes`` (float[N, P, D]), or none has.
    """
    decoder = Decoder(model, eos_id=eos_id)
    shared = None if prefixes is None else decoder.share(prefixes)
    answers: list[list[int]] = [[] for _ in prompts]
    waiting = sorted(range(len(prompts)), key=lambda place: len(prompts[place].ids))
    while waiting or decoder.slots:
        free = rows - len(decoder.slots)
        if waiting and free >= min(max(1, rows // 2), len(waiting)):
            some, waiting = waiting[:free], waiting[free:]
            decoder.reserve([prompts[place] for place in some], shared)
            for group in _alike(some, prompts):
                decoder.add([prompts[place] for place in group], group, shared)
        else:
            decoder.step()
        for slot in decoder.slots:
            if slot.done:
                answers[slot.tag] = slot.tokens[:-1] if slot.tokens[-1] == eos_id else slot.tokens
        if all(slot.done for slot in decoder.slots) or waiting:
            decoder.drop_done()
    return answers


def _alike(places: Sequence[int], prompts: Sequence[Prompt]) -> list[list[int]]:
    """Places, shortest prompt first, in groups that need little padding."""
    groups: list[list[int]] = []
    for place in places:
        if groups and len(prompts[place].ids) <= LONGER * len(prompts[groups[-1][0]].ids):
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups

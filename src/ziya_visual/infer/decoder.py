"""Batched decoding with slots: prompts of any length join and leave while others decode.

Works with any decoder of transformers that takes ``inputs_embeds``, a 4D additive mask, ``position_ids`` and
a cache with ``update``.

Legend: N prefixes of P positions, B rows of a call, T tokens per row, D model width, H key heads, E head
width, W visible positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ziya_visual.infer.prefix_cache import Prefix

MAX_PADDING = 64  # padding tokens per prefill; beyond this, a second pass is cheaper


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose the next token; temperature 0 is greedy.

    ``top_logprobs`` requests the log-probability of each token and of this many most likely alternatives.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    top_logprobs: int | None = None


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, optionally behind a cached prefix, and how to continue them.

    Attributes:
        image_tokens: position in ``ids`` and embeddings float[Q, D] of each image.
        shared: number of leading tokens that other prompts share.
        on_prefix: receives the keys and values of the ``shared`` tokens once they are computed.
    """

    ids: list[int]
    max_new_tokens: int
    prefix: Prefix | None = None
    sampling: Sampling = GREEDY
    image_tokens: tuple[tuple[int, Tensor], ...] = ()
    shared: int = 0
    on_prefix: Callable[[Prefix], None] | None = None

    @property
    def start(self) -> int:
        """Return the position of the first token: the length of the prefix."""
        return 0 if self.prefix is None else self.prefix.length


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The log-probability of a token, and the most likely tokens with theirs, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass
class Slot:
    """A prompt that is being answered."""

    prompt: Prompt
    tag: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    generator: torch.Generator | None = None
    done: bool = False


class SlotCache:
    """Keys and values of all slots, one buffer per layer and one row per slot.

    Each token is written at its own position of its slot, so rows need not be aligned. Stock attention calls
    :meth:`update`.
    """

    def __init__(self) -> None:
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._rows: Tensor = torch.empty(0, dtype=torch.long)
        self._positions: Tensor = torch.empty(0, dtype=torch.long)
        self._slots = slice(0, 0)  # the same rows
        self._start: int | None = None  # first position, if all rows have the same positions
        self._width = self._needed = 0
        self._reserved = (0, 0)

    def reserve(self, rows: int, length: int) -> None:
        """Announce the rows and positions needed soon, so that buffers grow once."""
        self._reserved = max(rows, self._reserved[0]), max(length, self._reserved[1])

    def select(self, rows: Tensor, positions: Tensor, width: int) -> None:
        """Set what the next call writes and reads: contiguous rows int64[B], at positions int64[B, T]."""
        first, last = int(rows[0]), int(rows[-1])
        assert last - first + 1 == len(rows)
        self._rows, self._positions, self._width = rows, positions, width
        # Read numbers out of tensors once, here: doing so in every layer costs more than a copy.
        self._slots, self._needed = slice(first, last + 1), max(width, int(positions.max()) + 1)
        aligned = len(rows) == 1 or positions.stride(0) == 0
        self._start = int(positions[0, 0]) if aligned else None

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Write float[B, H, T, E] and return the visible keys and values, float[B, H, W, E] each."""
        self._grow(layer_idx, keys[0], values[0])
        visible = []
        for buffer, new in ((self._keys[layer_idx], keys), (self._values[layer_idx], values)):
            if self._start is not None:
                buffer[self._slots, :, self._start : self._start + new.shape[2]] = new
            else:
                buffer[self._rows[:, None], :, self._positions] = new.transpose(1, 2).to(buffer.dtype)
            visible.append(buffer[self._slots, :, : self._width])
        return visible[0], visible[1]

    def write_prefixes(self, prefixes: Sequence[Prefix], rows: Tensor) -> None:
        """Write prefixes of equal length to the start of rows int64[B]."""
        length = prefixes[0].length
        self.select(rows, torch.arange(length)[None].expand(len(rows), -1), length)
        for layer, (keys, values) in enumerate(zip(prefixes[0].keys, prefixes[0].values, strict=True)):
            self._grow(layer, keys, values)
            for row, prefix in zip(rows.tolist(), prefixes, strict=True):
                self._keys[layer][row, :, :length] = prefix.keys[layer]
                self._values[layer][row, :, :length] = prefix.values[layer]

    def read_prefix(self, row: int, length: int) -> Prefix:
        """Copy the first ``length`` positions of a row."""
        keys, values = (
            tuple(buffer[row, :, :length].clone() for buffer in buffers)
            for buffers in (self._keys, self._values)
        )
        return Prefix(keys, values)

    def keep_rows(self, rows: Tensor) -> None:
        """Move the given rows to the front, in order, and drop the others."""
        self._reserved = 0, self._reserved[1]
        self._keys = [buffer[rows] for buffer in self._keys]
        self._values = [buffer[rows] for buffer in self._values]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: stock code asks for it, but positions are always given explicitly."""
        return 0

    def _grow(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Enlarge a layer's buffers for the selected rows and positions, in steps that keep copies rare.

        A new layer takes heads and widths from the tensors to be written, float[H, any, E].
        """
        if layer == len(self._keys):
            self._keys.append(keys.new_zeros(0, keys.shape[0], 0, keys.shape[2]))
            self._values.append(values.new_zeros(0, values.shape[0], 0, values.shape[2]))
        buffer = self._keys[layer]
        rows, length = self._slots.stop, self._needed
        if rows <= buffer.shape[0] and length <= buffer.shape[2]:
            return
        shape = list(buffer.shape)
        shape[0] = max(shape[0], rows, self._reserved[0])
        shape[2] = max(shape[2], length, min(length + 64, self._reserved[1]))
        for buffers in (self._keys, self._values):
            grown = buffers[layer].new_zeros(shape)
            grown[: buffer.shape[0], :, : buffer.shape[2]] = buffers[layer]
            buffers[layer] = grown


class Decoder:
    """A causal language model and the prompts it is answering; ``slots`` are rows 0.. of its cache."""

    def __init__(self, model: Any, *, eos_id: int) -> None:
        self._model = model
        self._head = model.get_output_embeddings()
        self._eos_id = eos_id
        self._cache = SlotCache()
        self._lengths = torch.empty(0, dtype=torch.long)  # tokens in each slot's cache
        self.slots: list[Slot] = []

    @torch.inference_mode()
    def add(self, prompts: Sequence[Prompt], tags: Sequence[int]) -> None:
        """Prefill prompts, whose prefixes must have the same length, and choose the first token of each."""
        longest = max(prompt.start + len(prompt.ids) + prompt.max_new_tokens for prompt in prompts)
        self._cache.reserve(len(self.slots) + len(prompts), longest)
        for prefixed in (True, False):
            indices = [i for i, prompt in enumerate(prompts) if (prompt.prefix is not None) is prefixed]
            for group in group_by_length([len(prompts[i].ids) for i in indices]):
                members = [indices[i] for i in group]
                self._prefill([prompts[i] for i in members], [tags[i] for i in members])

    def _prefill(self, prompts: Sequence[Prompt], tags: Sequence[int]) -> None:
        """Compute prompts in one pass, padded to the longest."""
        first, start = len(self.slots), prompts[0].start
        rows = torch.arange(first, first + len(prompts))
        if start:
            self._cache.write_prefixes([prompt.prefix for prompt in prompts if prompt.prefix], rows)
        lengths = torch.tensor([len(prompt.ids) for prompt in prompts])
        ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt.ids)] = torch.tensor(prompt.ids)
        embeds = self._model.get_input_embeddings()(ids)
        for row, prompt in enumerate(prompts):
            for position, tokens in prompt.image_tokens:
                embeds[row, position : position + len(tokens)] = tokens
        positions = start + torch.arange(ids.shape[1])[None].expand(len(prompts), -1)
        states = _forward(self._model, self._cache, embeds, rows, positions)
        for row, prompt in enumerate(prompts, first):
            if prompt.on_prefix is not None:
                prompt.on_prefix(self._cache.read_prefix(row, prompt.shared))
        last = states[torch.arange(len(prompts)), lengths - 1]
        self._lengths = torch.cat([self._lengths, start + lengths])
        self.slots += [
            Slot(p, tag, generator=_generator(p.sampling)) for p, tag in zip(prompts, tags, strict=True)
        ]
        self._choose(self._head(last), self.slots[first:])

    @torch.inference_mode()
    def step(self) -> None:
        """Generate one token in every slot that is not done; drop finished slots first if there are many."""
        self._compact()
        if not self.slots:
            return
        rows = torch.arange(len(self.slots))
        ids = torch.tensor([slot.tokens[-1] for slot in self.slots])[:, None]
        embeds = self._model.get_input_embeddings()(ids)
        states = _forward(self._model, self._cache, embeds, rows, self._lengths[:, None])
        self._lengths += 1
        self._choose(self._head(states[:, 0]), self.slots)

    def drop_done(self) -> None:
        """Free the slots of all finished prompts."""
        self._compact(always=True)

    def _choose(self, logits: Tensor, slots: Sequence[Slot]) -> None:
        greedy = logits.argmax(-1).tolist()
        for row, slot in enumerate(slots):
            if slot.done:
                continue
            token = greedy[row] if slot.generator is None else _sample(logits[row], slot)
            slot.tokens.append(token)
            if slot.prompt.sampling.top_logprobs is not None:
                slot.logprobs.append(_logprobs(logits[row], token, slot.prompt.sampling.top_logprobs))
            slot.done = token == self._eos_id or len(slot.tokens) >= slot.prompt.max_new_tokens

    def _compact(self, always: bool = False) -> None:
        active = [row for row, slot in enumerate(self.slots) if not slot.done]
        if len(active) == len(self.slots) or (not always and len(active) > 0.7 * len(self.slots)):
            return
        rows = torch.tensor(active, dtype=torch.long)
        self._cache.keep_rows(rows)
        self._lengths = self._lengths[rows]
        self.slots = [self.slots[row] for row in active]


@torch.inference_mode()
def compute_prefixes(model: Any, embeds: Tensor) -> list[Prefix]:
    """Compute the keys and values of prefixes from their embeddings float[N, P, D]."""
    cache = SlotCache()
    positions = torch.arange(embeds.shape[1])[None].expand(len(embeds), -1)
    _forward(model, cache, embeds, torch.arange(len(embeds)), positions)
    return [cache.read_prefix(row, embeds.shape[1]) for row in range(len(embeds))]


def generate(model: Any, prompts: Sequence[Prompt], *, eos_id: int, rows: int = 128) -> list[list[int]]:
    """Return the new tokens of every prompt, without the end token; see :meth:`Decoder.add`.

    At most ``rows`` prompts are decoded at a time.
    """
    decoder = Decoder(model, eos_id=eos_id)
    answers: list[list[int]] = [[] for _ in prompts]
    waiting = sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids))
    while waiting or decoder.slots:
        free = rows - len(decoder.slots)
        if waiting and free >= min(max(1, rows // 2), len(waiting)):
            admitted, waiting = waiting[:free], waiting[free:]
            decoder.add([prompts[index] for index in admitted], admitted)
        else:
            decoder.step()
        for slot in decoder.slots:
            if slot.done:
                answers[slot.tag] = slot.tokens[:-1] if slot.tokens[-1] == eos_id else slot.tokens
        if all(slot.done for slot in decoder.slots) or waiting:
            decoder.drop_done()
    return answers


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Group indices of similar lengths, shortest first, so that each group needs little padding."""
    groups: list[list[int]] = []
    padding = longest = 0
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        padding += (lengths[index] - longest) * len(groups[-1]) if groups else 0
        longest = lengths[index]
        if not groups or padding > MAX_PADDING:
            groups.append([])
            padding = 0
        groups[-1].append(index)
    return groups


def _forward(model: Any, cache: SlotCache, embeds: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
    """Return the last hidden states float[B, T, D]; each token sees its slot up to itself."""
    width = int(positions.max()) + 1
    cache.select(rows, positions, width)
    hidden = torch.arange(width)[None, None, None] > positions[:, None, :, None]
    mask = torch.zeros(hidden.shape, dtype=embeds.dtype).masked_fill_(hidden, torch.finfo(embeds.dtype).min)
    output = model.base_model(
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    return output.last_hidden_state


def _generator(sampling: Sampling) -> torch.Generator | None:
    """Return the random generator of a sampled prompt, or None for a greedy one."""
    if sampling.temperature == 0:
        return None
    generator = torch.Generator()
    return generator.manual_seed(generator.seed() if sampling.seed is None else sampling.seed)


def _logprobs(logits: Tensor, token: int, count: int) -> TokenLogprobs:
    logprobs = logits.float().log_softmax(-1)
    best = logprobs.topk(min(count, len(logprobs)))
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprobs(token, float(logprobs[token]), top)


def _sample(logits: Tensor, slot: Slot) -> int:
    """Sample a token with temperature and nucleus."""
    sampling = slot.prompt.sampling
    weights = (logits.float() / sampling.temperature).softmax(-1)
    ordered, tokens = weights.sort(descending=True)
    ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0
    return int(tokens[torch.multinomial(ordered, 1, generator=slot.generator)])

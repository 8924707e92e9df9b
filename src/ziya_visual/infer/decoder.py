"""Batched decoding with slots: prompts of any length join and leave while others decode.

Works on any decoder of transformers that takes ``inputs_embeds``, a 4D additive mask, ``position_ids`` and a
cache with ``update``. Legend: N prefixes of P positions, B rows of a call, T tokens a row, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ziya_visual.infer.prefix_cache import Prefix
from ziya_visual.infer.slot_cache import SlotCache

PADDING = 64  # tokens at most in what is prefilled together: beyond, another pass is cheaper


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen: greedily at temperature 0.

    ``top_logprobs`` asks for the log-probability of each token and of so many of the likeliest beside it.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    top_logprobs: int | None = None


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, behind a prefix where there is one, and how to go on.

    Attributes:
        pictures: tokens of pictures, float[Q, D] each, and the places in ``ids`` where they stand.
        shared: how many of its first tokens other prompts begin with as well.
        keep: is given their keys and values once they are computed.
    """

    ids: list[int]
    max_new_tokens: int
    prefix: Prefix | None = None
    sampling: Sampling = GREEDY
    pictures: tuple[tuple[int, Tensor], ...] = ()
    shared: int = 0
    keep: Callable[[Prefix], None] | None = None


@dataclass(frozen=True, slots=True)
class Likelihood:
    """A token's log-probability among all, and the likeliest tokens with theirs, the best first."""

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...]


@dataclass
class Slot:
    """A prompt being answered."""

    prompt: Prompt
    tag: int
    tokens: list[int] = field(default_factory=list)
    likelihoods: list[Likelihood] = field(default_factory=list)
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

    def reserve(self, prompts: Sequence[Prompt]) -> None:
        """Make room once for prompts that are added in several calls."""
        longest = max(_starts(prompt) + len(prompt.ids) + prompt.max_new_tokens for prompt in prompts)
        self._cache.reserve(len(self.slots) + len(prompts), longest)

    @torch.inference_mode()
    def add(self, prompts: Sequence[Prompt], tags: Sequence[int]) -> None:
        """Prefill prompts and choose the first token of each.

        Args:
            prompts: their prefixes, where they have any, are of one length.
            tags: the caller's name of each.
        """
        self.reserve(prompts)
        for behind in (True, False):
            some = [place for place, prompt in enumerate(prompts) if (prompt.prefix is not None) is behind]
            for group in alike([len(prompts[place].ids) for place in some]):
                places = [some[number] for number in group]
                self._prefill([prompts[place] for place in places], [tags[place] for place in places])

    def _prefill(self, prompts: Sequence[Prompt], tags: Sequence[int]) -> None:
        """In one pass, padded to the longest."""
        first = len(self.slots)
        rows = torch.arange(first, first + len(prompts))
        starts = _starts(prompts[0])
        if starts:
            self._cache.put_prefixes([prompt.prefix for prompt in prompts if prompt.prefix], rows)
        lengths = torch.tensor([len(prompt.ids) for prompt in prompts])
        ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt.ids)] = torch.tensor(prompt.ids)
        embeds = self._model.get_input_embeddings()(ids)
        for row, prompt in enumerate(prompts):
            for at, tokens in prompt.pictures:
                embeds[row, at : at + len(tokens)] = tokens
        positions = starts + torch.arange(ids.shape[1])[None].expand(len(prompts), -1)
        states = _forward(self._model, self._cache, embeds, rows, positions)
        for row, prompt in enumerate(prompts, first):
            if prompt.keep is not None:
                prompt.keep(self._cache.prefix(row, prompt.shared))
        last = states[torch.arange(len(prompts)), lengths - 1]
        self._lengths = torch.cat([self._lengths, starts + lengths])
        for prompt, tag in zip(prompts, tags, strict=True):
            slot = Slot(prompt, tag)
            if prompt.sampling.temperature > 0:
                slot.generator = torch.Generator()
                if prompt.sampling.seed is None:
                    slot.generator.seed()
                else:
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
        embeds = self._model.get_input_embeddings()(ids)
        states = _forward(self._model, self._cache, embeds, rows, self._lengths[:, None])
        self._lengths += 1
        self._choose(self._head(states[:, 0]), self.slots)

    def drop_done(self) -> None:
        """Free the slots of all prompts that are done."""
        self._compact(always=True)

    def _choose(self, logits: Tensor, slots: Sequence[Slot]) -> None:
        greedy = logits.argmax(-1).tolist()
        for row, slot in enumerate(slots):
            if slot.done:
                continue
            token = greedy[row] if slot.generator is None else _sample(logits[row], slot)
            slot.tokens.append(token)
            if slot.prompt.sampling.top_logprobs is not None:
                slot.likelihoods.append(_likelihood(logits[row], token, slot.prompt.sampling.top_logprobs))
            slot.done = token == self._eos_id or len(slot.tokens) >= slot.prompt.max_new_tokens

    def _compact(self, always: bool = False) -> None:
        kept = [row for row, slot in enumerate(self.slots) if not slot.done]
        if len(kept) == len(self.slots) or (not always and len(kept) > 0.7 * len(self.slots)):
            return
        rows = torch.tensor(kept, dtype=torch.long)
        self._cache.keep(rows)
        self._lengths = self._lengths[rows]
        self.slots = [self.slots[row] for row in kept]


@torch.inference_mode()
def compute_prefixes(model: Any, embeds: Tensor) -> list[Prefix]:
    """Embeddings float[N, P, D] of prefixes -> their keys and values in a causal language model."""
    cache = SlotCache()
    positions = torch.arange(embeds.shape[1])[None].expand(len(embeds), -1)
    _forward(model, cache, embeds, torch.arange(len(embeds)), positions)
    return [cache.prefix(row, embeds.shape[1]) for row in range(len(embeds))]


def _forward(model: Any, cache: SlotCache, embeds: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
    """Last hidden states float[B, T, D]; each token sees its slot up to itself."""
    width = int(positions.max()) + 1
    cache.aim(rows, positions, width)
    hidden = torch.arange(width)[None, None, None] > positions[:, None, :, None]
    mask = torch.zeros(hidden.shape, dtype=embeds.dtype).masked_fill_(hidden, torch.finfo(embeds.dtype).min)
    return model.base_model(
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state


def _starts(prompt: Prompt) -> int:
    return 0 if prompt.prefix is None else prompt.prefix.length


def _likelihood(logits: Tensor, token: int, count: int) -> Likelihood:
    logprobs = logits.float().log_softmax(-1)
    best = logprobs.topk(min(count, len(logprobs)))
    likeliest = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Likelihood(token, float(logprobs[token]), likeliest)


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
    rows: int = 128,
) -> list[list[int]]:
    """The new tokens of every prompt, the end token left out; ``rows`` prompts are decoded at a time.

    Prefixes are of one length.
    """
    decoder = Decoder(model, eos_id=eos_id)
    answers: list[list[int]] = [[] for _ in prompts]
    waiting = sorted(range(len(prompts)), key=lambda place: len(prompts[place].ids))
    while waiting or decoder.slots:
        free = rows - len(decoder.slots)
        if waiting and free >= min(max(1, rows // 2), len(waiting)):
            some, waiting = waiting[:free], waiting[free:]
            decoder.add([prompts[place] for place in some], some)
        else:
            decoder.step()
        for slot in decoder.slots:
            if slot.done:
                answers[slot.tag] = slot.tokens[:-1] if slot.tokens[-1] == eos_id else slot.tokens
        if all(slot.done for slot in decoder.slots) or waiting:
            decoder.drop_done()
    return answers


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Places, the shortest first, in groups that need little padding."""
    groups: list[list[int]] = []
    padding = longest = 0
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        padding += (lengths[place] - longest) * len(groups[-1]) if groups else 0
        longest = lengths[place]
        if not groups or padding > PADDING:
            groups.append([])
            padding = 0
        groups[-1].append(place)
    return groups

"""The memory of a training step, counted by taking the step on fake tensors: real shapes, no numbers.

Forward, backward and update run through torch's own code, so that weights, gradients and optimizer state are
what torch would allocate, and activations are what autograd would keep. docs/doctor.md has the formulas.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ziya_visual.core.recipe import Lora, Stage
from ziya_visual.data.packing import Lengths
from ziya_visual.doctor.skeleton import by_part, count
from ziya_visual.model.lora import add_lora, freeze_all_but
from ziya_visual.model.packed.attention import PLAIN, round_up
from ziya_visual.model.packed.forward import causal_lm, decoder_hidden_states, token_losses
from ziya_visual.train.model import BuiltModel, llm_blocks
from ziya_visual.train.objectives import (
    CaptionBatch,
    Scores,
    contrastive_loss,
    grounded_loss,
    matching_loss,
    similarity_scores,
)
from ziya_visual.train.optimizer import Optimizer

RESERVE = 0.1  # of a device's memory is left for what is not counted: temporaries, fragments
Bytes = dict[str, int]


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a step, the largest of a few that were drawn.

    Attributes:
        images: B.
        lengths: of the packed rows, one a picture.
        supervised: S, tokens of all rows that are learnt.
        pairs: (pairs, tokens a text) of each language's captions.
    """

    images: int
    lengths: Lengths
    supervised: int
    pairs: tuple[tuple[int, int], ...]

    def share(self, processes: int) -> Shape:
        """What one of several processes gets of it."""
        pairs = tuple((-(-count // processes), length) for count, length in self.pairs)
        images = -(-self.images // processes)
        return replace(
            self,
            images=images,
            lengths=self.lengths[:images],
            supervised=-(-self.supervised // processes),
            pairs=tuple(pair for pair in pairs if pair[0] > 1),
        )


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one step: by part of the model, and what autograd keeps.

    Attributes:
        trained: numbers that learn, by part; some may get no gradient from the stage's objectives.
        frozen: how many do not.
        activations: what autograd keeps for the backward pass, without ``casts``.
        casts: bfloat16 copies of float32 weights that autograd keeps too.
        blocks: bytes of the frozen weights of each transformer block that ``shard`` spreads.
    """

    trained: dict[str, int]
    frozen: int
    weights: Bytes
    gradients: Bytes
    optimizer: Bytes
    activations: int
    casts: int
    blocks: list[int]

    @property
    def states(self) -> int:
        """Weights, gradients and optimizer state."""
        return sum(itertools.chain(*(x.values() for x in (self.weights, self.gradients, self.optimizer))))

    def one_process(self) -> int:
        """Bytes on the one device, or on each of several that hold the whole model (DDP)."""
        return self.states + self.activations + self.casts

    def sharded(self, processes: int) -> int:
        """Bytes on each of N devices with ``shard`` (FSDP).

        Frozen blocks are split; two of them, one computing and one on its way, are whole besides.
        """
        split = sum(self.blocks)
        return self.one_process() - split + split // processes + 2 * max(self.blocks, default=0)


def dry_step(
    bones: BuiltModel,
    stage: Stage,
    shape: Shape,
    *,
    lora: Lora | None,
    precision: str,
    cached: bool,
    matrices: Literal["muon", "adamw"] = "muon",
) -> Memory:
    """Take a step of a stage on fake tensors.

    Args:
        bones: the model; stays as it is.
        stage: what trains, by which objectives.
        shape: of the batch.
        lora: the adapters that the language model has by then.
        precision: ``bf16`` computes in bfloat16 over float32 weights, as training does.
        cached: whether the frozen ViT's states are kept, so that it does not run.
        matrices: by what they are trained, see :class:`Optimizer`.
    """
    model, alignment = copy.deepcopy((bones.model, bones.alignment))
    model.set_attn_implementation(PLAIN)
    if lora is not None:
        with torch.device("meta"):
            add_lora(model, rank=lora.rank, alpha=lora.alpha)
    freeze_all_but(model, alignment, stage.trains)
    spread = _spread(model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _to_fake([model, alignment])
        parts = by_part(model, alignment)
        weights = [p for found in parts.values() for p in found]
        buffers = [*model.buffers(), *alignment.buffers()]
        casts = _Casts(weights)
        named = [*model.named_parameters(), *alignment.named_parameters()]
        optimizer = Optimizer(named, matrices=matrices)
        kept = _Kept()
        with (
            torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
            casts,
        ):
            loss = _loss(replace(bones, model=model, alignment=alignment), stage, shape, cached)
        loss.backward()
        optimizer.update(lr=0.0)
        state = _state_by_parameter(optimizer)
        return Memory(
            trained={name: count(p for p in found if p.requires_grad) for name, found in parts.items()},
            frozen=count(p for p in weights if not p.requires_grad),
            weights={name: _sum(found) for name, found in parts.items()},
            gradients={name: _sum(p.grad for p in found) for name, found in parts.items()},
            optimizer={name: sum(state.get(id(p), 0) for p in found) for name, found in parts.items()},
            activations=kept.bytes(without=[*weights, *buffers, *casts.made]),
            casts=kept.bytes(of=casts.made),
            blocks=spread,
        )


def _loss(bones: BuiltModel, stage: Stage, shape: Shape, cached: bool) -> Tensor:
    """Add up the losses of the stage as :func:`objectives.compute_losses` does, on fake tensors."""
    model, alignment, objectives = bones.model, bones.alignment, stage.objectives
    side = bones.processor.image_size
    if cached:
        vision = model.config.vision_config
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
        patches = (side // vision.patch_size) ** 2 + 1
        embeds = torch.empty(shape.images, patches, vision.hidden_size, dtype=dtype)
    else:
        embeds = model.encode_images(torch.empty(shape.images, 3, side, side))
    queries = model.query_images(embeds)
    losses = []
    if objectives.language_model:
        losses.append(_language_model_loss(model, queries, shape))
    texts = [_pairs(count, length) for count, length in shape.pairs]
    scores: list[Scores] = []
    if objectives.contrastive or objectives.matching:
        features = alignment.image_features(queries)
        scores = [similarity_scores(model, alignment, features, pairs) for pairs in texts]
    if objectives.contrastive:
        losses += [contrastive_loss(found) for found in scores]
    if texts:  # one language a step: the one with the longest texts
        turn = max(range(len(texts)), key=lambda number: texts[number].input_ids.numel())
        if objectives.matching:
            shown = embeds[texts[turn].image_rows]
            losses.append(matching_loss(model, alignment, shown, texts[turn], scores[turn]).total)
        if objectives.grounded:
            shown = embeds[texts[turn].image_rows]
            losses.append(grounded_loss(model, alignment, shown, texts[turn]).total)
    return torch.stack(losses).sum()


def _language_model_loss(model: Any, queries: Tensor, shape: Shape) -> Tensor:
    """As :func:`packed.packed_loss`."""
    language_model = model.language_model
    inner = causal_lm(language_model)
    ids = torch.zeros(sum(map(sum, shape.lengths)), dtype=torch.long)
    embeds = inner.get_input_embeddings()(ids)
    embeds = embeds.masked_scatter((ids == 1).unsqueeze(-1), model.image_prefix(queries).to(embeds.dtype))
    states = decoder_hidden_states(language_model, embeds, ids, shape.lengths)
    learnt = torch.zeros(round_up(shape.supervised), dtype=torch.long)
    return token_losses(inner.get_output_embeddings(), states[learnt], learnt).sum()


def _pairs(count: int, length: int) -> CaptionBatch:
    ids = torch.zeros(count, length, dtype=torch.long)
    rows = torch.zeros(count, dtype=torch.long)
    return CaptionBatch(ids, torch.ones_like(ids), rows, torch.arange(count), 0, count * (length - 1))


class _Kept:
    """The tensors that autograd keeps, by storage: views of one are counted once."""

    def __init__(self) -> None:
        self._tensors: dict[int, Tensor] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        self._tensors[_storage(tensor)] = tensor
        return tensor

    def bytes(self, *, of: Any = None, without: Any = ()) -> int:
        """Of all storages, or of those of ``of`` alone, but not of those of ``without``."""
        left_out = {_storage(tensor) for tensor in without}
        wanted = self._tensors.keys() - left_out
        if of is not None:
            wanted &= {_storage(tensor) for tensor in of}
        return sum(self._tensors[key].untyped_storage().nbytes() for key in wanted)


class _Casts(TorchDispatchMode):
    """Notes every copy of a weight in another precision."""

    def __init__(self, weights: list[nn.Parameter]) -> None:
        super().__init__()
        self.made: list[Tensor] = []
        self._weights = {_storage(weight) for weight in weights}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and _storage(args[0]) in self._weights:
            self.made.append(result)
        return result


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _to_fake(modules: list[nn.Module]) -> None:
    """Put a fake tensor in the place of every meta one; what was shared stays shared."""
    made: dict[int, Tensor] = {}

    def fake(old: Tensor) -> Tensor:
        if id(old) not in made:
            new = torch.empty(old.shape, dtype=old.dtype)
            made[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
        return made[id(old)]

    for module in itertools.chain(*(root.modules() for root in modules)):
        for place in (module._parameters, module._buffers):
            for name, tensor in place.items():
                if tensor is not None:
                    place[name] = fake(tensor)  # type: ignore[assignment]


def _state_by_parameter(optimizer: Optimizer) -> dict[int, int]:
    """id(parameter) -> bytes of its state."""
    found, start = {}, 0
    for part in optimizer.state_dict():
        for number, state in part["state"].items():
            found[id(optimizer.parameters[start + number])] = _sum(state.values())
        start += sum(len(group["params"]) for group in part["param_groups"])
    return found


def _sum(values: Any) -> int:
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, Tensor))


def _spread(model: Any) -> list[int]:
    """Bytes of the frozen weights of each block: see :func:`~.model.shard_llm_blocks`."""
    return [_sum(p for p in b.parameters() if not p.requires_grad) for b in llm_blocks(model.language_model)]

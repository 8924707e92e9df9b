"""The memory of a training step, counted by running the step on fake tensors: real shapes, no values.

The step is training's own, so weights, gradients and optimizer state are what torch would allocate, and
activations are what autograd would save. docs/doctor.md lists what is counted.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ziya_visual.core.recipe import Recipe
from ziya_visual.data.packing import IGNORE, Lengths, PackedBatch
from ziya_visual.model.packed.attention import PLAIN
from ziya_visual.train import run
from ziya_visual.train.batches import TrainingTexts
from ziya_visual.train.loop import forward_backward
from ziya_visual.train.model import BuiltModel, llm_blocks
from ziya_visual.train.objectives import Batch, CaptionBatch, ImageFeatures
from ziya_visual.train.optimizer import Optimizer

RESERVE = 0.1  # share of a device's memory that stays free for temporaries and fragmentation
DRAWN_BATCHES = 8  # of each stage
PARTS = {  # attribute of the network -> part; everything else is the language model
    "vision_model": "vision",
    "qformer": "qformer",
    "query_tokens": "query_tokens",
    "language_projection": "projection",
}


def by_part(model: nn.Module, alignment: nn.Module | None) -> dict[str, list[nn.Parameter]]:
    """Return all parameters by part; weights that two layers share are listed once."""
    parts: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part = "lora" if "lora_" in name else PARTS.get(name.split(".")[0], "language_model")
        parts.setdefault(part, []).append(parameter)
    if alignment is not None:
        parts["alignment"] = list(alignment.parameters())
    return parts


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Return the number of values in some parameters."""
    return sum(parameter.numel() for parameter in parameters)


def fits(needed: int, available: int) -> bool:
    """Return whether bytes fit on a device and leave the reserve free."""
    return needed <= (1 - RESERVE) * available


def feature_shape(built: BuiltModel) -> tuple[int, int]:
    """Return the shape of the ViT's features of one image: patches + 1, width."""
    vision = built.model.config.vision_config
    return (built.processor.image_size // vision.patch_size) ** 2 + 1, vision.hidden_size


def first_batches(recipe: Recipe, number: int, built: BuiltModel, texts: TrainingTexts) -> list[Batch]:
    """Return the first batches of a stage, as training draws them."""
    batches = run.build_batches(recipe, number, built, texts)
    return [batches[step] for step in range(min(DRAWN_BATCHES, recipe.stages[number].steps))]


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a batch.

    Attributes:
        images: B.
        lengths: of the packed rows, one for each image; empty if the batch has no texts for the LM.
        supervised: S, the number of supervised tokens in all rows.
        captions: (captions, tokens of each) by language.
    """

    images: int
    lengths: Lengths
    supervised: int
    captions: tuple[tuple[int, int], ...]

    @classmethod
    def largest(cls, batches: list[Batch]) -> Shape:
        """Return the size of a batch whose every dimension is the largest of these batches."""
        captions: dict[int, tuple[int, int]] = {}
        for lang, caption_batch in itertools.chain(*(batch.captions.items() for batch in batches)):
            rows, length = captions.get(lang, (0, 0))
            more_rows, more_length = caption_batch.input_ids.shape
            captions[lang] = max(rows, more_rows), max(length, more_length)
        texts = [batch.texts for batch in batches if batch.texts is not None]
        return cls(
            images=max(len(batch.images) for batch in batches),
            lengths=max((text.lengths for text in texts), key=lambda rows: sum(map(sum, rows))),
            supervised=max(batch.supervised for batch in batches),
            captions=tuple(captions[lang] for lang in sorted(captions)),
        )

    def share(self, world_size: int) -> Shape:
        """Return the largest share that one of several ranks gets."""
        captions = [(-(-rows // world_size), length) for rows, length in self.captions]
        images, supervised = -(-self.images // world_size), -(-self.supervised // world_size)
        return Shape(images, self.lengths[:images], supervised, tuple(c for c in captions if c[0] > 1))

    def micro_batches(self, size: int | None, *, align: bool) -> list[Shape]:
        """Return the largest micro-batch of each kind that :meth:`Batch.micro_batches` makes."""
        if size is None:
            return [self]
        longest = tuple(sorted(self.lengths, key=sum, reverse=True)[:size])
        supervised = min(-(-self.supervised * size // self.images), self.supervised)
        texts = Shape(min(size, self.images), longest, supervised, ())
        return [texts, replace(self, lengths=())] if align and self.captions else [texts]

    def batch(self, built: BuiltModel) -> Batch:
        """Return a batch of this size; its tokens mean nothing."""
        tokens, image_id = sum(map(sum, self.lengths)), built.model.image_id
        ids, zeros = np.full(tokens, image_id + 1), np.zeros(tokens, np.int64)
        ids[: self.images * built.processor.num_query_tokens] = image_id
        labels = np.where(np.arange(tokens) < self.supervised, 0, IGNORE)
        texts = PackedBatch(ids, zeros, labels, zeros, self.lengths) if self.lengths else None
        captions = {lang: _caption_batch(*size) for lang, size in enumerate(self.captions)}
        return Batch(np.arange(self.images), texts, captions, self.supervised)


def _caption_batch(rows: int, length: int) -> CaptionBatch:
    ids, images = torch.zeros(rows, length, dtype=torch.long), torch.zeros(rows, dtype=torch.long)
    return CaptionBatch(ids, torch.ones_like(ids), images, torch.arange(rows), 0, rows * (length - 1))


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one step, by part of the model where that makes sense.

    Attributes:
        trained: the number of trained values by part; some may get no gradient from the stage's objectives.
        frozen: the number of frozen values.
        activations: what autograd saves for the backward pass, without ``casts``.
        casts: bfloat16 copies of float32 weights that autograd saves too.
        blocks: bytes of the frozen weights of each transformer block that ``shard`` splits.
    """

    trained: dict[str, int]
    frozen: int
    weights: dict[str, int]
    gradients: dict[str, int]
    optimizer: dict[str, int]
    activations: int
    casts: int
    blocks: list[int]

    @property
    def states(self) -> int:
        """Return the bytes of weights, gradients and optimizer state."""
        return sum(itertools.chain(*(x.values() for x in (self.weights, self.gradients, self.optimizer))))

    def one_process(self) -> int:
        """Return the bytes on a device that holds the whole model: a single one, or each of several (DDP)."""
        return self.states + self.activations + self.casts

    def sharded(self, world_size: int) -> int:
        """Return the bytes on each of several devices with ``shard`` (FSDP).

        Frozen blocks are split; two of them, one computing and one in transit, are whole in addition.
        """
        split = sum(self.blocks)
        return self.one_process() - split + split // world_size + 2 * max(self.blocks, default=0)


def dry_step(recipe: Recipe, number: int, built: BuiltModel, shape: Shape) -> Memory:
    """Run a step of a stage on fake tensors and return its memory; the model on the meta device is kept."""
    model, alignment = copy.deepcopy((built.model, built.alignment))
    model.set_attn_implementation(PLAIN)
    built = replace(built, model=model, alignment=alignment)
    plain_recipe = recipe.model_copy(update={"compile": False, "recompute": False})
    with torch.device("meta"):
        for earlier in range(number + 1):
            run.prepare_stage(plain_recipe, earlier, built)
    blocks = [
        _bytes(p for p in block.parameters() if not p.requires_grad)
        for block in llm_blocks(model.language_model)
    ]
    batch = shape.batch(built)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _to_fake(model, alignment)
        parts = by_part(model, alignment)
        weights = [parameter for parameters in parts.values() for parameter in parameters]
        optimizer = run.build_optimizer(recipe, number, built)
        saved: dict[int, Tensor] = {}  # by storage, so that views of one are counted once

        def save(tensor: Tensor) -> Tensor:
            saved[_storage(tensor)] = tensor
            return tensor

        mode = _DryRunMode(weights)
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor), mode:
            _forward_backward(recipe, number, built, batch)
        optimizer.update(lr=0.0)
    state = _state_by_parameter(optimizer)
    own = {_storage(tensor) for tensor in [*weights, *model.buffers(), *alignment.buffers()]}
    casts = {_storage(tensor) for tensor in mode.casts}
    return Memory(
        trained={name: count(p for p in part if p.requires_grad) for name, part in parts.items()},
        frozen=count(p for p in weights if not p.requires_grad),
        weights={name: _bytes(part) for name, part in parts.items()},
        gradients={name: _bytes(p.grad for p in part) for name, part in parts.items()},
        optimizer={name: sum(state.get(id(p), 0) for p in part) for name, part in parts.items()},
        activations=_storage_bytes(saved, saved.keys() - own - casts),
        casts=_storage_bytes(saved, saved.keys() & casts),
        blocks=blocks,
    )


def _forward_backward(recipe: Recipe, number: int, built: BuiltModel, batch: Batch) -> None:
    """Run training's forward and backward pass with features that the cache or the ViT would provide."""
    side, stage = built.processor.image_size, recipe.stages[number]
    encode = run.build_features(recipe, built, np.zeros((len(batch.images), side, side, 3), np.uint8)).encode

    def get_features(images: np.ndarray) -> ImageFeatures:
        if run.trains_vision(recipe):
            embeds = encode(images)
        else:
            dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
            embeds = torch.empty(len(images), *feature_shape(built), dtype=dtype)
        return ImageFeatures(embeds, built.model.query_images(embeds))

    # Costly losses take the languages in turn: count the step of the language with the most tokens.
    sizes = [captions.input_ids.numel() for captions in batch.captions.values()]
    forward_backward(
        built.model, built.alignment, batch, get_features, weights=run.loss_weights(stage),
        langs=[str(lang) for lang in range(max(1, len(sizes)))],
        step=sizes.index(max(sizes)) if sizes else 0, precision=recipe.precision, images_at_once=None,
    )  # fmt: skip


def _storage_bytes(saved: Mapping[int, Tensor], selected: Iterable[int]) -> int:
    return sum(saved[storage].untyped_storage().nbytes() for storage in selected)


class _DryRunMode(TorchDispatchMode):
    """Let a step that looks at values run on fake tensors, and record bfloat16 copies of weights.

    The batch and all masks are real: an operation on real tensors alone is computed, so that the step can
    count its tokens. Every other result is fake, and the value of a fake loss is 0.
    """

    def __init__(self, weights: list[nn.Parameter]) -> None:
        super().__init__()
        self.casts: list[Tensor] = []
        self._weights = {_storage(weight) for weight in weights}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if tensors and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0.0
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], [_positions(index) for index in args[1]])
        result = func(*args, **kwargs)
        if func is torch.ops.aten._to_copy.default and _storage(args[0]) in self._weights:
            self.casts.append(result)
        return result


def _positions(index: Tensor | None) -> Tensor | None:
    """Replace a real mask over one dimension by the positions it selects: fake tensors cannot count them."""
    if index is None or isinstance(index, FakeTensor) or index.dtype != torch.bool or index.ndim != 1:
        return index
    with unset_fake_temporarily():
        return index.nonzero()[:, 0]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _to_fake(*networks: nn.Module) -> None:
    """Replace every meta tensor by a fake one; shared tensors stay shared."""
    replacements: dict[int, Tensor] = {}

    def fake(old: Tensor) -> Tensor:
        if id(old) not in replacements:
            new = torch.empty(old.shape, dtype=old.dtype)
            is_parameter = isinstance(old, nn.Parameter)
            replacements[id(old)] = nn.Parameter(new, old.requires_grad) if is_parameter else new
        return replacements[id(old)]

    for module in itertools.chain(*(network.modules() for network in networks)):
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = fake(tensor)  # type: ignore[assignment]


def _state_by_parameter(optimizer: Optimizer) -> dict[int, int]:
    """Return id(parameter) -> bytes of its optimizer state."""
    sizes, start = {}, 0
    for part in optimizer.state_dict():
        for number, state in part["state"].items():
            sizes[id(optimizer.parameters[start + number])] = _bytes(state.values())
        start += sum(len(group["params"]) for group in part["param_groups"])
    return sizes


def _bytes(values: Iterable[Any]) -> int:
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, Tensor))

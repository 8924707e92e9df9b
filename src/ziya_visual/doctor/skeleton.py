"""Models without weights: the real architecture on the meta device, which takes no memory at any size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Blip2Config,
    Blip2VisionConfig,
    Blip2VisionModel,
)

from ziya_visual.core.errors import CheckpointError, ConfigError
from ziya_visual.core.recipe import Recipe
from ziya_visual.model.alignment import Alignment
from ziya_visual.model.build.compose import compose, set_image_size
from ziya_visual.model.build.layouts import ALIGNMENT
from ziya_visual.model.network import ZiyaVisualModel
from ziya_visual.model.processor import (
    ZiyaProcessor,
    add_chat_template,
    add_image_token,
    open_qformer_tokenizer,
)
from ziya_visual.train.run import keeps_bfloat16

OWNERS = {
    "vision_model": "vision",
    "qformer": "qformer",
    "query_tokens": "query_tokens",
    "language_projection": "projection",
    "language_model": "language_model",
}


@dataclass(frozen=True, slots=True)
class Skeleton:
    """What training would open, its parameters on the meta device."""

    model: ZiyaVisualModel
    alignment: Alignment
    processor: ZiyaProcessor


def skeleton(recipe: Recipe) -> Skeleton:
    """The network of a recipe, from its checkpoint's configuration or composed of its parts'.

    Raises:
        ConfigError: the recipe names neither a checkpoint nor the parts of one.
        CheckpointError: a configuration or a tokenizer cannot be read, or the parts do not fit together.
    """
    bones = _of_checkpoint(recipe) if recipe.model.checkpoint is not None else _of_parts(recipe)
    if recipe.model.image_size is not None:
        set_image_size(bones.model, recipe.model.image_size)
        bones.processor.image_size = recipe.model.image_size
    return bones


def _of_parts(recipe: Recipe) -> Skeleton:
    spec = recipe.model
    if spec.vision is None or spec.language_model is None:
        raise ConfigError("model: give a checkpoint, or both vision and language_model")
    try:
        vision_config = Blip2VisionConfig.from_pretrained(spec.vision)
        text_config = AutoConfig.from_pretrained(spec.language_model)
        tokenizer = AutoTokenizer.from_pretrained(spec.language_model)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"model: cannot be read ({' '.join(str(error).split())[:160]})") from error
    bridge = recipe.model.bridge.model_dump()
    queries, projection_size = bridge.pop("num_query_tokens"), bridge.pop("projection_size")
    with torch.device("meta"):
        model, alignment = compose(
            vision=Blip2VisionModel(vision_config),
            language_model=AutoModelForCausalLM.from_config(text_config),
            tokenizer=tokenizer,
            qformer={**bridge, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
            num_query_tokens=queries,
            projection_size=projection_size,
            seed=recipe.seed,
        )
    side = vision_config.image_size
    return Skeleton(model, alignment, ZiyaProcessor(tokenizer, image_size=side, num_query_tokens=queries))


def _of_checkpoint(recipe: Recipe) -> Skeleton:
    folder = recipe.model.checkpoint
    assert folder is not None
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json there; give the folder of a checkpoint")
    try:
        config = Blip2Config.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot be read ({' '.join(str(error).split())[:160]})") from error
    qformer = config.qformer_config
    qformer.attention_probs_dropout_prob = 0.0  # as training opens it
    if not (folder / ALIGNMENT).is_file():
        qformer.vocab_size, qformer.pad_token_id = len(tokenizer), None
    with torch.device("meta"):
        model = ZiyaVisualModel._from_config(config)
        alignment = Alignment(qformer, projection_size=config.image_text_hidden_size)
    model.float()
    if keeps_bfloat16(recipe):
        model.language_model.to(torch.bfloat16)
    alignment.qformer_tokenizer = open_qformer_tokenizer(folder)
    add_image_token(tokenizer)
    add_chat_template(tokenizer)
    side, queries = config.vision_config.image_size, config.num_query_tokens
    return Skeleton(model, alignment, ZiyaProcessor(tokenizer, image_size=side, num_query_tokens=queries))


def part_of(name: str) -> str:
    """The part that a parameter of a BLIP-2 kind of model belongs to."""
    return "lora" if "lora_" in name else OWNERS.get(name.split(".")[0], "other")


def by_part(model: nn.Module, alignment: nn.Module | None) -> dict[str, list[nn.Parameter]]:
    """All parameters by part; weights that two layers share are there once."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        found.setdefault(part_of(name), []).append(parameter)
    if alignment is not None:
        found["alignment"] = list(alignment.parameters())
    return found


def count(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers."""
    return sum(parameter.numel() for parameter in parameters)

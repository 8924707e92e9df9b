"""Tiny random checkpoints of every architecture of language model that the tests are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    Blip2VisionConfig,
    Blip2VisionModel,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.model.build.compose import compose
from ziya_visual.model.checkpoint import save_checkpoint
from ziya_visual.model.network import Alignment, ZiyaVisualModel
from ziya_visual.model.packed.attention import INFERENCE
from ziya_visual.model.processor import ZiyaProcessor
from ziya_visual.train.pretrain.language_model import corpus_texts, train_tokenizer

SIDE, QUERIES = 16, 4
_SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
LANGUAGE_MODELS: dict[str, Any] = {
    "llama": lambda v: LlamaConfig(vocab_size=v, intermediate_size=64, tie_word_embeddings=True, **_SIZES),
    "opt": lambda v: OPTConfig(
        vocab_size=v, ffn_dim=64, word_embed_proj_dim=48, dropout=0.0, pad_token_id=0, **_SIZES
    ),
    "qwen2": lambda v: Qwen2Config(vocab_size=v, intermediate_size=64, num_key_value_heads=2, **_SIZES),
    "gpt_neox": lambda v: GPTNeoXConfig(vocab_size=v, intermediate_size=64, **_SIZES),
    "gpt2": lambda v: GPT2Config(vocab_size=v, n_embd=48, n_layer=3, n_head=4, embd_pdrop=0, attn_pdrop=0),
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Train a small real tokenizer."""
    return train_tokenizer(corpus_texts(np.random.default_rng(0), 30))


def tiny(
    architecture: str = "llama",
    tokenizer: Any = None,
    *,
    vision: Mapping[str, Any] | None = None,
    language_model: Mapping[str, Any] | None = None,
    qformer: Mapping[str, Any] | None = None,
    attention: str | None = None,
    image_position: str = "first",
) -> tuple[ZiyaVisualModel, Alignment, ZiyaProcessor]:
    """Build a whole model in evaluation mode with no weight at its initial value."""
    tokenizer = tokenizer or tiny_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    seen = {"num_hidden_layers": 3, "image_size": SIDE, "patch_size": 8, "initializer_range": 0.02}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    bridge = {"num_hidden_layers": 2, "cross_attention_frequency": 1, **no_dropout}
    text = LANGUAGE_MODELS[architecture](len(tokenizer))
    text.update(language_model or {})
    model, alignment = compose(
        vision=Blip2VisionModel(Blip2VisionConfig(**{**sizes, **seen, **(vision or {})})),
        language_model=AutoModelForCausalLM.from_config(text, attn_implementation=attention),
        tokenizer=tokenizer,
        qformer={**sizes, **bridge, **(qformer or {})},
        num_query_tokens=QUERIES,
        projection_size=16,
        seed=0,
    )
    with torch.no_grad():
        for parameter in [*model.parameters(), *alignment.parameters()]:
            parameter.add_(0.02 * torch.randn_like(parameter))
    processor = ZiyaProcessor(
        tokenizer, image_size=SIDE, num_query_tokens=QUERIES, image_position=image_position
    )
    return model.eval(), alignment.eval(), processor


def talking(context: int = 512) -> ZiyaVisual:
    """Build a model whose answers are long and all different, because its weights are large."""
    return ZiyaVisual(
        *tiny(
            vision={"num_hidden_layers": 1},
            language_model={
                "num_hidden_layers": 2,
                "max_position_embeddings": context,
                "initializer_range": 0.3,
            },
            attention=INFERENCE,
        )
    )


def seeing(tokenizer: Any, image_position: str = "first") -> ZiyaVisual:
    """Build a model whose answers depend on the image."""
    model, alignment, processor = tiny(
        tokenizer=tokenizer,
        vision={"num_hidden_layers": 2, "initializer_range": 0.2},
        language_model={
            "num_hidden_layers": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.2,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        qformer={"initializer_range": 0.5},
        image_position=image_position,
    )
    with torch.no_grad():
        model.language_projection.weight.normal_()
    return ZiyaVisual(model, alignment, processor)


def write_base_and_pictures(folder: Path, colors: Sequence[str]) -> None:
    """Write ``folder/base``, a tiny checkpoint, and ``folder/pictures``, one captioned image per colour."""
    model, alignment, processor = tiny()
    save_checkpoint(folder / "base", model=model, alignment=alignment, processor=processor)
    (folder / "pictures").mkdir()
    rows = ["image,lang,text"]
    for color in colors:
        Image.new("RGB", (16, 16), color).save(folder / "pictures" / f"{color}.png")
        rows.append(f"{color}.png,en,a {color} picture")
    (folder / "pictures" / "captions.csv").write_text("\n".join(rows) + "\n")


def logits(model: Any, processor: ZiyaProcessor) -> torch.Tensor:
    """Return the logits for one image and a line of text in both languages."""
    ids = torch.tensor([processor.chat.prefix_ids(QUERIES) + processor.chat.text_ids("红色 circle")])
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids)).logits

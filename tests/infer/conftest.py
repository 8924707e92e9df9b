"""A tiny vision-language model whose answers depend on what it sees."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Blip2VisionConfig, Blip2VisionModel, LlamaConfig, LlamaForCausalLM

from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.model.compose import compose
from ziya_visual.model.processor import ZiyaProcessor
from ziya_visual.train.pretrain_lm import corpus_texts, train_tokenizer

SIDE, QUERIES = 16, 4


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return train_tokenizer(corpus_texts(np.random.default_rng(0), 30))


@pytest.fixture(scope="session")
def make_model() -> Callable[..., ZiyaVisual]:
    def make(tokenizer: Any, position: str = "first") -> ZiyaVisual:
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
        vision = Blip2VisionConfig(
            **sizes, num_hidden_layers=2, image_size=SIDE, patch_size=8, initializer_range=0.2
        )
        llama = LlamaConfig(
            **sizes,
            num_hidden_layers=2,
            vocab_size=len(tokenizer),
            max_position_embeddings=512,
            initializer_range=0.2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model, alignment = compose(
            vision=Blip2VisionModel(vision),
            language_model=LlamaForCausalLM(llama),
            tokenizer=tokenizer,
            qformer={
                **sizes,
                "num_hidden_layers": 2,
                "cross_attention_frequency": 1,
                "initializer_range": 0.5,
            },
            num_query_tokens=QUERIES,
            projection_size=16,
            seed=0,
        )
        with torch.no_grad():
            model.language_projection.weight.normal_()
        processor = ZiyaProcessor(
            tokenizer, image_size=SIDE, num_query_tokens=QUERIES, image_position=position
        )
        return ZiyaVisual(model, alignment, processor)

    return make


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Of several sizes: the processor makes squares of them."""
    rng = np.random.default_rng(0)
    sizes = [(16, 16), (40, 23), (9, 31)]
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8).repeat(4, 0))
        for width, height in sizes
    ]

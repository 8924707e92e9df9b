"""A folder for stock ``Blip2ForImageTextRetrieval``, with equal scores.

Legend: N pictures, M texts, Dp width of the contrastive space.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import Blip2ForImageTextRetrieval, Blip2Processor

from ziya_visual.data.text_batch import edges, text_batch
from ziya_visual.model.alignment import Alignment
from ziya_visual.model.network import ZiyaVisualModel
from ziya_visual.model.processor import ZiyaProcessor
from ziya_visual.model.publish.parity import PROMPTS

OURS_ALONE = ("lm_bias", "logit_scale")  # grounded generation and temperature: stock has neither
TEXTS = [text for texts in PROMPTS.values() for text in texts]


def write_retrieval(
    folder: Path, *, model: ZiyaVisualModel, alignment: Alignment, processor: ZiyaProcessor
) -> None:
    """Write network, tokenizer and image settings into an existing folder.

    The stock processor puts ``num_query_tokens`` placeholders before a text, which the stock network takes
    off again.
    """
    config = copy.deepcopy(model.config)
    config.qformer_config.use_qformer_text_input = True
    with torch.device("meta"):
        stock = Blip2ForImageTextRetrieval._from_config(config)
    state = {name: tensor for name, tensor in model.state_dict().items() if name in stock.state_dict()}
    for name, tensor in alignment.state_dict().items():
        if name not in OURS_ALONE:
            state[name.replace("feed_forwards.", "qformer.encoder.layer.")] = tensor
    stock.load_state_dict(state, strict=True, assign=True)
    stock.save_pretrained(folder)
    _stock_processor(model, processor, alignment.qformer_tokenizer).save_pretrained(folder)


def _stock_processor(model: ZiyaVisualModel, processor: ZiyaProcessor, own: Any | None) -> Blip2Processor:
    """One whose tokenizer frames a text as :func:`text_batch` does; ``own`` is the Q-Former's, if any."""
    tokenizer = copy.deepcopy(processor.tokenizer if own is None else own)
    edge_ids = edges(processor.chat, own)
    head, tail = (tokenizer.convert_ids_to_tokens(ids) for ids in edge_ids)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*head, "$A", *tail],
        special_tokens=list(zip([*head, *tail], itertools.chain(*edge_ids), strict=True)),
    )
    tokenizer.padding_side = "right"  # the first position is the text's vector
    tokenizer.model_max_length = model.config.qformer_config.max_position_embeddings
    return Blip2Processor(processor.image_processor, tokenizer, num_query_tokens=processor.num_query_tokens)


@torch.inference_mode()
def our_scores(
    model: ZiyaVisualModel,
    alignment: Alignment,
    processor: ZiyaProcessor,
    images: Sequence[Image.Image],
    texts: Sequence[str],
) -> tuple[Tensor, Tensor]:
    """Contrastive float32[N, M], the best query's cosine; matching float32[N, 2], picture i with text i.

    There must be at least as many texts as pictures.
    """
    limit = model.config.qformer_config.max_position_embeddings
    arrays = text_batch(texts, limit=limit, chat=processor.chat, own=alignment.qformer_tokenizer)
    ids, mask = map(torch.from_numpy, arrays)
    embeds = model.encode_images(processor.pixels(images))
    features = alignment.image_features(model.query_images(embeds))
    similarity = (features @ alignment.text_features(model, ids, mask).T).amax(1)
    pairs = len(images)
    return similarity, alignment.matching_logits(model, embeds, ids[:pairs], mask[:pairs])


@torch.inference_mode()
def stock_scores(
    stock: Any, processor: Any, images: Sequence[Image.Image], texts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """The same by the stock class and the stock processor."""
    inputs = processor(images=list(images), text=list(texts), padding=True, return_tensors="pt")
    similarity = stock(**inputs).logits_per_image
    pairs = {name: tensor[: len(images)] for name, tensor in inputs.items()}
    return similarity, stock(**pairs, use_image_text_matching_head=True).logits_per_image

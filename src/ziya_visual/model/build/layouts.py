"""Checkpoint layouts that hold a ViT and a Q-Former, and the translation of their names into ours.

BLIP-2 and InstructBLIP share one ViT and, except for names, one Q-Former. The Q-Former's text side (token
embeddings and text feed-forwards) is inside the Q-Former in InstructBLIP, beside it in stock retrieval, and
in our alignment file. The published Ziya layout is BLIP-2's without a language model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import Blip2Config, InstructBlipConfig

from ziya_visual.core.errors import CheckpointError, DataError, one_line
from ziya_visual.core.files import read_json
from ziya_visual.model.build.weights import Weights, open_file, open_weights
from ziya_visual.model.processor import CHAT_KEYS, open_qformer_tokenizer, open_tokenizer

ALIGNMENT = "alignment.safetensors"
LANGUAGE_MODEL = "language_model."
CONFIGS: dict[str, Any] = {"blip-2": Blip2Config, "instructblip": InstructBlipConfig}
BRIDGE_PARTS = ("vision_model.", "qformer.", "query_tokens", "language_projection.")
# In stock Blip2ForImageTextRetrieval; the alignment uses the same names.
RETRIEVAL_PARTS = ("embeddings.", "vision_projection.", "text_projection.", "itm_head.")

# InstructBLIP's names in the Q-Former -> ours; names with the prefix ``text:`` belong to the alignment.
TEXT = "text:"
_FROM_INSTRUCT = (
    (re.compile(r"^qformer\.embeddings\.layernorm\."), "qformer.layernorm."),
    (re.compile(r"^qformer\.embeddings\."), "text:embeddings."),
    (re.compile(r"^qformer\.encoder\.layer\.(\d+)\.(intermediate|output)\."), r"text:feed_forwards.\1.\2."),
)
_TO_INSTRUCT = (
    (re.compile(r"^qformer\.layernorm\."), "qformer.embeddings.layernorm."),
    (re.compile(r"^embeddings\."), "qformer.embeddings."),
    (re.compile(r"^feed_forwards\.(\d+)\."), r"qformer.encoder.layer.\1."),
)


@dataclass(frozen=True, slots=True)
class Bridge:
    """The network between images and a language model, in whatever layout it was saved."""

    vision: dict[str, Any]  # keywords of Blip2VisionConfig
    qformer: dict[str, Any]  # keywords of Blip2QFormerConfig
    num_query_tokens: int
    projection_size: int  # width of the contrastive space
    weights: Weights  # ViT, Q-Former, queries and the projection, if there is one, under BLIP-2's names
    source: Path  # for messages
    text: Weights = field(default_factory=dict)  # the Q-Former's text side under the alignment's names
    text_tokenizer: Any = None
    chat_names: dict[str, str] | None = None  # the speakers' names in the published Ziya layout


def read_config(folder: Path) -> Any:
    """Read the configuration of a BLIP-2 or InstructBLIP folder."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no checkpoint there, config.json not found")
    try:
        kind = read_json(path).get("model_type")
        if kind not in CONFIGS:
            raise CheckpointError(f"{path}: model_type is {kind!r}, expected {' or '.join(CONFIGS)}")
        return CONFIGS[kind].from_pretrained(folder)
    except (DataError, StrictDataclassError, OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({one_line(error)})") from error


def read_bridge(folder: Path) -> Bridge:
    """Read the ViT and the Q-Former of a folder in any layout, without its language model."""
    config = read_config(folder)
    weights, text = _split_parts(open_weights(folder))
    if (folder / ALIGNMENT).is_file():
        text = open_file(folder / ALIGNMENT)
    tokenizer = None
    if text:
        tokenizer = open_qformer_tokenizer(folder) or open_tokenizer(folder)
        words = text["embeddings.word_embeddings.weight"]
        if len(tokenizer) > words.shape[0]:
            raise words.mismatch(f"of {words.shape[0]} rows", f"{len(tokenizer)}, one for each token")
    names = {key: getattr(config, key, None) for key in CHAT_KEYS}
    return Bridge(
        vision=_keywords(config.vision_config),
        qformer={**_keywords(config.qformer_config), "use_qformer_text_input": False},
        num_query_tokens=config.num_query_tokens,
        projection_size=getattr(config, "image_text_hidden_size", Blip2Config().image_text_hidden_size),
        weights=weights,
        source=folder,
        text=text,
        text_tokenizer=tokenizer,
        chat_names=None if None in names.values() else {key: str(name) for key, name in names.items()},
    )


def _keywords(config: Any) -> dict[str, Any]:
    """Return a part's settings without its dtype and class name, which differ between the layouts."""
    return {name: value for name, value in config.to_dict().items() if name not in ("model_type", "dtype")}


def _split_parts(entries: Weights) -> tuple[Weights, Weights]:
    """Return ViT and Q-Former under BLIP-2's names, and the text side under the alignment's names."""
    weights: Weights = {}
    text: Weights = {}
    for key, entry in entries.items():
        name = _rename(key, _FROM_INSTRUCT)
        if name.startswith(TEXT):
            text[name.removeprefix(TEXT)] = entry
        elif name.startswith(BRIDGE_PARTS):
            weights[name] = entry
        elif name.startswith(RETRIEVAL_PARTS):
            text[name] = entry
        elif not name.startswith(LANGUAGE_MODEL):
            expected = ", ".join((*BRIDGE_PARTS, LANGUAGE_MODEL))
            raise CheckpointError(f"{entry.file}: {key} belongs to no part; expected names in {expected}")
    return weights, text


def instruct_names(weights: Weights) -> Weights:
    """Rename weights under our names, the alignment's text side included, to InstructBLIP's names."""
    return {_rename(key, _TO_INSTRUCT): entry for key, entry in weights.items()}


def _rename(key: str, table: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    for pattern, name in table:
        if pattern.search(key):
            return pattern.sub(name, key)
    return key

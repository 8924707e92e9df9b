"""The layouts that a vision part and a Q-Former come in, and their names in ours.

BLIP-2 and InstructBLIP have one ViT and, but for names, one Q-Former: InstructBLIP keeps the text side (token
embeddings and the text's feed-forwards) inside, stock retrieval beside, and we in the alignment file. The
published Ziya layout is BLIP-2's without a language model.
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
# Of stock Blip2ForImageTextRetrieval; the alignment calls them the same.
RETRIEVAL_PARTS = ("embeddings.", "vision_projection.", "text_projection.", "itm_head.")

# InstructBLIP's name of a part of the Q-Former -> ours; what begins with ``text:`` is the alignment's.
_RENAMED = (
    (re.compile(r"^qformer\.embeddings\.layernorm\."), "qformer.layernorm."),
    (re.compile(r"^qformer\.embeddings\."), "text:embeddings."),
    (re.compile(r"^qformer\.encoder\.layer\.(\d+)\.(intermediate|output)\."), r"text:feed_forwards.\1.\2."),
)
_BACK = (
    (re.compile(r"^qformer\.layernorm\."), "qformer.embeddings.layernorm."),
    (re.compile(r"^embeddings\."), "qformer.embeddings."),
    (re.compile(r"^feed_forwards\.(\d+)\."), r"qformer.encoder.layer.\1."),
)
TEXT = "text:"


@dataclass(frozen=True, slots=True)
class Bridge:
    """What stands between pictures and a language model, wherever it comes from.

    Attributes:
        vision: keywords of ``Blip2VisionConfig``.
        qformer: keywords of ``Blip2QFormerConfig``.
        num_query_tokens: Q.
        projection_size: width of the contrastive space.
        weights: ViT, Q-Former, queries and, if there is one, projection, under BLIP-2's names.
        text: the Q-Former's text side under the alignment's names; empty where the source has none.
        text_tokenizer: of the text side, None where there is none.
        chat_names: the published Ziya layout's names of the speakers, None for others.
        source: what it was read from, for messages.
    """

    vision: dict[str, Any]
    qformer: dict[str, Any]
    num_query_tokens: int
    projection_size: int
    weights: Weights
    source: Path
    text: Weights = field(default_factory=dict)
    text_tokenizer: Any = None
    chat_names: dict[str, str] | None = None


def read_config(folder: Path) -> Any:
    """The configuration of a BLIP-2 or InstructBLIP folder.

    Raises:
        CheckpointError: it is absent, cannot be read, or is another model's.
    """
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
    """Vision part and Q-Former of a folder in any of the layouts; nothing of its language model.

    Raises:
        CheckpointError: it cannot be read, or holds weights of no layout that we know.
    """
    config = read_config(folder)
    weights, text = _sorted_out(folder, open_weights(folder))
    if (folder / ALIGNMENT).is_file():
        text = open_file(folder / ALIGNMENT)
    tokenizer = None
    if text:
        tokenizer = open_qformer_tokenizer(folder)
        if tokenizer is None:
            tokenizer = open_tokenizer(folder)
        words = text["embeddings.word_embeddings.weight"]
        if len(tokenizer) > words.shape[0]:
            raise words.refuse(f"of {words.shape[0]} rows", f"{len(tokenizer)}, one for each of its tokens")
    names = {key: getattr(config, key, None) for key in CHAT_KEYS}
    return Bridge(
        vision=_keywords(config.vision_config),
        qformer={**_keywords(config.qformer_config), "use_qformer_text_input": False},
        num_query_tokens=config.num_query_tokens,
        projection_size=getattr(config, "image_text_hidden_size", Blip2Config().image_text_hidden_size),
        weights=weights,
        text=text,
        text_tokenizer=tokenizer,
        chat_names=None if None in names.values() else {key: str(name) for key, name in names.items()},
        source=folder,
    )


def _keywords(config: Any) -> dict[str, Any]:
    """A part's settings without the name of its class, which differs between the layouts, and its dtype."""
    return {name: value for name, value in config.to_dict().items() if name not in ("model_type", "dtype")}


def _sorted_out(folder: Path, found: Weights) -> tuple[Weights, Weights]:
    """The Q-Former's weights, ViT and all, under BLIP-2's names; and its text side under the alignment's."""
    weights: Weights = {}
    text: Weights = {}
    for key, entry in found.items():
        name = _renamed(key, _RENAMED)
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
    """Weights under our names, the alignment's text side among them, as InstructBLIP calls them."""
    return {_renamed(key, _BACK): entry for key, entry in weights.items()}


def _renamed(key: str, table: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    for pattern, name in table:
        if pattern.search(key):
            return pattern.sub(name, key)
    return key

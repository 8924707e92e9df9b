"""Processors and tokenizers of checkpoint folders, whether we or stock transformers wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import AutoProcessor, AutoTokenizer, Blip2Config

from ziya_visual.core.errors import CheckpointError, one_line
from ziya_visual.core.files import read_json
from ziya_visual.data.chat.chat_format import IMAGE, ziya_chat_template
from ziya_visual.data.chat.processing_ziya_visual import ZiyaProcessor, normalise

__all__ = ["ZiyaProcessor", "load_processor", "normalise"]

SETTINGS = "processor_config.json"
QFORMER_TOKENIZER = "qformer_tokenizer"  # a subfolder, as stock InstructBlipProcessor names it
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
# In the published Ziya checkpoint's config.json.
CHAT_KEYS = ("human_name", "assistant_name", "prompt_prefix")


class _RegisteredConfig(Blip2Config):  # type: ignore[misc]
    """The config class under which ``AutoProcessor`` finds our processor.

    Registered under ``Blip2Config`` itself, our processor would replace stock's for all BLIP-2 checkpoints.
    """

    model_type = "ziya-visual"


AutoProcessor.register(_RegisteredConfig, ZiyaProcessor)


def open_tokenizer(folder: Path, config: Any = None) -> Any:
    """Open a folder's fast tokenizer; ``config`` is the folder's, if it has been read already."""
    _require_vocabulary(folder)
    try:
        return AutoTokenizer.from_pretrained(folder, config=config)
    except Exception as error:  # tokenizers raises a plain Exception for a damaged file
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({one_line(error)})") from error


def _require_vocabulary(folder: Path) -> None:
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise CheckpointError(f"{folder}: no tokenizer there; expected one of {', '.join(VOCABULARIES)}")


def open_qformer_tokenizer(folder: Path) -> Any | None:
    """Open the tokenizer of a checkpoint's Q-Former; None if it shares the language model's."""
    subfolder = folder / QFORMER_TOKENIZER
    return open_tokenizer(subfolder) if subfolder.is_dir() else None


def add_image_token(tokenizer: Any) -> None:
    """Add ``<image>`` as a special token, if it is not one yet."""
    tokenizer.add_tokens([AddedToken(IMAGE, normalized=False, special=True)], special_tokens=True)


def add_chat_template(tokenizer: Any, names: dict[str, str] | None = None) -> None:
    """Set Ziya's chat template, with ``names`` by :data:`CHAT_KEYS`, on a tokenizer that has none."""
    if tokenizer.chat_template is None:
        tokenizer.chat_template = ziya_chat_template(**names or {})


def load_processor(folder: Path, config: Any) -> ZiyaProcessor:
    """Open the processor of a checkpoint folder; one that stock wrote is built from ``config``.

    A tokenizer without ``<image>`` gets it, as in stock processors, and one without a chat template gets
    Ziya's. The settings must fit the network.
    """
    expected = (config.vision_config.image_size, config.num_query_tokens)
    path = folder / SETTINGS
    if path.is_file() and read_json(path).get("processor_class") == ZiyaProcessor.__name__:
        _require_vocabulary(folder)
        try:
            processor = ZiyaProcessor.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder}: the processor cannot be read ({one_line(error)})") from error
    else:
        tokenizer = open_tokenizer(folder, config)
        add_image_token(tokenizer)
        add_chat_template(tokenizer)
        processor = ZiyaProcessor(tokenizer, image_size=expected[0], num_query_tokens=expected[1])
    actual = (processor.image_size, processor.num_query_tokens)
    if actual != expected:
        raise CheckpointError(
            f"{path}: image size and num_query_tokens are {actual}, config.json has {expected}"
        )
    if processor.image_token_id != config.image_token_index:
        raise CheckpointError(
            f"{folder / 'config.json'}: image_token_index is {config.image_token_index}, but {IMAGE} is "
            f"{processor.image_token_id} in the tokenizer; compose the checkpoint again with `init`"
        )
    return processor

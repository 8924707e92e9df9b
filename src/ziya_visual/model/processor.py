"""The processor inside this package: known to ``AutoProcessor``, and opened from checkpoints of any age."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoProcessor, Blip2Config

from ziya_visual.core.errors import CheckpointError, one_line
from ziya_visual.core.files import read_json
from ziya_visual.data.chat.chat_format import IMAGE
from ziya_visual.data.chat.processing_ziya_visual import ZiyaProcessor, normalise
from ziya_visual.model.tokenizers import (
    add_chat_template,
    add_image_token,
    open_tokenizer,
    require_vocabulary,
)

__all__ = ["ZiyaProcessor", "load_processor", "normalise"]

SETTINGS = "processor_config.json"


class _RegisteredConfig(Blip2Config):  # type: ignore[misc]
    """A key of ours: ``AutoProcessor`` finds processors by name among those registered for a config.

    Under ``Blip2Config`` itself our processor would take the place of stock's for all BLIP-2 checkpoints.
    """

    model_type = "ziya-visual"


AutoProcessor.register(_RegisteredConfig, ZiyaProcessor)


def load_processor(folder: Path, config: Any) -> ZiyaProcessor:
    """The processor of a checkpoint folder; one that stock wrote gets what ``config`` says.

    A tokenizer without ``<image>`` gets it, as stock processors add it while they open, and one without a
    chat template Ziya's.

    Raises:
        CheckpointError: tokenizer or settings cannot be read or do not fit the network, or see
            :class:`ZiyaProcessor`.
    """
    wanted = (config.vision_config.image_size, config.num_query_tokens)
    path = folder / SETTINGS
    ours = path.is_file() and read_json(path).get("processor_class") == ZiyaProcessor.__name__
    if ours:
        require_vocabulary(folder)
        try:
            processor = ZiyaProcessor.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{folder}: the processor cannot be read ({one_line(error, 160)})"
            ) from error
    else:
        tokenizer = open_tokenizer(folder, config)
        add_image_token(tokenizer)
        add_chat_template(tokenizer)
        processor = ZiyaProcessor(tokenizer, image_size=wanted[0], num_query_tokens=wanted[1])
    found = (processor.image_size, processor.num_query_tokens)
    if found != wanted:
        raise CheckpointError(
            f"{path}: image size and num_query_tokens are {found}, config.json has {wanted}"
        )
    if processor.image_token_id != config.image_token_index:
        raise CheckpointError(
            f"{folder / 'config.json'}: image_token_index is {config.image_token_index}, but {IMAGE} is "
            f"{processor.image_token_id} in the tokenizer; compose the checkpoint anew with `init`"
        )
    return processor

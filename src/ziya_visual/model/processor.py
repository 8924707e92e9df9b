"""The processor inside this package: known to ``AutoProcessor``, and opened from checkpoints of any age."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoProcessor, AutoTokenizer, Blip2Config

from ziya_visual.core.errors import CheckpointError
from ziya_visual.data.processing_ziya_visual import MEAN, STD, ZiyaProcessor, normalise

__all__ = ["MEAN", "STD", "ZiyaProcessor", "load_processor", "normalise"]

SETTINGS = "processor_config.json"


class _RegisteredConfig(Blip2Config):  # type: ignore[misc]
    """A key of ours: ``AutoProcessor`` finds processors by name among those registered for a config.

    Under ``Blip2Config`` itself our processor would take the place of stock's for all BLIP-2 checkpoints.
    """

    model_type = "ziya-visual"


AutoProcessor.register(_RegisteredConfig, ZiyaProcessor)


def load_processor(folder: Path, config: Blip2Config) -> ZiyaProcessor:
    """The processor of a checkpoint folder; one without ``processor_config.json`` gets what its config says.

    Raises:
        CheckpointError: the settings do not fit the network, or see :class:`ZiyaProcessor`.
    """
    wanted = (config.vision_config.image_size, config.num_query_tokens)
    if not (folder / SETTINGS).is_file():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return ZiyaProcessor(tokenizer, image_size=wanted[0], num_query_tokens=wanted[1])
    processor = ZiyaProcessor.from_pretrained(folder)
    found = (processor.image_size, processor.num_query_tokens)
    if found != wanted:
        raise CheckpointError(
            f"{folder / SETTINGS}: image size and num_query_tokens are {found}, config.json has {wanted}"
        )
    return processor

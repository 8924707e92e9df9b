"""Open whatever a folder holds: a vision-language checkpoint or a plain language model."""

from __future__ import annotations

from pathlib import Path

from ziya_visual.core.errors import CheckpointError
from ziya_visual.core.files import read_json
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.infer.quantized import Dtype
from ziya_visual.infer.text_model import TextModel
from ziya_visual.model.build.layouts import CONFIGS
from ziya_visual.model.lora import ADAPTER_FILE


def open_model(folder: Path, *, dtype: Dtype = "auto") -> TextModel:
    """The model in a folder, by its files; ``dtype`` as of :meth:`ZiyaVisual.from_pretrained`.

    Raises:
        CheckpointError: it is neither.
    """
    if (folder / ADAPTER_FILE).is_file():
        return ZiyaVisual.from_pretrained(folder, dtype=dtype)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json there; expected a checkpoint folder")
    if read_json(folder / "config.json").get("model_type") in CONFIGS:
        return ZiyaVisual.from_pretrained(folder, dtype=dtype)
    return TextModel.from_pretrained(folder, dtype=dtype)

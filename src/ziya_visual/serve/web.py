"""A plain web page: a picture, a dialogue, English and Chinese labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio
from PIL import Image

from ziya_visual.core.records import Message
from ziya_visual.infer.engine import ZiyaVisual


def build_page(model: ZiyaVisual) -> gradio.Blocks:
    """The page over a model."""

    def answer(question: str, history: list[dict[str, Any]], picture: Image.Image | None) -> Any:
        turns = [Message(turn["role"], _text(turn["content"])) for turn in history]
        said = ""
        for piece in model.stream(picture, [*turns, Message("user", question)]):
            said += piece
            yield said

    page: gradio.Blocks
    with gradio.Blocks(title="Ziya-Visual") as page:
        gradio.Markdown("# Ziya-Visual\nAsk about a picture in English or Chinese · 用中文或英文询问图片")
        with gradio.Row():
            picture = gradio.Image(type="pil", label="Picture · 图片")
            gradio.ChatInterface(answer, additional_inputs=[picture], additional_inputs_accordion=None)
    return page


def _text(content: Any) -> str:
    """A turn's text in either of gradio's forms."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if isinstance(part, dict))


def web(checkpoint: Path, *, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Open the page until interrupted; ``CheckpointError`` where the checkpoint cannot be opened."""
    build_page(ZiyaVisual.from_pretrained(checkpoint)).launch(server_name=host, server_port=port, share=False)

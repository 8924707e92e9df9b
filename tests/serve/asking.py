"""Pictures and questions as callers send them."""

import base64
import io
from typing import Any

from PIL import Image

HEADERS = {"Authorization": "Bearer sesame"}
JSON = {"Content-Type": "application/json"}


def uri(color: str = "red", kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), color).save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def about(picture: str, question: str) -> list[Any]:
    parts = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": parts}]

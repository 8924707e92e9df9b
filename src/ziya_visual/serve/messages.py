"""OpenAI's chat messages -> our turns and pictures; pictures come as ``data:`` URIs only."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from PIL import Image

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import ROLES
from ziya_visual.data.chat_format import Turn
from ziya_visual.data.images import load_image


def read_messages(value: Any) -> tuple[list[Turn], list[Image.Image]]:
    """The turns, and the pictures in the order they are shown.

    Raises:
        DataError: no list of messages, an unknown role or part, an empty question, a remote or broken
            picture.
    """
    if not isinstance(value, list) or not value:
        raise DataError("'messages' must be a list of at least one message")
    turns, pictures = [], []
    for number, message in enumerate(value):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            raise DataError(f"messages.{number}: role must be one of {', '.join(ROLES)}")
        turn, seen = _turn(role, message.get("content"), f"messages.{number}")
        turns.append(turn)
        pictures += seen
    if turns[-1].role != "user" or not turns[-1].content.strip():
        raise DataError("the last message must be a user's and not empty")
    return turns, pictures


def _turn(role: str, content: Any, where: str) -> tuple[Turn, list[Image.Image]]:
    """Texts of one turn are lines; a picture stands behind the texts before it."""
    if isinstance(content, str):
        return Turn(role, content), []
    if not isinstance(content, list):
        raise DataError(f"{where}: content must be a string or a list of parts")
    text = ""
    places, pictures = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            text += f"\n{part['text']}" if text else part["text"]
        elif kind == "image_url":
            url = part.get("image_url")
            places.append(len(text))
            pictures.append(_picture(url.get("url") if isinstance(url, dict) else url, where))
        else:
            raise DataError(f"{where}: a part must be of type text or image_url")
    return Turn(role, text, tuple(places)), pictures


def _picture(url: Any, where: str) -> Image.Image:
    if not isinstance(url, str) or not url.startswith("data:"):
        raise DataError(f"{where}: pictures must be data: URIs; nothing is fetched from elsewhere")
    header, comma, payload = url.partition(",")
    if not comma or not header.endswith(";base64"):
        raise DataError(f"{where}: a data: URI of a picture must be base64")
    try:
        return load_image(base64.b64decode(payload, validate=True))
    except binascii.Error as error:
        raise DataError(f"{where}: the picture's base64 is broken ({error})") from error

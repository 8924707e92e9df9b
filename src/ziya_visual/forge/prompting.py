"""Prompts from Jinja files, and how the replies to them are read."""

from __future__ import annotations

import base64
import functools
import json
import mimetypes
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from ziya_visual.core.errors import ConfigError, DataError, nearest
from ziya_visual.core.files import hash_bytes, read_text
from ziya_visual.core.records import Example

FOLDER = Path(__file__).parent / "prompts"
MAX_IMAGE_BYTES = 20_000_000


@functools.cache
def table(name: str) -> dict[str, Any]:
    """Read one of the YAML files beside the prompts once."""
    loaded: dict[str, Any] = yaml.safe_load(read_text(FOLDER / f"{name}.yaml"))
    return loaded


def language_name(lang: str) -> str:
    """Return ``Chinese`` for ``zh`` and ``zh-CN``; a tag that ``languages.yaml`` lacks stays as it is."""
    return str(table("languages").get(lang.split("-")[0], lang))


@dataclass(frozen=True, slots=True)
class Prompt:
    """A template and the hash of its text, which goes into the provenance of what it made."""

    name: str
    hash: str
    template: jinja2.Template

    @property
    def plain(self) -> bool:
        """Return whether replies come as numbered lines rather than JSON."""
        return self.name.endswith("_plain")

    def render(self, values: Mapping[str, Any]) -> str:
        """Return the text to send; a name that the template needs and ``values`` lacks is an error."""
        try:
            return self.template.render(values).strip("\n")
        except jinja2.TemplateError as error:
            raise ConfigError(f"prompt {self.name!r}: {error}") from error


@functools.cache
def load_prompt(prompt: str) -> Prompt:
    """Load one of our prompts by name (``translate``, ``instruct`` ...), or a ``.jinja`` file by path."""
    path = Path(prompt) if prompt.endswith(".jinja") else FOLDER / f"{prompt}.jinja"
    if not path.is_file():
        raise ConfigError(f"no prompt {prompt!r}{nearest(prompt, (p.stem for p in FOLDER.glob('*.jinja')))}")
    text = read_text(path)
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=False, lstrip_blocks=True, autoescape=False
    )
    environment.filters["tojson_plain"] = json.JSONEncoder(ensure_ascii=False).encode
    try:
        template = environment.from_string(text)
        template.globals = dict(template.globals)  # a chain of maps, which each rendering would search anew
        return Prompt(path.stem, hash_bytes(text.encode()), template)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"{path}: line {error.lineno}: {error.message}") from error


def with_image(text: str, example: Example) -> list[dict[str, Any]]:
    """Return a message's content: the text and the image of a record, which must be a file."""
    if example.image is None or example.image.path is None:
        raise DataError(f"record {example.id!r} has no image path; a model that sees needs an image file")
    path = Path(example.image.path)
    kind = mimetypes.guess_type(path.name)[0] or ""
    if not path.is_file() or not kind.startswith("image/") or path.stat().st_size > MAX_IMAGE_BYTES:
        raise DataError(f"{path}: not an image of up to 20 MB; record {example.id!r} names it")
    url = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]


def read_numbered(reply: str, count: int) -> list[str] | None:
    r"""Return the lines of a plain reply (``1. ...``, ``2. ...``, or one line), or None if not ``count``.

    >>> read_numbered("1. 红色\n2. 两个", 2)
    ['红色', '两个']
    """
    lines = [line.strip() for line in reply.strip().split("\n")]
    if len(lines) != count:
        return None
    if count == 1:
        return lines
    matches = [re.fullmatch(rf"{number}\.\s+(.+)", line) for number, line in enumerate(lines, start=1)]
    return [match.group(1) for match in matches if match] if all(matches) else None


def read_json_reply(reply: str) -> dict[str, Any]:
    """Return the JSON object of a reply, in a code fence or between words; empty if there is none."""
    fenced = re.search(r"```(?:json)?\s*(.*?)```", reply, re.DOTALL)
    text = fenced.group(1) if fenced else reply
    start, end = text.find("{"), text.rfind("}")
    try:
        value = json.loads(text[start : end + 1])
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}

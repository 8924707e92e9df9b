"""Prompts from Jinja files, and how the replies to them are read."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from ziya_visual.core.errors import ConfigError, nearest
from ziya_visual.core.files import hash_bytes, read_text

FOLDER = Path(__file__).parent / "prompts"
_LANGUAGES = {
    "en": "English", "zh": "Chinese", "ja": "Japanese", "ko": "Korean", "fr": "French", "de": "German",
    "es": "Spanish", "pt": "Portuguese", "it": "Italian", "ru": "Russian", "uk": "Ukrainian", "ar": "Arabic",
    "hi": "Hindi", "th": "Thai", "vi": "Vietnamese", "tr": "Turkish", "pl": "Polish", "nl": "Dutch",
    "id": "Indonesian", "el": "Greek", "he": "Hebrew",
}  # fmt: skip


def language_name(lang: str) -> str:
    """``Chinese`` for ``zh`` and ``zh-CN``; a tag that we have no name for is used as it is."""
    return _LANGUAGES.get(lang.split("-")[0], lang)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A template and the hash of its text, which goes into the provenance of what it made."""

    name: str
    hash: str
    template: jinja2.Template

    @property
    def plain(self) -> bool:
        """Whether replies come as numbered lines; otherwise they come as JSON."""
        return self.name.endswith("_plain")

    def render(self, values: Mapping[str, Any]) -> str:
        """The text to send; a name that the template needs and ``values`` lacks is an error."""
        try:
            return self.template.render(values).strip("\n")
        except jinja2.TemplateError as error:
            raise ConfigError(f"prompt {self.name!r}: {error}") from error


@functools.cache
def load_prompt(prompt: str) -> Prompt:
    """One of ours by name (``translate``, ``translate_plain``, ``instruct``), or a ``.jinja`` file by path.

    Raises:
        ConfigError: no such prompt, or a template with a syntax error.
    """
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
        template.globals = dict(template.globals)  # a chain of maps, gone through anew for each prompt
        return Prompt(path.stem, hash_bytes(text.encode()), template)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"{path}: line {error.lineno}: {error.message}") from error


def read_numbered(reply: str, count: int) -> list[str] | None:
    r"""The lines of a plain reply: ``1. ...``, ``2. ...``, or one line; None where there are not ``count``.

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


def read_json_reply(reply: str) -> Any:
    """The JSON value of a reply that may stand in a code fence or between words; None where there is none."""
    fenced = re.search(r"```(?:json)?\s*(.*?)```", reply, re.DOTALL)
    text = fenced.group(1) if fenced else reply
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return None
    try:
        return json.loads(text[start : end + 1])
    except ValueError:
        return None

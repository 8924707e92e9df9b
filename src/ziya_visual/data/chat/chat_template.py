"""Render Jinja chat templates and locate each turn's text in the result.

Stock ``apply_chat_template`` returns the text; training must know which of it the assistant said. A template
is rendered once per sequence of roles to learn what it writes around the turns (its pieces). A dialogue is
then read as these pieces with the turns' texts between them.

Checkpoints carry this file as remote code, see :mod:`processing_ziya_visual`, so it imports nothing of ours
but the error kinds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from jinja2 import Environment, TemplateError, TemplateSyntaxError, nodes

try:
    from ziya_visual.core.errors import CheckpointError, DataError
except ImportError:  # in a checkpoint, where this package is not installed
    CheckpointError = DataError = ValueError  # type: ignore[misc,assignment]

__all__ = ["ChatTemplate", "CheckpointError", "DataError", "Turn", "TurnLike", "ziya_chat_template"]

Span = tuple[int, int]


def ziya_chat_template(
    human_name: str = "<human>", assistant_name: str = "<bot>", prompt_prefix: str = ""
) -> str:
    """Return Ziya's template; the published checkpoint keeps the three texts in ``config.json``."""
    return (
        f"{{{{ bos_token }}}}{prompt_prefix}{{% for message in messages %}}"
        f"{{% if message['role'] == 'assistant' %}}{assistant_name}:{{{{ message['content'] }}}}"
        "{{ eos_token }}\n"
        f"{{% else %}}{human_name}:{{{{ message['content'] }}}}\n{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{assistant_name}:{{% endif %}}"
    )


class TurnLike(Protocol):
    """A turn of a dialogue: a record's message, or a :class:`Turn`."""

    @property
    def role(self) -> str:
        """Return ``system``, ``user`` or ``assistant``."""

    @property
    def content(self) -> str:
        """Return its text."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn and the positions of its images in the text, in characters, ascending."""

    role: str
    content: str
    images: tuple[int, ...] = ()


class ChatTemplate:
    """The chat template of a tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a tokenizer of transformers; raise ``CheckpointError`` if it has no template."""
        if not tokenizer.chat_template:
            raise CheckpointError("the tokenizer has no chat_template; give it one, such as Ziya's")
        self._tokenizer = tokenizer
        self._only_prints = _only_prints(tokenizer.get_chat_template())
        self.pieces = lru_cache(256)(self._pieces)

    def write(
        self, roles: tuple[str, ...], texts: Sequence[str], generate: bool
    ) -> tuple[tuple[str, ...], str, list[Span]]:
        """Render a dialogue; return the template's pieces, the text, and the span of each turn's text in it.

        A template that rewrites a text is refused; one that drops part of it is not.
        """
        pieces = self.pieces(roles, generate)
        if self._only_prints:
            text = pieces[0]
            spans = []
            for content, piece in zip(texts, pieces[1:], strict=True):
                spans.append((len(text), len(text) + len(content)))
                text += content + piece
            return pieces, text, spans
        text = self._render(roles, texts, generate)
        located = _locate(text, pieces, texts)
        if located is None:  # a template that writes the date has other pieces after midnight
            self.pieces.cache_clear()
            pieces = self.pieces(roles, generate)
            located = _locate(text, pieces, texts)
        if located is None:
            raise DataError(f"the chat template rewrites what a turn says, in {' '.join(texts)!r:.120}")
        return pieces, text, located

    def _render(self, roles: Sequence[str], texts: Sequence[str], generate: bool) -> str:
        turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        write = self._tokenizer.apply_chat_template
        try:
            return str(write(turns, tokenize=False, add_generation_prompt=generate))
        except TemplateError as error:
            raise DataError(f"the chat template refuses turns of {', '.join(roles)} ({error})") from error

    def _pieces(self, roles: tuple[str, ...], generate: bool) -> tuple[str, ...]:
        """Return what the template writes before, between and after turns of these roles."""
        marks = [f"\ue000{number}\ue001" for number in range(len(roles))]
        text = self._render(roles, marks, generate)
        pieces, at = [], 0
        for role, mark in zip(roles, marks, strict=True):
            place = text.find(mark, at)
            if place < 0:
                raise DataError(f"the chat template does not write what a {role!r} turn says")
            pieces.append(text[at:place])
            at = place + len(mark)
        return (*pieces, text[at:])


def _locate(text: str, pieces: Sequence[str], texts: Sequence[str]) -> list[Span] | None:
    """Locate each turn's text, whole or in part; return None if the template wrote something else."""
    if not text.startswith(pieces[0]):
        return None
    spans: list[Span] = []
    at = len(pieces[0])
    for content, piece in zip(texts, pieces[1:], strict=True):
        last = len(spans) + 1 == len(texts)
        end = next((end for end in _ends(text, at, content, piece, last) if text[at:end] in content), None)
        if end is None:
            return None
        spans.append((at, end))
        at = end + len(piece)
    return spans


def _ends(text: str, at: int, content: str, piece: str, last: bool) -> Iterator[int]:
    """Yield where a turn's text from ``at`` may end: before its piece, no longer than the content."""
    if last:
        end = len(text) - len(piece)
        if at <= end and text.endswith(piece):
            yield end
        return
    whole = at + len(content)
    if text.startswith(content + piece, at):
        yield whole
    end = text.find(piece, at)
    while 0 <= end <= whole:
        yield end
        end = text.find(piece, end + 1)


def _only_prints(template: str) -> bool:
    """Tell whether a template only prints a turn's text, so that its pieces determine the result.

    The syntax gives a sufficient condition: ``message['content']`` stands alone in ``{{ }}``, and nothing
    else of the messages is used but their roles.
    """
    try:
        tree = Environment().parse(template)
    except TemplateSyntaxError:  # stock's additions to the language
        return False
    if any(tree.find_all((nodes.FilterBlock, nodes.AssignBlock, nodes.CallBlock, nodes.Macro))):
        return False
    loops = list(tree.find_all(nodes.For))
    printed = {id(node) for output in tree.find_all(nodes.Output) for node in output.nodes}
    safe = {id(node) for loop in loops for node in (loop.iter, loop.target)}
    for item in tree.find_all(nodes.Getitem):
        key = item.arg.value if isinstance(item.arg, nodes.Const) else None
        if key == "role" or (key == "content" and id(item) in printed):
            safe.add(id(item.node))
    turns = {"messages", "loop", *(loop.target.name for loop in loops if isinstance(loop.target, nodes.Name))}
    return all(id(name) in safe for name in tree.find_all(nodes.Name) if name.name in turns)

"""What a Jinja chat template writes, and where in it each turn's text stands.

Stock ``apply_chat_template`` gives the text; training needs to know which of it the assistant said. A
template is asked once for each sequence of roles what it writes around the turns (its pieces); what it writes
for a dialogue is then read as these pieces with the turns' texts between.

A checkpoint carries this file as remote code, see :mod:`processing_ziya_visual`: it imports nothing of ours
but the kinds of its errors.
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

__all__ = ["ChatTemplate", "CheckpointError", "DataError", "TurnLike", "Turn", "ziya_chat_template"]

Span = tuple[int, int]


def ziya_chat_template(
    human_name: str = "<human>", assistant_name: str = "<bot>", prompt_prefix: str = ""
) -> str:
    """Ziya's format; the published checkpoint keeps the three texts in its ``config.json``."""
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
        """``system``, ``user`` or ``assistant``."""

    @property
    def content(self) -> str:
        """Its text."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that shows pictures: where in its text each stands, in characters, ascending."""

    role: str
    content: str
    images: tuple[int, ...] = ()


class ChatTemplate:
    """The chat template of a tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a tokenizer of transformers; ``CheckpointError`` where it has no template."""
        if not tokenizer.chat_template:
            raise CheckpointError("the tokenizer has no chat_template; give it one, such as Ziya's")
        self._tokenizer = tokenizer
        self._only_prints = _only_prints(tokenizer.get_chat_template())
        self.pieces = lru_cache(256)(self._pieces)

    def write(
        self, roles: tuple[str, ...], texts: Sequence[str], generate: bool
    ) -> tuple[tuple[str, ...], str, list[Span]]:
        """A dialogue: the template's pieces, the whole text, and the span of each turn's text in it.

        Raises:
            DataError: the template refuses these roles, or rewrites a text; leaving some out is no rewriting.
        """
        pieces = self.pieces(roles, generate)
        if self._only_prints:
            text = pieces[0]
            spans = []
            for said, piece in zip(texts, pieces[1:], strict=True):
                spans.append((len(text), len(text) + len(said)))
                text += said + piece
            return pieces, text, spans
        text = self._render(roles, texts, generate)
        found = _locate(text, pieces, texts)
        if found is None:  # a template that writes the date has other pieces after midnight
            self.pieces.cache_clear()
            pieces = self.pieces(roles, generate)
            found = _locate(text, pieces, texts)
        if found is None:
            raise DataError(f"the chat template rewrites what a turn says, in {' '.join(texts)!r:.120}")
        return pieces, text, found

    def _render(self, roles: Sequence[str], texts: Sequence[str], generate: bool) -> str:
        turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        try:
            text: str = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=generate
            )
        except TemplateError as error:
            raise DataError(f"the chat template refuses turns of {', '.join(roles)} ({error})") from error
        return text

    def _pieces(self, roles: tuple[str, ...], generate: bool) -> tuple[str, ...]:
        """What stands before, between and behind turns of these roles, whatever they say."""
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
    """Where each turn's text stands, whole or a part of it; None where the template wrote something else."""
    if not text.startswith(pieces[0]):
        return None
    spans: list[Span] = []
    at = len(pieces[0])
    for said, piece in zip(texts, pieces[1:], strict=True):
        last = len(spans) + 1 == len(texts)
        end = next((end for end in _ends(text, at, said, piece, last) if text[at:end] in said), None)
        if end is None:
            return None
        spans.append((at, end))
        at = end + len(piece)
    return spans


def _ends(text: str, at: int, said: str, piece: str, last: bool) -> Iterator[int]:
    """Where the text that begins at ``at`` may end: before its piece, as long as what was said at most."""
    if last:
        end = len(text) - len(piece)
        if at <= end and text.endswith(piece):
            yield end
        return
    whole = at + len(said)
    if text.startswith(said + piece, at):
        yield whole
    end = text.find(piece, at)
    while 0 <= end <= whole:
        yield end
        end = text.find(piece, end + 1)


def _only_prints(template: str) -> bool:
    """Whether a template does nothing with a turn's text but print it, so that its pieces say all.

    A sufficient condition, read off its syntax: ``message['content']`` stands alone in ``{{ }}``, and the
    messages are used in no other way than by their role.
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

"""The parts of the network that a stage may train, and the rules that name them or some of their blocks."""

from __future__ import annotations

import re
from typing import Literal

from pydantic_core import PydanticCustomError

from ziya_visual.core.errors import nearest

Part = Literal["qformer", "query_tokens", "projection", "alignment", "lora", "vision"]
PARTS: tuple[Part, ...] = ("qformer", "query_tokens", "projection", "alignment", "lora", "vision")
BLOCKS: tuple[Part, ...] = ("qformer", "alignment", "lora", "vision")  # the parts made of numbered blocks


def split_rule(rule: str) -> tuple[str, slice | None]:
    """What a stage trains: a part, or some of its blocks as Python slices them.

    >>> split_rule("qformer")
    ('qformer', None)
    >>> split_rule("vision[-2:]")  # the last two; [36:39] are three, [:4] the first four
    ('vision', slice(-2, None, None))

    Raises:
        ValueError: it is of another form, names no part, or slices one that has no blocks.
    """
    form = re.fullmatch(r"(\w+)(?:\[(-?\d+)?:(-?\d+)?\])?", rule)
    if form is None:
        raise ValueError(
            f"expected a part, or some blocks of one such as vision[-2:] or vision[36:39], found {rule!r}"
        )
    part, first, end = form.groups()
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r}{nearest(part, PARTS)}")
    if rule == part:
        return part, None
    if part not in BLOCKS:
        raise ValueError(f"{part} has no blocks to choose from; write {part!r}")
    return part, slice(first and int(first), end and int(end))


def checked_rule(rule: str) -> str:
    """The rule itself; what is none is an error of pydantic's."""
    try:
        split_rule(rule)
    except ValueError as error:
        raise PydanticCustomError("rule", "{why}", {"why": str(error)}) from error
    return rule

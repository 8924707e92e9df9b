"""The parts of the network that a stage may train, and the rules that select them or some of their blocks."""

from __future__ import annotations

import re
from typing import Literal, get_args

from ziya_visual.core.errors import nearest

Part = Literal["qformer", "query_tokens", "projection", "alignment", "lora", "vision"]
PARTS: tuple[Part, ...] = get_args(Part)
PARTS_WITH_BLOCKS: tuple[Part, ...] = ("qformer", "alignment", "lora", "vision")


def parse_rule(rule: str) -> tuple[str, slice | None]:
    """Parse what a stage trains: a whole part, or a slice of its numbered blocks.

    >>> parse_rule("qformer")
    ('qformer', None)
    >>> parse_rule("vision[-2:]")  # the last two; [36:39] selects three, [:4] the first four
    ('vision', slice(-2, None, None))

    Raises:
        ValueError: The rule has another form, names no part, or slices a part that has no blocks.
    """
    form = re.fullmatch(r"(\w+)(?:\[(-?\d+)?:(-?\d+)?\])?", rule)
    if form is None:
        raise ValueError(f"expected a part, or a slice of its blocks such as vision[-2:], found {rule!r}")
    part, first, end = form.groups()
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r}{nearest(part, PARTS)}")
    if rule == part:
        return part, None
    if part not in PARTS_WITH_BLOCKS:
        raise ValueError(f"{part} has no blocks to choose from; write {part!r}")
    return part, slice(first and int(first), end and int(end))

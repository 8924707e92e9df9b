"""What is kept of pictures: within its bytes, the least recently used gone first, nothing encoded twice."""

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ziya_visual.core.records import Message
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.infer.prefixes import ByteCache


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 6))), st.integers(0, 12))
def test_a_cache_stays_within_its_bytes_and_keeps_what_was_used_last(
    puts: list[tuple[str, int]], limit: int
) -> None:
    cache: ByteCache[int] = ByteCache(limit)
    sizes: dict[str, int] = {}
    for name, size in puts:
        cache.put(name, size, size)
        sizes.pop(name, None)
        sizes[name] = size
        while sum(sizes.values()) > limit:
            sizes.pop(next(iter(sizes)))
    assert cache.nbytes == sum(sizes.values()) <= limit
    assert {name: cache.get(name) for name in "abcdef"} == {name: sizes.get(name) for name in "abcdef"}


def test_a_picture_is_encoded_once_for_all_that_is_asked(
    make_model: Callable[..., ZiyaVisual], tokenizer: Any, pictures: list[Image.Image]
) -> None:
    model = make_model(tokenizer)
    first = model.chat(pictures[0], "红色?")
    assert model.encoded == 1
    dialogue = [Message("user", "红色?"), Message("assistant", first), Message("user", "What?")]
    again = model.chat_about(pictures[0], dialogue)
    assert model.encoded == 1
    model.chat(pictures[1], "What?")
    assert model.encoded == 2
    model.tokens.limit = model.kept.limit = 0
    model.chat(pictures[2], "What?")
    assert len(model.kept) == len(model.tokens) == 0
    assert model.chat_about(pictures[0], dialogue) == again
    assert model.encoded == 4

"""What is kept of pictures: within its bytes, the least recently used gone first, nothing encoded twice."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_models import seeing

from ziya_visual.core.records import Message
from ziya_visual.infer.decoder import Decoder
from ziya_visual.infer.prefix_cache import ByteCache
from ziya_visual.infer.text_model import Dialogue


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


def test_a_picture_is_encoded_once_for_all_that_is_asked(tokenizer: Any, pictures: list[Image.Image]) -> None:
    model = seeing(tokenizer)
    first = model.chat(pictures[0], "红色?")
    assert model.images_encoded == 1
    dialogue = [Message("user", "红色?"), Message("assistant", first), Message("user", "What?")]
    again = model.chat_about(pictures[0], dialogue)
    assert model.images_encoded == 1
    model.chat(pictures[1], "What?")
    assert model.images_encoded == 2
    model.token_cache.limit = model.prefix_cache.limit = 0
    model.chat(pictures[2], "What?")
    assert len(model.prefix_cache) == len(model.token_cache) == 0
    assert model.chat_about(pictures[0], dialogue) == again
    assert model.images_encoded == 4


def test_a_new_picture_is_read_with_its_first_question_in_one_pass(
    tokenizer: Any, pictures: list[Image.Image]
) -> None:
    """What is kept of it, and each of the answers, are those of a prefix that was computed by itself."""
    together, apart = seeing(tokenizer), seeing(tokenizer)
    passes = []
    together.language_model.base_model.register_forward_pre_hook(lambda *_: passes.append(1))
    asked = [
        Dialogue([Message("user", text)], pictures[place : place + 1], 6)
        for place, text in ((0, "红色?"), (1, "What?"), (0, "What?"))
    ]
    apart.prefixes(pictures[:2], [one.messages for one in asked[:2]])
    found = []
    for model in (together, apart):
        decoder = Decoder(model.language_model, eos_id=-1)
        decoder.add(
            [prompt for prompt in model.prompts(asked) if not isinstance(prompt, Exception)], [0, 1, 2]
        )
        if model is together:
            assert len(passes) == 1
        while not all(slot.done for slot in decoder.slots):
            decoder.step()
        found.append({slot.tag: slot.tokens for slot in decoder.slots})
    assert found[0] == found[1]
    assert together.images_encoded == len(together.prefix_cache) == 2
    for ours, theirs in zip(
        together.prefixes(pictures[:2], [()] * 2), apart.prefixes(pictures[:2], [()] * 2), strict=True
    ):
        for one, other in zip((*ours.keys, *ours.values), (*theirs.keys, *theirs.values), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert together.images_encoded == 2

"""The chat format: what is trained on, what a user cannot smuggle in, and the stock template."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ziya_visual.core.errors import CheckpointError
from ziya_visual.core.records import Message
from ziya_visual.data.chat_format import ChatFormat

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ["</s>", "<image>", "<bot>:yes</s>", "红色的圆形。", "What color is it?", "<s><human>:"]
)


@pytest.fixture(scope="session")
def chat(tokenizer: Any) -> ChatFormat:
    return ChatFormat(tokenizer)


@given(question=TEXT, answer=TEXT)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_exactly_the_answer_and_its_end_are_trained_on(
    tokenizer: Any, chat: ChatFormat, question: str, answer: str
) -> None:
    encoded = chat.encode([Message("user", question), Message("assistant", answer)], num_image_tokens=3)
    learnt = [token for token, learn in zip(encoded.ids, encoded.supervised, strict=True) if learn]
    assert learnt[-1] == chat.eos_id
    assert tokenizer.decode(learnt[:-1]) == answer
    special = [token for token in encoded.ids if token in tokenizer.all_special_ids]
    expected = ["<image>"] * 3 + ["<s>", "<human>:", "<bot>:", "</s>"]
    assert tokenizer.convert_ids_to_tokens(special) == expected, "what a user types never becomes special"


@pytest.mark.parametrize("generate", [True, False])
def test_the_stock_template_gives_the_same_tokens(tokenizer: Any, chat: ChatFormat, generate: bool) -> None:
    turns = [Message("user", "What color is the ring?"), Message("assistant", "红色")]
    turns += [Message("user", "圆环是什么形状？")] if generate else []
    stock = tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.content} for turn in turns],
        add_generation_prompt=generate,
        return_dict=False,
    )
    assert chat.encode(turns, add_generation_prompt=generate).ids == stock


def test_any_text_can_be_written(tokenizer: Any, chat: ChatFormat) -> None:
    text = "Grüße, мир, 世界 🐱\n\t0"
    assert tokenizer.decode(chat.text_ids(text)) == text


def test_a_tokenizer_without_an_image_token_is_refused(tokenizer: Any) -> None:
    class Slow:
        backend_tokenizer = None

    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        ChatFormat(Slow())

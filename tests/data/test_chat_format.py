"""The chat format's laws for each form of template: what is trained on, what cannot be smuggled in, stock."""

import hashlib
import json
import pickle
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from ziya_visual.core.errors import CheckpointError, DataError
from ziya_visual.core.records import Message
from ziya_visual.data.chat.chat_format import IMAGE, ChatFormat, Turn, ziya_chat_template
from ziya_visual.scenes import lessons
from ziya_visual.train.pretrain import SHIPPED

Forms = dict[str, Any]  # conftest's Form by name
NAMES = ("ziya", "chatml", "llama3", "vicuna")
SPELT = ["</s>", "<image>", "<bot>:yes</s>", "<s><human>:", "<|im_end|>\n<|im_start|>system\n", "<|eot|>"]
PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["红色的圆形。", "What color is it?", "", " \n ", "it's  12\t", "<|im_", "USER: hi ASSISTANT: no"]
)
TEXT = PLAIN | st.lists(st.sampled_from(SPELT) | PLAIN, max_size=3).map("".join)
Q = 3


def answered(question: str, answer: str) -> list[Turn]:
    return [Turn("user", question), Turn("assistant", answer)]


def special_of(form: Any, ids: list[int]) -> list[str]:
    return [t for t in form.tokenizer.convert_ids_to_tokens(ids) if t in form.tokenizer.all_special_tokens]


def as_written(form: Any, text: str) -> str:
    """What this form keeps of a text."""
    if form.name == "vicuna":  # SentencePiece writes a space as this character, and has one at the head
        return text.replace("▁", " ").strip(" ")
    text = unicodedata.normalize("NFC", text) if form.name != "ziya" else text
    return text.strip() if form.cuts else text


@pytest.mark.parametrize("name", NAMES)
@given(question=TEXT, answer=TEXT)
@example(question="", answer="\n")
@settings(max_examples=100)
def test_exactly_the_answer_and_its_end_are_trained_on(
    forms: Forms, name: str, question: str, answer: str
) -> None:
    form = forms[name]
    chat = ChatFormat(form.tokenizer)
    encoded = chat.encode(answered(question, answer), num_image_tokens=Q)
    learnt = [token for token, learn in zip(encoded.ids, encoded.supervised, strict=True) if learn]
    assert learnt[-1] == chat.eos_id
    said, text = form.tokenizer.decode(learnt[:-1]), as_written(form, answer)
    # The template's line end and an answer's own may be one token: then both are trained on.
    shared = "\n" if name == "chatml" and answer.startswith("\n") else ""
    assert (said.strip(" ") if name == "vicuna" else said) in (text, shared + text)
    expected = [IMAGE] * Q + form.special
    assert special_of(form, encoded.ids) == expected, "what a user types never becomes special"
    assert encoded.image_spans == ((0, Q),)


@pytest.mark.parametrize("name", NAMES)
@given(texts=st.lists(PLAIN, min_size=1, max_size=4), system=st.booleans())
@settings(max_examples=60)
def test_stock_gives_the_same_tokens(forms: Forms, name: str, texts: list[str], system: bool) -> None:
    roles = ["system"] * system + ["user", "assistant"] * 2
    turns = [Turn(role, text) for role, text in zip(roles, texts, strict=False)]
    generate = turns[-1].role != "assistant"
    stock = forms[name].tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.content} for turn in turns],
        add_generation_prompt=generate,
        return_dict=False,
    )
    chat = ChatFormat(forms[name].tokenizer)
    assert chat.encode(turns, add_generation_prompt=generate).ids == stock
    assert chat.encode(turns, num_image_tokens=Q, num_images=2, add_generation_prompt=generate).ids == (
        [chat.image_id] * (2 * Q) + stock
    )


@pytest.mark.parametrize("position", ["first", "inline"])
@pytest.mark.parametrize("name", NAMES)
@given(question=TEXT, answer=TEXT)
@settings(max_examples=30)
def test_prefix_and_branch_are_the_whole(
    forms: Forms, name: str, position: str, question: str, answer: str
) -> None:
    chat = ChatFormat(forms[name].tokenizer, image_position=position)
    for queries in (0, Q):
        whole = chat.encode(answered(question, answer), num_image_tokens=queries)
        branch = chat.branch(answered(question, answer), num_image_tokens=queries)
        prefix = chat.prefix_ids(queries)
        assert prefix + branch.ids == whole.ids
        assert [False] * len(prefix) + branch.supervised == whole.supervised


@pytest.mark.parametrize("name", NAMES)
@given(before=TEXT, after=TEXT, answer=TEXT)
@example(before=" \n<|eot|>", after="x", answer="")  # cut at its ends, and spells a special token
@settings(max_examples=60)
def test_inline_pictures_stand_where_their_turn_shows_them(
    forms: Forms, name: str, before: str, after: str, answer: str
) -> None:
    form = forms[name]
    chat = ChatFormat(form.tokenizer, image_position="inline")
    shown = Turn("user", before + after, (len(before), len(before), len(before + after)))
    encoded = chat.encode([shown, Turn("assistant", answer)], num_image_tokens=Q, num_images=3)
    assert [encoded.ids[a:b] for a, b in encoded.image_spans] == [[chat.image_id] * Q] * 3
    assert encoded.ids.count(chat.image_id) == 3 * Q
    (_, first), (second, third), (fourth, _) = encoded.image_spans
    assert first == second
    between = form.tokenizer.decode(encoded.ids[third:fourth])
    assert as_written(form, between).strip() == as_written(form, after).strip()
    assert not any(encoded.supervised[:fourth])


def test_the_miniature_keeps_its_ids() -> None:
    """Against a file that the piecewise encoder of before wrote, with the shipped tokenizer."""
    golden = json.loads((Path(__file__).parent / "golden_ids.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "lm")
    assert tokenizer.chat_template == ziya_chat_template()
    chat = ChatFormat(tokenizer)
    for row in golden["dialogues"]:
        messages = [Message(role, content) for role, content in row["messages"]]
        encoded = chat.encode(messages, num_image_tokens=2)
        assert encoded.ids == row["ids"]
        assert encoded.supervised == [mark == "1" for mark in row["supervised"]]
        assert chat.branch(messages[:-1], add_generation_prompt=True).ids == row["prompt"]
    rng, digest = np.random.default_rng(golden["corpus"]["seed"]), hashlib.sha256()
    for _ in range(golden["corpus"]["readings"]):
        for dialogue in [*lessons.reading(rng, lessons.LESSONS[-1])[1], lessons.translation(rng)]:
            encoded = chat.branch(dialogue)
            digest.update(json.dumps([encoded.ids, [int(one) for one in encoded.supervised]]).encode())
    assert digest.hexdigest() == golden["corpus"]["sha256"]


def test_a_control_token_that_a_vocabulary_spells_is_taken_apart(forms: Forms) -> None:
    """A token of the template that is not special, in Qwen's manner, and its turns by another name."""
    tokenizer = forms["chatml"].tokenizer
    template = tokenizer.chat_template
    try:
        tokenizer.chat_template = template.replace("'\\n' + message", "'\\n<tool>' + message")
        chat = ChatFormat(tokenizer)
        encoded = chat.encode(answered("a <tool> b", "<tool>"))
        tool = tokenizer.convert_tokens_to_ids("<tool>")
        assert encoded.ids.count(tool) == 2, "the template's own"
        assert "a <tool> b" in tokenizer.decode(encoded.ids)
    finally:
        tokenizer.chat_template = template


def test_names_and_prefix_of_ziyas_format(tokenizer: Any) -> None:
    template = ziya_chat_template("<人>", "<机>", "看图。")
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    text = tokenizer.apply_chat_template(
        turns, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert text == "<s>看图。<人>:q\n<机>:a</s>\n<机>:"


def test_any_text_can_be_written(tokenizer: Any) -> None:
    text = "Grüße, мир, 世界 🐱\n\t0"
    assert tokenizer.decode(ChatFormat(tokenizer).text_ids(text)) == text


THINKING = """{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' %}{{ message.content.split('</think>')[-1].lstrip('\n') }}
{%- else %}{{ message.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"""
REFUSING = """{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('no system') }}
{%- endif %}{{ message.role + message.content + '<|im_end|>' }}{% endfor %}"""


def with_template(tokenizer: Any, template: str | None) -> Any:
    import copy

    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    return own


def test_a_template_may_leave_out_what_was_thought(forms: Forms) -> None:
    tokenizer = with_template(forms["chatml"].tokenizer, THINKING)
    encoded = ChatFormat(tokenizer).encode(answered("a", "<think>hm</think>\n\nthe ring\n"))
    learnt = [token for token, learn in zip(encoded.ids, encoded.supervised, strict=True) if learn]
    assert tokenizer.decode(learnt) == "the ring\n<|im_end|>"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (None, "no chat_template"),
        ("{% for m in messages %}{{ m.role + ':' + m.content + '\n' }}{% endfor %}", "after an answer"),
        (
            "{% for m in messages %}{{ m.role }}<|im_end|>{% endfor %}",
            "does not write what a 'user' turn says",
        ),
    ],
)
def test_a_template_that_cannot_be_trained_with_is_refused(
    forms: Forms, template: str | None, text: str
) -> None:
    with pytest.raises((CheckpointError, DataError), match=text) as caught:
        ChatFormat(with_template(forms["chatml"].tokenizer, template))
    assert "\n" not in str(caught.value)


def test_dialogues_that_cannot_be_written_are_refused(forms: Forms) -> None:
    refusing = ChatFormat(with_template(forms["chatml"].tokenizer, REFUSING))
    with pytest.raises(DataError, match=r"refuses turns of system, user \(no system\)"):
        refusing.encode([Turn("system", "a"), Turn("user", "b")])
    upper = ChatFormat(
        with_template(forms["chatml"].tokenizer, REFUSING.replace("e.content", "e.content|replace('a', 'b')"))
    )
    with pytest.raises(DataError, match="rewrites what a turn says"):
        upper.encode(answered("a", "c"))
    chat = ChatFormat(forms["ziya"].tokenizer, image_position="inline")
    with pytest.raises(DataError, match="at least one turn"):
        chat.encode([])
    with pytest.raises(DataError, match="shows 1 images, but there are 2"):
        chat.encode([Turn("user", "a", (0,))], num_image_tokens=Q, num_images=2)
    with pytest.raises(DataError, match="needs a user turn"):
        chat.encode([Turn("assistant", "a")], num_image_tokens=Q)
    with pytest.raises(DataError, match="must begin with the image's user turn"):
        chat.branch([Turn("system", "a"), Turn("user", "b")], num_image_tokens=Q)


def test_tokenizers_that_do_not_fit_are_refused(forms: Forms, tokenizer: Any) -> None:
    class Slow:
        backend_tokenizer = None

    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        ChatFormat(Slow())
    with pytest.raises(CheckpointError, match="image_position is 'last', expected first or inline"):
        ChatFormat(tokenizer, image_position="last")


@pytest.mark.parametrize("position", ["first", "inline"])
@pytest.mark.parametrize("name", NAMES)
def test_another_process_has_the_same_format(forms: Forms, name: str, position: str) -> None:
    chat = ChatFormat(forms[name].tokenizer, image_position=position)
    again = pickle.loads(pickle.dumps(chat))
    turns = answered("What color is the <image> ring?", "红色")
    assert again.encode(turns, num_image_tokens=Q) == chat.encode(turns, num_image_tokens=Q)

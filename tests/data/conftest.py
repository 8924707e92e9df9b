"""Tiny tokenizers in the forms of the language models that people bring, each with its chat template."""

import itertools
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from ziya_visual.train.pretrain.language_model import corpus_texts, train_tokenizer

TEXTS = [
    "What color is the ring to the left?",
    "图片里有一个红色的圆环。",
    "Yes, there are two 12 of them.\n\n",
]

# The usual layouts, written anew: a system line by default, a trimmed turn, one line for all.
CHATML = """{% if messages[0]['role'] != 'system' %}
{{- '<|im_start|>system\nYou see.<|im_end|>\n' }}{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
LLAMA3 = """{% set ns = namespace(text='') %}{% for message in messages %}
{%- set ns.text = '<|start|>' + message['role'] + '<|stop|>\n\n' + message['content'] | trim + '<|eot|>' %}
{%- if loop.first %}{{ bos_token }}{% endif %}{{ ns.text }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant<|stop|>\n\n' }}{% endif %}"""
VICUNA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}
{%- set turns = messages[1:] %}{% else %}{{ 'A talk. ' }}{% set turns = messages %}{% endif %}
{%- for turn in turns %}{% if turn['role'] == 'user' %}{{ 'USER: ' + turn['content'] + ' ' }}
{%- else %}{{ 'ASSISTANT: ' + turn['content'] + eos_token }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""


@dataclass(frozen=True)
class Form:
    """A tokenizer and what its template writes around a question and an answer."""

    name: str
    tokenizer: Any
    special: list[str]  # in the order in which the template writes them
    cuts: bool = False  # white space at a text's ends


def train(tokenizer: Tokenizer, first: list[str], alphabet: list[str]) -> Tokenizer:
    """A small vocabulary that begins with ``first``."""
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=first, show_progress=False, initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def byte_level(special: list[str], **kwargs: Any) -> PreTrainedTokenizerFast:
    """As Qwen's and Llama-3's, with white space kept out of the offsets, as some have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.decoder = decoders.ByteLevel()
    made = train(tokenizer, special, pre_tokenizers.ByteLevel.alphabet())
    return PreTrainedTokenizerFast(tokenizer_object=made, additional_special_tokens=special, **kwargs)


def metaspace(special: list[str], **kwargs: Any) -> PreTrainedTokenizerFast:
    """As Llama-2's: words begin with ``▁``, what is unknown is bytes, which are no special tokens."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    written = json.loads(train(tokenizer, [*special, *(f"<0x{b:02X}>" for b in range(256))], []).to_str())
    written["added_tokens"] = [token for token in written["added_tokens"] if token["content"] in special]
    made = Tokenizer.from_str(json.dumps(written))
    return PreTrainedTokenizerFast(tokenizer_object=made, additional_special_tokens=special, **kwargs)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return train_tokenizer(itertools.chain(corpus_texts(np.random.default_rng(0), 50)))


def make_forms(tokenizer: Any) -> list[Form]:
    chatml = byte_level(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
    )
    chatml.add_tokens([AddedToken("<tool>", special=False)])
    llama3 = byte_level(
        ["<|begin|>", "<|start|>", "<|stop|>", "<|eot|>", "<image>"],
        bos_token="<|begin|>",
        eos_token="<|eot|>",
        chat_template=LLAMA3,
    )
    vicuna = metaspace(
        ["<unk>", "<s>", "</s>", "<image>"],
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=VICUNA,
    )
    turn = ["<|im_start|>", "<|im_end|>"]
    header = ["<|start|>", "<|stop|>", "<|eot|>"]
    return [
        Form("ziya", tokenizer, ["<s>", "<human>:", "<bot>:", "</s>"]),
        Form("chatml", chatml, turn * 3),
        Form("llama3", llama3, ["<|begin|>", *header, *header], cuts=True),
        Form("vicuna", vicuna, ["<s>", "</s>"]),
    ]


@pytest.fixture(scope="session")
def forms(tokenizer: Any) -> dict[str, Form]:
    return {form.name: form for form in make_forms(tokenizer)}

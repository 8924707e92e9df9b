"""The tiny bilingual LM: a stock ``LlamaForCausalLM`` and its byte-level tokenizer.

It stands for the language model that a real user downloads. It reads the grammar's text and never sees a
picture. An object list stands where an image's tokens will stand, and the questions about it are packed as an
image's texts are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ziya_visual.core import log
from ziya_visual.core.records import Message
from ziya_visual.data.chat_format import BOT, CHAT_TEMPLATE, HUMAN, IMAGE, ChatFormat
from ziya_visual.data.packing import Branch, PackedBatch, Row, pack
from ziya_visual.model.attention import PLAIN
from ziya_visual.model.packed import mean_loss, packed_loss
from ziya_visual.scenes import corpus
from ziya_visual.train.schedule import Optimizer, cosine

LANG_IDS = {"en": 0, "zh": 1}
VOCABULARY = 640
LM_STEPS = 1300
SPECIAL = ["<pad>", "<s>", "</s>", IMAGE, HUMAN, BOT]


def train_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE: any text can be written, a Chinese character is never merged with its neighbour."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=SPECIAL[3:],
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
    )


def corpus_texts(rng: np.random.Generator, count: int) -> Iterator[str]:
    """Plain texts for the tokenizer: lists, dialogues and translations."""
    for _ in range(count):
        listed, dialogues = corpus.reading(rng)
        yield listed
        for dialogue in [*dialogues, corpus.translation(rng)]:
            yield from (message.content for message in dialogue)


def lm_config(vocabulary: int) -> LlamaConfig:
    """2.8 M parameters: 6 layers of width 192, embeddings tied."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation=PLAIN,
    )


def corpus_batches(
    rng: np.random.Generator, chat: ChatFormat, *, readings: int, translations: int, most: int = 4
) -> list[PackedBatch]:
    """Rows of lists with their questions, and rows of one translation: packed apart, their lengths differ."""
    bos = chat.prefix_ids(0)
    lists = [corpus.reading(rng, most=most) for _ in range(readings)]
    rows = [Row([*chat.text_ids(seen), *bos], [_branch(chat, d) for d in told]) for seen, told in lists]
    single = [Row(bos, [_branch(chat, corpus.translation(rng))]) for _ in range(translations)]
    return [pack(rows, pad_id=chat.pad_id), pack(single, pad_id=chat.pad_id)]


def longest_list(progress: float) -> int:
    """How many objects a list may have at a share of the training: 2, then 3, then 4.

    Which word belongs to which object is found out sooner on short lists.
    """
    return min(4, 2 + int(3.6 * progress))


def _branch(chat: ChatFormat, dialogue: tuple[Message, ...]) -> Branch:
    return Branch(
        chat.branch(dialogue), LANG_IDS["zh" if "\u4e00" <= dialogue[-1].content[0] <= "\u9fff" else "en"]
    )


def pretrain_lm(
    *, seed: int, steps: int = LM_STEPS, readings: int = 36, translations: int = 10
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train tokenizer and model from scratch on freshly drawn text."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tokenizer = train_tokenizer(corpus_texts(np.random.default_rng(seed), 2000))
    chat = ChatFormat(tokenizer)
    model = LlamaForCausalLM(lm_config(len(tokenizer)))
    optimizer = Optimizer(model.named_parameters())
    with log.progress("pre-train the LM", steps) as bar:
        for step in range(steps):
            batches = corpus_batches(
                rng, chat, readings=readings, translations=translations, most=longest_list(step / steps)
            )
            with torch.autocast("cpu", torch.bfloat16):
                sums = [packed_loss(model, batch) for batch in batches]
            loss = torch.stack([mean_loss(part) for part in sums]).sum()
            optimizer.step(loss, lr=3e-3 * cosine(step, steps=steps, warmup=60))
            if step % 50 == 0:
                read, translated = (mean_loss(part).item() for part in sums)
                log.logger.info("lm step %d loss: read %.3f translate %.3f", step, read, translated)
            bar.advance(bar.tasks[0].id)
    return model.eval(), tokenizer

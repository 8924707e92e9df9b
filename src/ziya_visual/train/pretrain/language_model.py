"""The tiny bilingual LM: a stock ``LlamaForCausalLM`` and its byte-level tokenizer.

It stands for the language model that a real user downloads. It reads the grammar's text and never sees a
picture. An object list stands where an image's tokens will stand, and the questions about it are packed as an
image's texts are.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import jieba  # type: ignore[import-untyped]
import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ziya_visual.core import log
from ziya_visual.core.records import Message
from ziya_visual.data.chat.chat_format import BOT, HUMAN, IMAGE, ChatFormat, ziya_chat_template
from ziya_visual.data.packing import Branch, PackedBatch, Row, pack
from ziya_visual.model.packed.attention import PLAIN
from ziya_visual.model.packed.forward import LossSum, mean_loss, packed_loss
from ziya_visual.scenes import lessons
from ziya_visual.train.optimizer import Optimizer, cosine

LANG_IDS = {"en": 0, "zh": 1}
VOCABULARY = 768
LM_STEPS = 1540
SPECIAL = ["<pad>", "<s>", "</s>", IMAGE, HUMAN, BOT]


def chinese_words(texts: Sequence[str]) -> list[str]:
    """Words of two characters or more that jieba finds once in 100 texts or oftener, longest first."""
    jieba.setLogLevel(logging.WARNING)
    found = Counter(
        word
        for text in texts
        for run in re.findall(r"[\u4e00-\u9fff]+", text)
        for word in jieba.cut(run)
        if len(word) > 1
    )
    common = (word for word, count in found.items() if count >= len(texts) / 100)
    return sorted(common, key=lambda word: (-len(word), word))


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE: any text can be written; common Chinese words are tokens, and nothing spans two."""
    texts = list(texts)
    tokenizer = Tokenizer(models.BPE())
    chinese = "|".join([*chinese_words(texts), r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(chinese), "isolated"),
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
        chat_template=ziya_chat_template(),
        model_max_length=1024,
    )


def corpus_texts(rng: np.random.Generator, count: int) -> Iterator[str]:
    """Plain texts for the tokenizer: lists, dialogues and translations."""
    for _ in range(count):
        listed, dialogues = lessons.reading(rng, lessons.LESSONS[-1])
        yield from filter(None, listed)
        for dialogue in [*dialogues, lessons.translation(rng)]:
            yield from (message.content for message in dialogue)


def lm_config(vocabulary: int) -> LlamaConfig:
    """1.4 M parameters: 4 layers of width 160, embeddings tied.

    New weights are as large as 1/sqrt(width): at the usual 0.02 so narrow a network starts all but blind, and
    learning to find a word in a list takes several times as long (docs/log.md).
    """
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=4,
        num_attention_heads=5,
        initializer_range=0.08,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation=PLAIN,
    )


@dataclass(frozen=True, slots=True)
class ReadingBatch:
    """Packed rows, and the token ids of every filled place of their lists, in the rows' order."""

    packed: PackedBatch
    places: list[list[int]]


def corpus_batches(
    rng: np.random.Generator, chat: ChatFormat, lesson: lessons.Lesson, *, readings: int
) -> list[ReadingBatch]:
    """Lists with their questions, and translations: their means count alike."""
    lists = []
    for _ in range(readings):
        seen, told = lessons.reading(rng, lesson)
        lists.append((seen, [_branch(chat, dialogue) for dialogue in told]))
    translations = [_branch(chat, lessons.translation(rng)) for _ in range(lesson.translations)]
    batches = [list_batch(chat, lists)]
    if translations:
        rows = [Row(chat.prefix_ids(0), [branch]) for branch in translations]
        batches.append(ReadingBatch(pack(rows), []))
    return batches


@dataclass(frozen=True)
class Corpus(IterableDataset[list[ReadingBatch]]):
    """The batches of all steps in turn: a function of the seed alone."""

    chat: ChatFormat
    seed: int
    steps: int
    readings: int

    def __iter__(self) -> Iterator[list[ReadingBatch]]:
        rng = np.random.default_rng(self.seed)
        for step in range(self.steps):
            lesson, _, _ = lessons.lesson_at(step, self.steps)
            yield corpus_batches(rng, self.chat, lesson, readings=self.readings)


def list_batch(chat: ChatFormat, lists: Sequence[tuple[list[str], list[Branch]]]) -> ReadingBatch:
    """Lists and what is asked about them: filled places are ``<image>`` tokens, empty ones padding."""
    rows = []
    for seen, branches in lists:
        places = [chat.image_id if place else chat.pad_id for place in seen]
        rows.append(Row([*places, *chat.prefix_ids(0)], branches))
    filled = [chat.text_ids(place) for seen, _ in lists for place in seen if place]
    return ReadingBatch(pack(rows), filled)


def list_prefix(model: LlamaForCausalLM, places: list[list[int]]) -> Tensor | None:
    """What stands in the filled places, float[1, N, D]: the sum of the embeddings of an object's tokens.

    One position holds a whole object, as an image's token will. In a list of words, a position each, so
    small a model does not learn which word belongs to which object (docs/log.md).
    """
    if not places:
        return None
    offsets = np.cumsum([0, *map(len, places)])[:-1]
    ids = torch.tensor([token for place in places for token in place])
    weight = model.get_input_embeddings().weight
    return F.embedding_bag(ids, weight, torch.from_numpy(offsets), mode="sum")[None]


def _branch(chat: ChatFormat, dialogue: tuple[Message, ...]) -> Branch:
    return Branch(
        chat.branch(dialogue), LANG_IDS["zh" if "\u4e00" <= dialogue[-1].content[0] <= "\u9fff" else "en"]
    )


def reading_loss(model: LlamaForCausalLM, chat: ChatFormat, batch: ReadingBatch) -> dict[int, LossSum]:
    """The summed loss by language of one batch."""
    prefix = list_prefix(model, batch.places)
    return packed_loss(model, batch.packed, image_id=chat.image_id, image_prefix=prefix)


def lr_factor(lesson: lessons.Lesson, step: int, steps: int) -> float:
    """The learning rate's factor at a step of a lesson: warm-up, then level, or a cosine where it settles."""
    return cosine(step, steps=steps, warmup=30, floor=0.02 if lesson.settles else 1.0)


def pretrain_lm(
    *, seed: int, steps: int = LM_STEPS, readings: int = 32
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train tokenizer and model from scratch on freshly drawn text."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(corpus_texts(np.random.default_rng(seed), 1000))
    chat = ChatFormat(tokenizer)
    model = LlamaForCausalLM(lm_config(len(tokenizer)))
    optimizer = Optimizer(model.named_parameters())
    # Drawn by a process of its own: it is a tenth of a step's work.
    drawn = DataLoader(Corpus(chat, seed, steps, readings), batch_size=None, num_workers=1)
    with log.progress("pre-train the LM", steps) as bar:
        for step, batches in enumerate(drawn):
            lesson, begins, length = lessons.lesson_at(step, steps)
            with torch.autocast("cpu", torch.bfloat16):
                sums = [reading_loss(model, chat, batch) for batch in batches]
            loss = torch.stack([mean_loss(part) for part in sums]).sum()
            optimizer.step(loss, lr=3e-3 * lr_factor(lesson, step - begins, length))
            if step % 50 == 0:
                said = " ".join(f"{mean_loss(part).item():.3f}" for part in sums)
                log.logger.info("lm step %d loss of lists and of translations: %s", step, said)
            bar.advance()
    return model.eval(), tokenizer

"""The tiny bilingual LM: a stock ``LlamaForCausalLM`` and its byte-level tokenizer.

It takes the place of the language model that a real user downloads. It reads text of the grammar and never
sees an image. A list of objects takes the place of an image's tokens, and the questions about it are packed
as the texts of an image are.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
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
from ziya_visual.data.packing import IGNORE, Branch, PackedBatch, Row, pack, segments
from ziya_visual.model.packed.attention import PLAIN
from ziya_visual.model.packed.forward import LossSum, mean_loss, packed_hidden_states, packed_loss
from ziya_visual.scenes import lessons, questions
from ziya_visual.scenes.drawing import sample_scene
from ziya_visual.scenes.language import EVAL_PHRASINGS, QUESTION_TYPES, Language, Meaning
from ziya_visual.train.optimizer import Optimizer, cosine

LANG_IDS = {"en": 0, "zh": 1}
VOCABULARY = 768
LM_STEPS = 1540
READINGS = 32  # lists in a batch
SCORED_LISTS, SCORED_TEXTS = 200, 200  # of each language; translations
SPECIAL = ["<pad>", "<s>", "</s>", IMAGE, HUMAN, BOT]


def chinese_words(texts: Sequence[str]) -> list[str]:
    """Return the words of two or more characters that occur once in 100 texts or more, longest first."""
    jieba.setLogLevel(logging.WARNING)
    runs = (run for text in texts for run in re.findall(r"[\u4e00-\u9fff]+", text))
    counts = Counter(word for run in runs for word in jieba.cut(run) if len(word) > 1)
    common = (word for word, count in counts.items() if count >= len(texts) / 100)
    return sorted(common, key=lambda word: (-len(word), word))


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE for any text; common Chinese words are tokens, and no token spans two words."""
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
    """Yield plain texts for the tokenizer: lists, dialogues and translations."""
    for _ in range(count):
        listed, dialogues = lessons.reading(rng, lessons.LESSONS[-1])
        yield from filter(None, listed)
        for dialogue in [*dialogues, lessons.translation(rng)]:
            yield from (message.content for message in dialogue)


def lm_config(vocabulary: int) -> LlamaConfig:
    """Configure 1.4 M parameters: 4 layers of width 160, with tied embeddings.

    New weights have a standard deviation of 1/sqrt(width). With the usual 0.02 so narrow a network takes
    several times as long to learn to find a word in a list (docs/log.md).
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
    """Packed rows, and the token ids of each object in their lists, in the order of the rows."""

    packed: PackedBatch
    places: list[list[int]]


def corpus_batches(
    rng: np.random.Generator, chat: ChatFormat, lesson: lessons.Lesson, *, readings: int
) -> list[ReadingBatch]:
    """Draw a batch of lists with questions and one of translations; their mean losses count alike."""
    lists = []
    for _ in range(readings):
        places, dialogues = lessons.reading(rng, lesson)
        lists.append((places, [_branch(chat, dialogue) for dialogue in dialogues]))
    translations = [_branch(chat, lessons.translation(rng)) for _ in range(lesson.translations)]
    batches = [list_batch(chat, lists)]
    if translations:
        rows = [Row(chat.prefix_ids(0), [branch]) for branch in translations]
        batches.append(ReadingBatch(pack(rows), []))
    return batches


@dataclass(frozen=True)
class Corpus(IterableDataset[list[ReadingBatch]]):
    """The batches of all steps, as a function of the seed."""

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
    """Pack lists and the texts about them: objects become ``<image>`` tokens, empty places padding."""
    rows = []
    for places, branches in lists:
        tokens = [chat.image_id if place else chat.pad_id for place in places]
        rows.append(Row([*tokens, *chat.prefix_ids(0)], branches))
    objects = [chat.text_ids(place) for places, _ in lists for place in places if place]
    return ReadingBatch(pack(rows), objects)


def list_prefix(model: LlamaForCausalLM, places: list[list[int]]) -> Tensor | None:
    """Sum the embeddings of each object's tokens: float[1, N, D].

    One position holds a whole object, as an image token will. From a list with a position for each word, so
    small a model does not learn which word belongs to which object (docs/log.md).
    """
    if not places:
        return None
    offsets = np.cumsum([0, *map(len, places)])[:-1]
    ids = torch.tensor([token for place in places for token in place])
    weight = model.get_input_embeddings().weight
    return F.embedding_bag(ids, weight, torch.from_numpy(offsets), mode="sum")[None]


def _branch(chat: ChatFormat, dialogue: tuple[Message, ...]) -> Branch:
    lang = "zh" if "\u4e00" <= dialogue[-1].content[0] <= "\u9fff" else "en"
    return Branch(chat.branch(dialogue), LANG_IDS[lang])


def reading_loss(model: LlamaForCausalLM, chat: ChatFormat, batch: ReadingBatch) -> dict[int, LossSum]:
    """Return the summed loss of a batch by language."""
    prefix = list_prefix(model, batch.places)
    return packed_loss(model, batch.packed, image_id=chat.image_id, image_prefix=prefix)


def lr_factor(lesson: lessons.Lesson, step: int, steps: int) -> float:
    """Return the learning rate's factor: warm-up, then constant, or a cosine in a lesson that settles."""
    return cosine(step, steps=steps, warmup=30, floor=0.02 if lesson.settles else 1.0)


def pretrain_lm(*, seed: int, steps: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train the tokenizer and the model from scratch on freshly drawn text."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(corpus_texts(np.random.default_rng(seed), 1000))
    chat = ChatFormat(tokenizer)
    model = LlamaForCausalLM(lm_config(len(tokenizer)))
    optimizer = Optimizer(model.named_parameters())
    # A worker process draws the batches, which is a tenth of a step's work.
    drawn = DataLoader(Corpus(chat, seed, steps, READINGS), batch_size=None, num_workers=1)
    with log.progress("pre-train the LM", steps) as bar:
        for step, batches in enumerate(drawn):
            lesson, begins, length = lessons.lesson_at(step, steps)
            with torch.autocast("cpu", torch.bfloat16):
                sums = [reading_loss(model, chat, batch) for batch in batches]
            loss = torch.stack([mean_loss(part) for part in sums]).sum()
            optimizer.step(loss, lr=3e-3 * lr_factor(lesson, step - begins, length))
            if step % 50 == 0:
                losses = " ".join(f"{mean_loss(part).item():.3f}" for part in sums)
                log.logger.info("lm step %d, losses of lists and translations: %s", step, losses)
            bar.advance()
    return model.eval(), tokenizer


def lm_scores(model: LlamaForCausalLM, chat: ChatFormat, *, seed: int) -> dict[str, float]:
    """Return the percentage of texts whose every token is predicted right, by type of text and language.

    Questions have phrasings that are kept for evaluation, and sentences come from the forge's side, so none
    was trained on.
    """
    rng = np.random.default_rng((seed, 17))
    lists, keys = [], []
    for lang in lessons.LANGS:
        for _ in range(SCORED_LISTS):
            scene = sample_scene(rng, held_out=False)
            branches = []
            for kind in QUESTION_TYPES:
                meaning = questions.ask(rng, scene, kind)
                if meaning is not None:
                    branches.append(_question(rng, chat, meaning, lang))
                    keys.append(f"{kind}/{lang}")
            branches.append(Branch(chat.branch(lessons.describe(rng, scene, lang))))
            keys.append(f"caption/{lang}")
            lists.append((lessons.object_list(rng, scene), branches))
    for _ in range(SCORED_TEXTS):
        source, target = lessons.sentence_pair(rng, for_forge=True)
        turns = Message("user", lessons.TRANSLATE + source), Message("assistant", target)
        lists.append(([], [Branch(chat.branch(turns))]))
        keys.append("translation")
    right = defaultdict(list)
    for key, exact in zip(keys, _exact(model, chat, lists), strict=True):
        right[key].append(exact)
    return {key: round(100 * float(np.mean(values)), 2) for key, values in right.items()}


def _question(rng: np.random.Generator, chat: ChatFormat, meaning: Meaning, lang: str) -> Branch:
    language = Language.load(lang)
    question = language.say(meaning, int(rng.choice(EVAL_PHRASINGS))) + lessons.BRIEF[lang]
    answer = language.answer(meaning.task, str(meaning.value))
    return Branch(chat.branch((Message("user", question), Message("assistant", answer))))


@torch.inference_mode()
def _exact(
    model: LlamaForCausalLM, chat: ChatFormat, lists: list[tuple[list[str], list[Branch]]]
) -> list[bool]:
    """Return for each branch whether all of its supervised tokens are the likeliest."""
    exact: list[bool] = []
    for start in range(0, len(lists), 50):
        batch = list_batch(chat, lists[start : start + 50])
        prefix = list_prefix(model, batch.places)
        hidden_states = packed_hidden_states(model, batch.packed, image_id=chat.image_id, image_prefix=prefix)
        likeliest = model.lm_head(hidden_states).argmax(-1).numpy()
        right = (likeliest == batch.packed.labels) | (batch.packed.labels == IGNORE)
        parts = segments(batch.packed.lengths)
        exact += [
            bool(right[start : start + length].all())
            for branch, start, length in zip(parts.branches, parts.starts, parts.lengths, strict=True)
            if branch
        ]
    return exact

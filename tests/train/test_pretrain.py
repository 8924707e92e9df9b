"""What the parts are taught with: places of a list, lessons in turn, pairs that were never shown."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import LlamaForCausalLM

from ziya_visual.core.records import Message
from ziya_visual.data.chat.chat_format import ChatFormat
from ziya_visual.data.packing import Branch, segments
from ziya_visual.scenes import lessons
from ziya_visual.scenes.language import COLORS, HELD_OUT, SHAPES
from ziya_visual.train.pretrain.language_model import (
    Corpus,
    corpus_batches,
    corpus_texts,
    list_batch,
    list_prefix,
    lm_config,
    lr_factor,
    reading_loss,
    train_tokenizer,
)
from ziya_visual.train.pretrain.vision import PatchTeacher, draw_batch, never_shown, vision_config


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(train_tokenizer(corpus_texts(np.random.default_rng(0), 20)))


def test_a_place_holds_the_sum_of_its_words(chat: ChatFormat) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(lm_config(len(chat.tokenizer)))
    turns = Message("user", "ring: color?"), Message("assistant", "red")
    asked = [Branch(chat.branch(turns))]
    lists = [(["", "red ring", "", "blue star"], asked), (["red ring", "", "", ""], asked)]
    batch = list_batch(chat, lists)
    places = segments(batch.packed.lengths).starts[::2, None] + np.arange(4)
    assert (batch.packed.input_ids[places] == chat.image_id).tolist() == [
        [False, True, False, True],
        [True, False, False, False],
    ]
    prefix = list_prefix(model, batch.places)
    assert prefix is not None
    words = model.get_input_embeddings().weight[chat.text_ids("red ring")].sum(0)
    torch.testing.assert_close(prefix[0, 0], words)
    torch.testing.assert_close(prefix[0, 2], words)
    assert reading_loss(model, chat, batch)[0].count == 2 * (len(chat.text_ids("red")) + 1)


def test_where_an_object_stands_in_a_list_says_nothing() -> None:
    scene = lessons.offering(np.random.default_rng(0), lessons.LESSONS[0])
    lists = [lessons.object_list(np.random.default_rng(seed), scene) for seed in range(20)]
    assert all(len(places) == lessons.PLACES for places in lists)
    assert len({frozenset(filter(None, places)) for places in lists}) == 1
    assert len({tuple(places) for places in lists}) > 10


def test_lessons_follow_each_other_without_a_gap() -> None:
    seen = [lessons.lesson_at(step, 100) for step in range(100)]
    assert {lesson for lesson, _, _ in seen} == set(lessons.LESSONS)
    assert all(begins <= step < begins + length for step, (_, begins, length) in enumerate(seen))


def test_another_process_draws_the_same_batches(chat: ChatFormat) -> None:
    loader = DataLoader(
        Corpus(chat, 7, 8, 2), batch_size=None, num_workers=1, multiprocessing_context="spawn"
    )
    drawn = list(loader)
    rng = np.random.default_rng(7)
    assert len(drawn) == 8
    for step, batches in enumerate(drawn):
        lesson, _, _ = lessons.lesson_at(step, 8)
        here = corpus_batches(rng, chat, lesson, readings=2)
        assert [batch.places for batch in batches] == [batch.places for batch in here]
        for theirs, ours in zip(batches, here, strict=True):
            np.testing.assert_array_equal(theirs.packed.input_ids, ours.packed.input_ids)
            np.testing.assert_array_equal(theirs.packed.labels, ours.packed.labels)


def test_the_learning_rate_falls_in_lessons_that_settle_alone() -> None:
    level, settling = lessons.LESSONS[0], lessons.LESSONS[-1]
    assert lr_factor(level, 199, 200) == 1
    assert lr_factor(settling, 199, 200) < 0.05


def test_an_absent_pair_teaches_nothing() -> None:
    """No gradient reaches a shape's logit on patches of a colour that it is never shown in."""
    torch.manual_seed(0)
    teacher = PatchTeacher(vision_config())
    pixels, labels = draw_batch(np.random.default_rng(0), 24)
    states: list[torch.Tensor] = []
    teacher.head.register_forward_hook(lambda _m, _i, out: (out.retain_grad(), states.append(out))[0])
    loss, _ = teacher(pixels, labels)
    loss.backward()
    gradients = states[0].grad
    assert gradients is not None
    shapes = gradients[..., 1 : 1 + len(SHAPES)]
    absent = never_shown(labels.color) & (labels.shown > 0)[..., None]
    assert absent.any()
    assert torch.all(shapes[absent] == 0)
    assert torch.any(shapes[~absent] != 0)
    blue = torch.tensor([[COLORS.index("blue"), -100]])
    assert {SHAPES[i] for i in never_shown(blue)[0, 0].nonzero().flatten().tolist()} == {
        shape for shape, color in HELD_OUT if color == "blue"
    }
    assert not never_shown(blue)[0, 1].any()

"""The packed forward gives each text the loss and the gradients that it would have alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from ziya_visual.data.chat.chat_format import Encoded
from ziya_visual.data.packing import IGNORE, Branch, Lengths, PackedBatch, Row, pack
from ziya_visual.model.packed import forward as loss_module
from ziya_visual.model.packed.attention import PLAIN, build_tree, plain_attention
from ziya_visual.model.packed.forward import dense_mask, mean_loss, packed_loss

IMAGE, VOCABULARY, QUERIES = 3, 50, 4


@pytest.fixture(params=["eager", PLAIN])
def model(request: pytest.FixtureRequest) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        attn_implementation=request.param,
    )
    return LlamaForCausalLM(config).eval()


def random_rows(rng: np.random.Generator, count: int) -> list[Row]:
    rows = []
    for _ in range(count):
        branches = []
        for number in range(int(rng.integers(1, 6))):
            size = int(rng.integers(2, 12))
            ids = rng.integers(4, VOCABULARY, size).tolist()
            branches.append(Branch(Encoded(ids, [False, *(rng.random(size - 1) < 0.7).tolist()]), number % 2))
        rows.append(Row([IMAGE] * QUERIES + [1], branches))
    return rows


def unpacked_loss(model: LlamaForCausalLM, rows: list[Row], prefix: torch.Tensor) -> torch.Tensor:
    """Each branch behind its prefix, by the stock class."""
    total, count = torch.zeros(()), 0
    for row, image in zip(rows, prefix, strict=True):
        for branch in row.branches:
            ids = torch.tensor([[*row.prefix, *branch.encoded.ids]])
            embeds = model.get_input_embeddings()(ids)
            embeds = torch.cat([image[None], embeds[:, QUERIES:]], 1)
            logits = model(inputs_embeds=embeds).logits[0]
            learn = [False] * len(row.prefix) + branch.encoded.supervised
            targets = [at for at, wanted in enumerate(learn) if wanted]
            if targets:
                predicted = logits[[at - 1 for at in targets]]
                total = total + torch.nn.functional.cross_entropy(predicted, ids[0, targets], reduction="sum")
                count += len(targets)
    return total / count


@pytest.mark.parametrize("seed", range(3))
def test_packed_equals_unpacked_in_loss_and_gradients(model: LlamaForCausalLM, seed: int) -> None:
    rows = random_rows(np.random.default_rng(seed), 3)
    grads = []
    losses = []
    for together in (True, False):
        model.zero_grad()
        prefix = torch.randn(3, QUERIES, 32, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        if together:
            loss = mean_loss(packed_loss(model, pack(rows), image_id=IMAGE, image_prefix=prefix))
        else:
            loss = unpacked_loss(model, rows, prefix)
        loss.backward()
        losses.append(loss.item())
        grads.append([prefix.grad, *(parameter.grad for parameter in model.parameters())])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for ours, stock in zip(*grads, strict=True):
        assert torch.allclose(ours, stock, rtol=1e-4, atol=1e-6)


def test_a_row_of_texts_alone_stands_beside_those_of_pictures(model: LlamaForCausalLM) -> None:
    """Without a prefix at all, as where a language model begins with no token of its own."""
    (row,) = random_rows(np.random.default_rng(0), 1)
    prefix = torch.randn(1, QUERIES, 32)
    alone = Row([], row.branches)
    with torch.inference_mode():
        together = packed_loss(model, pack([row, alone]), image_id=IMAGE, image_prefix=prefix)
        apart = [
            packed_loss(model, pack([row]), image_id=IMAGE, image_prefix=prefix),
            packed_loss(model, pack([alone])),
        ]
    for lang, found in together.items():
        assert found.total.item() == pytest.approx(sum(part[lang].total.item() for part in apart), rel=1e-5)
        assert found.count == sum(part[lang].count for part in apart)


def test_logits_in_pieces_are_all_logits(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pack(random_rows(np.random.default_rng(0), 3))
    found = []
    for most in (loss_module.LOGITS, 7 * VOCABULARY):
        monkeypatch.setattr(loss_module, "LOGITS", most)
        model.zero_grad()
        loss = mean_loss(packed_loss(model, batch))
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for whole, pieces in zip(*found, strict=True):
        assert torch.allclose(pieces, whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bias", [True, False])
def test_a_frozen_head_gives_the_same_losses_and_gradients(
    bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each token's gradient is made on the way forward, whatever its loss is multiplied with later."""
    torch.manual_seed(0)
    head = torch.nn.Linear(16, VOCABULARY, bias=bias)
    states = torch.randn(23, 16, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (23,)).index_fill_(0, torch.tensor([4, 22]), IGNORE)
    weights = torch.rand(23)
    monkeypatch.setattr(loss_module, "FROZEN_LOGITS", 5 * VOCABULARY)
    found = []
    for learns in (True, False):
        head.requires_grad_(learns)
        states.grad = None
        losses = loss_module.token_losses(head, states, targets)
        (losses * weights).sum().backward()
        assert states.grad is not None
        found.append((losses.detach(), states.grad.clone()))
    for usual, frozen in zip(*found, strict=True):
        assert torch.allclose(frozen, usual, rtol=1e-5, atol=1e-6)
    assert found[1][0][4] == 0


@pytest.mark.slow
def test_flex_attention_sees_what_the_dense_mask_shows(model: LlamaForCausalLM) -> None:
    """Forward alone: torch has its backward pass on GPUs only."""
    batch = pack(random_rows(np.random.default_rng(0), 3))
    prefix = torch.randn(3, QUERIES, 32)
    losses = []
    for attention in ("flex_attention", "sdpa"):
        model.set_attn_implementation(attention)
        with torch.no_grad():
            losses.append(mean_loss(packed_loss(model, batch, image_id=IMAGE, image_prefix=prefix)))
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-5)


def test_losses_are_summed_by_language(model: LlamaForCausalLM) -> None:
    rows = random_rows(np.random.default_rng(1), 3)
    prefix = torch.randn(3, QUERIES, 32)
    both = packed_loss(model, pack(rows), image_id=IMAGE, image_prefix=prefix)
    for lang in (0, 1):
        own = [Row(row.prefix, [b for b in row.branches if b.lang == lang]) for row in rows]
        alone = packed_loss(model, pack(own), image_id=IMAGE, image_prefix=prefix)[lang]
        assert alone.count == both[lang].count
        assert alone.total.item() == pytest.approx(both[lang].total.item(), rel=1e-5)


def test_a_missing_placeholder_is_an_error_with_numbers(model: LlamaForCausalLM) -> None:
    rows = random_rows(np.random.default_rng(0), 2)
    with pytest.raises(ValueError, match="8 image placeholders in the batch for 12 image tokens"):
        packed_loss(model, pack(rows), image_id=IMAGE, image_prefix=torch.zeros(3, QUERIES, 32))


def test_the_mask_is_the_documented_example() -> None:
    row = Row([7, 7], [Branch(Encoded([10, 11], [False, True])), Branch(Encoded([12, 13], [True, True]))])
    batch: PackedBatch = pack([row, Row([7], [])])
    sees = dense_mask(batch.lengths)[0, 0] == 0
    expected = ["x......", "xx.....", "xxx....", "xxxx...", "xx..x..", "xx..xx.", "......x"]
    assert ["".join("x" if s else "." for s in line) for line in sees.tolist()] == expected
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 2, 3, 0]
    assert batch.labels.tolist() == [IGNORE, IGNORE, 11, IGNORE, 13, IGNORE, IGNORE]


LENGTHS = st.lists(
    st.lists(st.integers(1, 9), max_size=5).flatmap(
        lambda branches: st.integers(0 if branches else 1, 4).map(lambda prefix: (prefix, *branches))
    ),
    min_size=1,
    max_size=5,
).map(tuple)


@given(lengths=LENGTHS, heads=st.sampled_from([(4, 4), (4, 2)]))
@settings(max_examples=100)
def test_attention_by_segments_is_attention_under_the_dense_mask(
    lengths: Lengths, heads: tuple[int, int]
) -> None:
    """Values and gradients, for rows of any form: without a prefix, without a branch, of unlike lengths."""
    tokens = sum(map(sum, lengths))
    rng = torch.Generator().manual_seed(tokens)
    states = [torch.randn(1, count, tokens, 8, generator=rng) for count in (heads[0], heads[1], heads[1])]
    weight = torch.randn(1, tokens, heads[0], 8, generator=rng)
    tree = build_tree(lengths, dtype=torch.float32, device=torch.device("cpu"))
    results = []
    for extra in ({"attention_mask": None, "tree": tree}, {"attention_mask": dense_mask(lengths)}):
        own = [x.clone().requires_grad_() for x in states]
        out, _ = plain_attention(torch.nn.Module(), *own, **extra)
        (out * weight).sum().backward()
        results.append([out.detach(), *(x.grad for x in own)])
    for ours, dense in zip(*results, strict=True):
        assert torch.allclose(ours, dense, rtol=1e-4, atol=1e-5)


def test_a_decoder_that_hands_no_tree_on_fails_aloud(model: LlamaForCausalLM) -> None:
    query = torch.zeros(1, 4, 6, 8)
    with pytest.raises(ValueError, match="does not pass"):
        plain_attention(model, query, query, query, query.new_empty(1, 1, 0, 0))


def test_nothing_to_pack_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rows"):
        pack([])

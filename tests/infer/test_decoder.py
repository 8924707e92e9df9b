"""Decoding in slots gives each prompt the tokens that stock ``generate`` gives it alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from ziya_visual.infer.decoder import (
    MAX_PADDING,
    Decoder,
    Prompt,
    Sampling,
    compute_prefixes,
    generate,
    group_by_length,
)
from ziya_visual.infer.prefix_cache import Prefix
from ziya_visual.model.packed.attention import INFERENCE, PLAIN

EOS = 2


@pytest.fixture(scope="module", params=[PLAIN, INFERENCE, "eager", "sdpa"])
def model(request: pytest.FixtureRequest) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        eos_token_id=EOS,
        attn_implementation=request.param,
    )
    return LlamaForCausalLM(config).eval()


def alone(model: LlamaForCausalLM, prompt: Prompt, prefix: torch.Tensor | None = None) -> list[int]:
    embeds = model.get_input_embeddings()(torch.tensor([prompt.ids]))
    if prefix is not None:
        embeds = torch.cat([prefix[None], embeds], 1)
    tokens = model.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        max_new_tokens=prompt.max_new_tokens,
        do_sample=False,
        pad_token_id=0,
    )[0].tolist()
    return tokens[: tokens.index(EOS)] if EOS in tokens else tokens


def prompts(count: int, prefixes: list[Prefix] | None = None) -> list[Prompt]:
    made = torch.Generator().manual_seed(1)
    found = []
    for number in range(count):
        size = int(torch.randint(1, 12, (1,), generator=made))
        ids = torch.randint(3, 50, (size,), generator=made).tolist()
        found.append(Prompt(ids, 1 + number % 17, prefixes[number % len(prefixes)] if prefixes else None))
    return found


@pytest.mark.parametrize("rows", [1, 4, 64])
def test_many_prompts_of_mixed_lengths_equal_stock_generate(model: LlamaForCausalLM, rows: int) -> None:
    asked = prompts(23)
    assert generate(model, asked, eos_id=EOS, rows=rows) == [alone(model, prompt) for prompt in asked]


def test_prompts_behind_shared_prefixes_equal_stock_generate(model: LlamaForCausalLM) -> None:
    embeds = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(2))
    asked = prompts(14, compute_prefixes(model, embeds))
    found = generate(model, asked, eos_id=EOS, rows=6)
    assert found == [alone(model, prompt, embeds[number % 3]) for number, prompt in enumerate(asked)]


def test_prompts_that_join_late_change_nothing(model: LlamaForCausalLM) -> None:
    asked = prompts(6)
    decoder = Decoder(model, eos_id=EOS)
    answers = {}
    for step in range(60):
        if step % 3 == 0 and step // 3 < len(asked):
            decoder.add([asked[step // 3]], [step // 3])
            answers.update({slot.tag: slot.tokens for slot in decoder.slots})
        decoder.step()
        answers.update({slot.tag: slot.tokens for slot in decoder.slots})
    for tag, prompt in enumerate(asked):
        assert [token for token in answers[tag] if token != EOS] == alone(model, prompt)


def test_sampling_follows_its_seed(model: LlamaForCausalLM) -> None:
    def sampled(seed: int | None) -> list[int]:
        prompt = Prompt([5, 6], 20, sampling=Sampling(temperature=1.5, top_p=0.95, seed=seed))
        return generate(model, [prompt], eos_id=EOS)[0]

    assert sampled(1) == sampled(1)
    assert len({tuple(sampled(None)) for _ in range(5)}) > 1, "without a seed each is another"
    assert len({tuple(sampled(seed)) for seed in range(5)}) > 1


def test_log_probabilities_are_those_of_the_logits(model: LlamaForCausalLM) -> None:
    decoder = Decoder(model, eos_id=-1)
    decoder.add([Prompt([5, 6, 7], 4, sampling=Sampling(top_logprobs=3)), Prompt([9], 4)], [0, 1])
    for _ in range(3):
        decoder.step()
    first, second = sorted(decoder.slots, key=lambda slot: slot.tag)
    assert not second.logprobs
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, 7, *first.tokens]])).logits[0, 2:-1]
    expected = logits.log_softmax(-1)
    for row, found in zip(expected, first.logprobs, strict=True):
        assert found.logprob == pytest.approx(row[found.token].item(), abs=1e-4)
        assert [token for token, _ in found.top] == row.topk(3).indices.tolist()


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60))
def test_what_is_prefilled_together_needs_little_padding(lengths: list[int]) -> None:
    groups = group_by_length(lengths)
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[place] for place in group)
        assert sum(longest - lengths[place] for place in group) <= MAX_PADDING
    assert len(groups) <= len(set(lengths))


def test_nothing_asked_is_nothing_answered(model: LlamaForCausalLM) -> None:
    assert generate(model, [], eos_id=EOS) == []

"""Weights in eight bits compute what the rounded weights would, and answer like the weights they were."""

import copy
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_models import seeing
from torch import nn

from ziya_visual.infer.engine import ZiyaVisual, open_model
from ziya_visual.infer.quantized import KERNEL_ROWS, Dtype, Int8Linear, quantize
from ziya_visual.infer.text_model import TextModel
from ziya_visual.model.checkpoint import save_checkpoint
from ziya_visual.train.pretrain import SHIPPED

SIDE = 16


@given(
    rows=st.sampled_from([1, KERNEL_ROWS, KERNEL_ROWS + 1, 40]),
    sizes=st.tuples(st.sampled_from([32, 96, 160]), st.sampled_from([32, 50, 1100])),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_computes_with_the_rounded_weights(
    rows: int, sizes: tuple[int, int], bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    linear = nn.Linear(*sizes, bias=bias).bfloat16()
    states = torch.randn(2, rows, sizes[0]).bfloat16()[:1]
    layer = Int8Linear(linear)
    rounded = layer.codes.float() * layer.scales.float()[:, None]
    assert ((rounded - linear.weight.float()).abs() <= 0.8 * layer.scales.float()[:, None]).all()
    with torch.no_grad():
        expected = states.float() @ rounded.T
        expected += 0 if linear.bias is None else linear.bias.float()
        found = layer(states)
    assert found.dtype == torch.bfloat16
    assert found.shape == (1, rows, sizes[1])
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.02)


def test_a_row_of_zeros_stays_zero() -> None:
    linear = nn.Linear(32, 32, bias=False).bfloat16()
    nn.init.zeros_(linear.weight)
    assert not Int8Linear(linear)(torch.ones(1, 32).bfloat16()).any()


def test_a_language_model_hardly_changes() -> None:
    whole = TextModel.from_pretrained(SHIPPED / "lm", dtype="bfloat16").language_model
    small = copy.deepcopy(whole)
    quantize(small)
    linears = [type(module) for module in small.modules() if isinstance(module, nn.Linear | Int8Linear)]
    assert set(linears) == {Int8Linear}
    assert isinstance(small.get_output_embeddings(), Int8Linear)
    assert torch.equal(small.get_input_embeddings().weight, whole.get_input_embeddings().weight)
    ids = torch.randint(10, 400, (1, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, expected = (model(ids).logits.float() for model in (small, whole))
    error = (logits - expected).norm() / expected.norm()
    assert 0 < error < 0.05


@pytest.mark.parametrize("dtype", get_args(Dtype))
def test_a_checkpoint_answers_in_each_dtype(dtype: Dtype, tokenizer: Any, tmp_path: Path) -> None:
    made = seeing(tokenizer)
    save_checkpoint(tmp_path / "it", model=made.model, alignment=None, processor=made.processor)
    model = open_model(tmp_path / "it", dtype=dtype)
    assert isinstance(model, ZiyaVisual)
    expected = {"auto": torch.float32, "int8": torch.bfloat16}.get(dtype) or getattr(torch, dtype)
    assert {weight.dtype for weight in model.model.parameters()} == {expected}
    in_eight_bits = [module for module in model.language_model.modules() if isinstance(module, Int8Linear)]
    assert bool(in_eight_bits) == (dtype == "int8")
    assert model.chat(Image.new("RGB", (SIDE, SIDE), "red"), "What is there?", max_new_tokens=4)

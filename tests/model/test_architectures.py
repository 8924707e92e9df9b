"""Any causal language model: its packed loss is that of each text alone, it answers as stock generates."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import LANGUAGE_MODELS, QUERIES, tiny
from torch.nn import functional as F  # noqa: N812
from transformers import AutoModelForCausalLM, BloomConfig

from ziya_visual.core.records import Message
from ziya_visual.data.chat.chat_format import Encoded
from ziya_visual.data.packing import Branch, Row, pack
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.model.packed.attention import PLAIN
from ziya_visual.model.packed.forward import mean_loss, packed_loss

VOCABULARY = 300


def rows() -> list[Row]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(3):
        sizes = rng.integers(3, 12, 4)
        branches = [
            Branch(Encoded(rng.integers(4, 300, n).tolist(), [False] + [True] * (n - 1))) for n in sizes
        ]
        found.append(Row(rng.integers(4, 300, 5).tolist(), branches))
    return found


def loss_alone(model: Any, packed: list[Row]) -> float:
    losses = []
    for row in packed:
        for branch in row.branches:
            ids = torch.tensor([[*row.prefix, *branch.encoded.ids]])
            start = len(row.prefix)
            losses.append(
                F.cross_entropy(
                    model(input_ids=ids).logits[0, start:-1], ids[0, start + 1 :], reduction="none"
                )
            )
    return float(torch.cat(losses).mean())


@pytest.mark.parametrize("attention", [PLAIN, "sdpa"])
@pytest.mark.parametrize("architecture", LANGUAGE_MODELS)
def test_the_packed_loss_is_that_of_each_text_alone(architecture: str, attention: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LANGUAGE_MODELS[architecture](VOCABULARY)).eval()
    with torch.inference_mode():
        wanted = loss_alone(model, rows())
        model.set_attn_implementation(attention)
        assert mean_loss(packed_loss(model, pack(rows()))).item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("architecture", LANGUAGE_MODELS)
def test_answers_are_those_that_stock_generates(architecture: str) -> None:
    model, alignment, processor = tiny(architecture)
    with torch.no_grad():  # else the likeliest token may always be the last
        for parameter in model.language_model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    picture = Image.new("RGB", (16, 16), "red")
    engine = ZiyaVisual(model, alignment, processor)
    answers = []
    for question in ("what is it?", "这是什么？", "how many red rings", "a"):
        turns = [Message("user", question)]
        ids = processor.chat.encode(turns, num_image_tokens=QUERIES, add_generation_prompt=True).ids
        with torch.inference_mode():
            tokens = model.generate(
                pixel_values=processor.pixels([picture]),
                input_ids=torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=12,
                do_sample=False,
                eos_token_id=processor.chat.eos_id,
                pad_token_id=processor.chat.pad_id,
            )[0]
        wanted = processor.tokenizer.decode(tokens[len(ids) :], skip_special_tokens=True)
        answers.append(engine.chat(picture, question, max_new_tokens=12))
        assert answers[-1] == wanted
    assert any(answers)


def test_one_that_cannot_be_told_positions_fails_aloud() -> None:
    model = AutoModelForCausalLM.from_config(
        BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=1, n_head=4)
    )
    with pytest.raises(ValueError, match="BloomForCausalLM takes no position_ids"):
        packed_loss(model, pack(rows()))

"""Stock folders open with us and ours with stock: the same logits and the same greedy answers."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlamaConfig,
)

from ziya_visual.core.errors import CheckpointError
from ziya_visual.core.records import Message
from ziya_visual.infer.engine import ZiyaVisual, open_model
from ziya_visual.model.checkpoint import load_checkpoint, save_checkpoint
from ziya_visual.model.network import ZiyaInstructModel, ZiyaVisualModel

NEW = 8


def asked(processor: Any, question: str = tiny.QUESTION) -> torch.Tensor:
    """The token ids of a question behind its picture, int64[1, L]."""
    encoded = processor.chat.encode(
        [Message("user", question)], num_image_tokens=tiny.QUERIES, add_generation_prompt=True
    )
    return torch.tensor([encoded.ids])


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    assert one.std() > 0.1, "logits that say nothing"
    assert (one - other).abs().max() <= 1e-5


def answer(stock: Any, processor: Any, ids: torch.Tensor, **given: Any) -> str:
    """Stock's greedy answer."""
    found = stock.generate(input_ids=ids, max_new_tokens=NEW, do_sample=False, **given)
    return processor.tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["opt", "llama", "qwen2"])
def test_blip2(tmp_path: Path, kind: str) -> None:
    stock = tiny.blip2_folder(tmp_path / "stock", kind)
    model, alignment, processor = load_checkpoint(tmp_path / "stock")
    assert alignment is None
    pixels, ids = processor.pixels([tiny.picture()]), asked(processor)
    expected = stock(pixel_values=pixels, input_ids=ids).logits
    close(model(pixel_values=pixels, input_ids=ids).logits, expected)

    engine = open_model(tmp_path / "stock")
    assert isinstance(engine, ZiyaVisual)
    said = engine.chat(tiny.picture(), tiny.QUESTION, max_new_tokens=NEW)
    assert said == answer(stock, processor, ids, pixel_values=pixels) != ""
    with pytest.raises(CheckpointError, match=r"no alignment\.safetensors, which retrieval needs"):
        engine.embed_texts(["红"])

    save_checkpoint(tmp_path / "ours", model=model, alignment=alignment, processor=processor)
    again, info = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    assert again.config.architectures == ["Blip2ForConditionalGeneration"]
    close(again(pixel_values=pixels, input_ids=ids).logits, expected)


def test_instructblip(tmp_path: Path) -> None:
    stock = tiny.instructblip_folder(tmp_path / "stock")
    model, alignment, processor = load_checkpoint(tmp_path / "stock")
    assert isinstance(model, ZiyaInstructModel)
    assert alignment is None
    save_checkpoint(tmp_path / "ours", model=model, alignment=None, processor=processor)
    again, info = InstructBlipForConditionalGeneration.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not info["missing_keys"] | info["unexpected_keys"]
    reader = InstructBlipProcessor.from_pretrained(tmp_path / "ours")
    pixels = processor.pixels([tiny.picture()])
    engine = open_model(tmp_path / "ours")
    prefixes = set()
    for question in (tiny.QUESTION, "图中有几个红色的圆环？", "ring"):
        ids = asked(processor, question)
        read = reader(images=tiny.picture(), text=question, return_tensors="pt")
        seen = {key: read[key] for key in ("qformer_input_ids", "qformer_attention_mask")}
        seen["pixel_values"] = pixels
        expected = stock(**seen, input_ids=ids).logits
        close(model(**seen, input_ids=ids).logits, expected)
        close(again(**seen, input_ids=ids).logits, expected)
        queries = model.query_images(
            model.encode_images(pixels), (read["qformer_input_ids"], read["qformer_attention_mask"])
        )
        prefixes.add(round(queries.sum().item(), 3))
        said = engine.chat(tiny.picture(), question, max_new_tokens=NEW)
        assert said == answer(stock, processor, ids, **seen)
    assert len(prefixes) == 3, "the queries read another thing for each question"


def test_instructblip_questions_of_other_lengths_are_read_alike_in_a_batch(tmp_path: Path) -> None:
    tiny.instructblip_folder(tmp_path / "stock")
    engine = open_model(tmp_path / "stock")
    dialogues = [[Message("user", text)] for text in (tiny.QUESTION, "ring", "两个蓝色方块")]
    together = engine.prefixes([tiny.picture()] * 3, dialogues)
    for row, dialogue in enumerate(dialogues):
        (alone,) = open_model(tmp_path / "stock").prefixes([tiny.picture()], [dialogue])
        assert (together[row].values[-1] - alone.values[-1]).abs().max() <= 1e-5
    assert (together[0].values[-1] - together[1].values[-1]).abs().max() > 1e-3


def test_a_batch_with_one_picture_several_and_none_gives_what_each_gives_alone(tmp_path: Path) -> None:
    tiny.blip2_folder(tmp_path / "stock", "llama")
    model, _, processor = load_checkpoint(tmp_path / "stock")
    text = processor.chat.encode([Message("user", "ring?")], add_generation_prompt=True).ids
    image = [model.image_id] * tiny.QUERIES
    pixels = processor.pixels([tiny.picture(seed) for seed in range(3)])
    rows = [(image + text, pixels[:1]), (image * 2 + text, pixels[1:]), (text, None)]
    alone = []
    for ids, shown in rows:
        # Stock cannot do without pixels: where no placeholder stands for them they change nothing.
        seen = pixels[:1] if shown is None else shown
        found = model.generate(
            pixel_values=seen, input_ids=torch.tensor([ids]), max_new_tokens=NEW, do_sample=False
        )
        alone.append(found[0, len(ids) :].tolist())
    length = max(len(ids) for ids, _ in rows)
    batch = torch.tensor([[0] * (length - len(ids)) + ids for ids, _ in rows])
    mask = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids, _ in rows])
    together = model.generate(
        pixel_values=pixels, input_ids=batch, attention_mask=mask, max_new_tokens=NEW, do_sample=False
    )
    assert len(set(map(tuple, alone))) == 3
    for one, many in zip(alone, together[:, length:].tolist(), strict=True):
        assert many[: len(one)] == one


def test_full_sizes_are_the_published_ones() -> None:
    llama_13b = LlamaConfig(
        vocab_size=32000,
        hidden_size=5120,
        intermediate_size=13824,
        num_hidden_layers=40,
        num_attention_heads=40,
    )
    with torch.device("meta"):
        model = ZiyaVisualModel(Blip2Config(text_config=llama_13b.to_dict()))

    def count(module: Any) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(model.vision_model) == 985_952_256  # ViT-g without its last block, as BLIP-2 uses it
    assert count(model.qformer) + model.query_tokens.numel() == 105_137_664 + 32 * 768
    assert count(model.language_model) == 13_015_864_320
    visual = count(model) - count(model.language_model)
    assert visual * 4 == pytest.approx(4.38e9, rel=0.01), "Ziya-BLIP2-14B-Visual-v1's file, in float32"

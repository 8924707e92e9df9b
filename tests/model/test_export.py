"""Export: stock classes open it with our numbers, and what is not so is not written."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import tiny as stock_folders
import torch
import yaml
from safetensors.torch import load_file
from tiny_models import logits, tiny, tiny_tokenizer
from transformers import (
    AutoProcessor,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    GenerationConfig,
)

from ziya_visual.core.errors import CheckpointError, ConfigError, DataError
from ziya_visual.core.files import read_json, write_json
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.model.build.compose import new_alignment
from ziya_visual.model.checkpoint import save_checkpoint
from ziya_visual.model.lora import add_lora, parameters_by_part, save_adapter
from ziya_visual.model.publish import parity
from ziya_visual.model.publish.export import export


@pytest.mark.parametrize("architecture", ["llama", "opt", "qwen2"])
def test_stock_opens_an_export_with_our_logits(architecture: str, tokenizer: Any, tmp_path: Path) -> None:
    model, alignment, processor = tiny(architecture, tokenizer)
    save_checkpoint(tmp_path / "c", model=model, alignment=alignment, processor=processor)
    export(tmp_path / "c", to=tmp_path / "out")
    stock, info = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert (logits(stock, processor) - logits(model, processor)).abs().max() <= 1e-5
    report = read_json(tmp_path / "out" / "parity.json")
    assert report["prompts"] == 10
    for name in ("stock_against_ours", "batch_of_8_against_1"):
        assert 0 <= report[name]["mean"] <= report[name]["max"] <= 1e-5
    config = read_json(tmp_path / "out" / "config.json")
    assert config["architectures"] == ["Blip2ForConditionalGeneration"]
    assert "_name_or_path" not in json.dumps(config)
    generation = GenerationConfig.from_pretrained(tmp_path / "out")
    assert processor.chat.eos_id in [generation.eos_token_id, *_listed(generation.eos_token_id)]
    assert generation.pad_token_id == processor.chat.pad_id
    assert isinstance(ZiyaVisual.from_pretrained(tmp_path / "out"), ZiyaVisual)
    stock_keys = load_file(tmp_path / "out" / "model.safetensors")
    index = read_json(tmp_path / "out" / "model.safetensors.index.json")
    assert index["weight_map"] == dict.fromkeys(stock_keys, "model.safetensors")


def _listed(value: Any) -> list[int]:
    return value if isinstance(value, list) else []


def test_an_adapter_is_merged(llama: Any, tmp_path: Path) -> None:
    _, base = llama
    model, alignment, processor = tiny("llama", tiny_tokenizer())
    add_lora(model, rank=2, alpha=4)
    with torch.no_grad():
        for parameter in parameters_by_part(model, alignment)["lora"].values():
            parameter.normal_(std=0.1)
    save_adapter(tmp_path / "a", model=model, alignment=alignment, trained=["lora"], base=base)
    export(tmp_path / "a", to=tmp_path / "out")
    stock = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert (logits(stock, processor) - logits(model, processor)).abs().max() <= 1e-5
    assert not list((tmp_path / "out").glob("adapter*"))


def test_what_is_too_far_apart_is_not_written(tokenizer: Any, tmp_path: Path) -> None:
    model, alignment, processor = tiny("qwen2", tokenizer)
    with torch.no_grad():  # in logits of hundreds of thousands, rounding is more than the tolerance
        model.language_model.lm_head.weight.mul_(1e6)
    save_checkpoint(tmp_path / "c", model=model, alignment=alignment, processor=processor)
    with pytest.raises(CheckpointError, match=r"not exported: .* differs by .*, expected at most 1e-04"):
        export(tmp_path / "c", to=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_what_is_stock_already_is_said(tmp_path: Path) -> None:
    stock_folders.instructblip_folder(tmp_path / "stock")
    with pytest.raises(CheckpointError, match="is stock InstructBLIP already"):
        export(tmp_path / "stock", to=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_that_is_no_number_passes() -> None:
    nan = parity.difference([torch.tensor([float("nan")])], [torch.tensor([0.0])])
    with pytest.raises(CheckpointError, match="some name differs by nan"):
        parity.refuse_above(Path("c"), {"some_name": nan})


def test_a_padded_batch_is_seen_to_differ_where_it_does(llama: Any) -> None:
    (model, _, processor), _ = llama
    asked = parity.prompts(processor)
    assert {prompt.pixels is None for prompt in asked} == {True, False}
    ours = parity.our_logits(model, asked)
    other = tiny("llama", processor.tokenizer)[0]
    with torch.no_grad():
        other.query_tokens.add_(torch.randn(other.query_tokens.shape))
    found = parity.stock_logits(other.eval(), asked, pad_id=processor.chat.pad_id, batch_size=8)
    apart = [parity.difference([a], [b])["max"] for a, b in zip(found, ours, strict=True)]
    shown = [prompt.pixels is not None for prompt in asked]
    assert [value > 1e-4 for value in apart] == shown


def test_retrieval_scores_are_equal(llama: Any, tmp_path: Path) -> None:
    (model, alignment, processor), folder = llama
    export(folder, to=tmp_path / "out", retrieval=True)
    stock, info = Blip2ForImageTextRetrieval.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    images = [picture.resize((16, 16)) for picture in parity.images(3)]
    texts = ["a red circle", "三个绿色的圆形和一个红色的正方形", "two rings"]
    inputs = AutoProcessor.from_pretrained(tmp_path / "out")(
        images=images, text=texts, padding=True, return_tensors="pt"
    )
    engine = ZiyaVisual(model, alignment, processor)
    ours = torch.from_numpy((engine.embed_images(images) @ engine.embed_texts(texts).T).max(1))
    with torch.inference_mode():
        assert (stock(**inputs).logits_per_image - ours).abs().max() <= 1e-6
        matching = stock(**inputs, use_image_text_matching_head=True).logits_per_image
        ids, mask = (
            inputs[name][:, processor.num_query_tokens :] for name in ("input_ids", "attention_mask")
        )
        embeds = model.encode_images(processor.pixels(images))
        assert (matching - alignment.matching_logits(model, embeds, ids, mask)).abs().max() <= 1e-6
    assert matching.std() > 0.001
    assert "alignment.safetensors" not in {path.name for path in (tmp_path / "out").iterdir()}
    report = read_json(tmp_path / "out" / "parity.json")
    assert report["matching_logits"]["max"] <= 1e-6
    assert report["contrastive_scores"]["max"] <= 1e-6


def test_a_q_former_with_a_tokenizer_of_its_own_is_read_by_it(tmp_path: Path) -> None:
    model, _, processor = tiny()
    reader = stock_folders.bert_tokenizer("".join(parity.PROMPTS["en"] + parity.PROMPTS["zh"]))
    model.config.qformer_config.vocab_size = len(reader)
    alignment = new_alignment(model.config.qformer_config, projection_size=16, seed=1)
    alignment.qformer_tokenizer = reader
    save_checkpoint(tmp_path / "c", model=model, alignment=alignment, processor=processor)
    export(tmp_path / "c", to=tmp_path / "out", retrieval=True)
    assert read_json(tmp_path / "out" / "parity.json")["contrastive_scores"]["max"] <= 1e-6
    stock = AutoProcessor.from_pretrained(tmp_path / "out")
    ids = stock(images=parity.images(1), text=["你好。"], return_tensors="pt")["input_ids"][0]
    assert stock.tokenizer.convert_ids_to_tokens(ids)[processor.num_query_tokens :] == [
        "[CLS]",
        *"你好。",
        "[SEP]",
    ]


def _row(model: str, split: str, lang: str, task: str, name: str, value: float) -> dict[str, Any]:
    scope = {"model": model, "split": split, "lang": lang, "task": task, "name": name}
    return {**scope, "value": value, "low": value - 1, "high": value + 1, "n": 500}


def test_the_card_holds_the_numbers_and_no_others(llama: Any, tmp_path: Path) -> None:
    (model, alignment, processor), _ = llama
    save_checkpoint(tmp_path / "run" / "checkpoint", model=model, alignment=alignment, processor=processor)
    export(tmp_path / "run" / "checkpoint", to=tmp_path / "bare")
    assert "None: there was no `results.json`" in (tmp_path / "bare" / "README.md").read_text()
    rows = [
        _row("chat", "new", "en", "vqa", "accuracy", 91.25),
        _row("chat", "unseen", "zh", "vqa", "accuracy", 80.5),
        _row("chat", "new", "zh", "caption", "cider", 6.937),
        _row("base", "new", "en", "vqa", "accuracy", 12.34),
    ]
    card = {"command": "ziya-visual quickstart --seed 7"}
    write_json(
        tmp_path / "run" / "results.json", {"metrics": rows, "versions": {"peft": "9.8"}, "card": card}
    )
    export(tmp_path / "run" / "checkpoint", to=tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| vqa accuracy | 91.25 (90.25 to 92.25, n = 500) | 80.50 (79.50 to 81.50, n = 500) |  |" in text
    assert "| caption cider |  |  | 6.94 (5.94 to 7.94, n = 500) |" in text
    assert "12.34" not in text, "of another model"
    assert "`ziya-visual quickstart --seed 7` with peft 9.8" in text
    assert f"ziya-visual export {tmp_path}/run/checkpoint --to {tmp_path}/out" in text
    header = yaml.safe_load(text.split("---")[1])
    assert header["language"] == ["en", "zh"]
    assert header["pipeline_tag"] == "image-text-to-text"
    assert huggingface_hub.ModelCard(text).data.library_name == "transformers"
    export(tmp_path / "run" / "checkpoint", to=tmp_path / "out", retrieval=True)
    assert "91.25" not in (tmp_path / "out" / "README.md").read_text(), "a network that cannot answer"
    write_json(tmp_path / "run" / "results.json", {"metrics": [{"value": 1}]})
    with pytest.raises(DataError, match=r"results\.json: not a results\.json"):
        export(tmp_path / "run" / "checkpoint", to=tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"push": "a/b"}, "--push needs a token with write access in the environment variable HF_TOKEN"),
        ({"to": "taken"}, "taken: exists and is no earlier export"),
        pytest.param(
            {"quantize": "int8"},
            "--quantize needs torchao, which is absent",
            marks=pytest.mark.skipif(find_spec("torchao") is not None, reason="torchao is installed"),
        ),
    ],
)
def test_what_cannot_be_done_is_said_first(
    llama: Any, tmp_path: Path, options: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=text):
        export(llama[1], **({"to": tmp_path / "out"} | options | _folder(tmp_path, options)))
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "mine"


def _folder(tmp_path: Path, options: Any) -> dict[str, Path]:
    return {"to": tmp_path / options["to"]} if "to" in options else {}


@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")
@pytest.mark.parametrize("method", ["int8", "int4"])
def test_a_quantized_folder_opens_in_stock_and_answers(llama: Any, tmp_path: Path, method: Any) -> None:
    (model, _, processor), folder = llama
    export(folder, to=tmp_path / "out", quantize=method)
    stock, info = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    layer = stock.language_model.model.layers[0].self_attn.q_proj.weight
    assert type(layer).__name__ == {"int8": "Int8Tensor", "int4": "IntxUnpackedToInt8Tensor"}[method]
    assert type(stock.language_model.lm_head.weight.data) is torch.Tensor
    assert type(stock.qformer.encoder.layer[0].attention.attention.query.weight.data) is torch.Tensor
    apart = (logits(stock, processor) - logits(model, processor)).abs().max()
    assert 0 < apart < 0.5
    report = read_json(tmp_path / "out" / "parity.json")["quantized"]
    assert report["method"] == method
    assert 0 < report["mean"] <= report["max"]
    ids = torch.tensor(
        [processor.chat.prefix_ids(processor.num_query_tokens) + processor.chat.text_ids("红色")]
    )
    given = stock.generate(
        pixel_values=torch.zeros(1, 3, 16, 16),
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=3,
        min_new_tokens=3,
    )
    assert given.shape[1] >= 3
    with pytest.raises(ConfigError, match="drop one"):
        export(folder, to=tmp_path / "out", quantize=method, retrieval=True)

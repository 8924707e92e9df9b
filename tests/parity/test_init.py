"""``init`` takes parts over as they are: what it composes computes what the parts did."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_stock_folders import NEW, answer, asked, close
from transformers import Blip2ForConditionalGeneration, InstructBlipForConditionalGeneration

from ziya_visual.core.files import read_json, write_json
from ziya_visual.data.packing import text_batch
from ziya_visual.infer.engine import open_model
from ziya_visual.model.build.init import init
from ziya_visual.model.build.weights import open_weights
from ziya_visual.model.checkpoint import load_checkpoint


def with_language_model(bridge: Any, language_model: Any, image_id: int) -> Any:
    """The stock bridge with another language model, grown by stock's own means."""
    old = language_model.config.vocab_size
    language_model.resize_token_embeddings(image_id + 1, mean_resizing=False)
    with torch.no_grad():
        for table in (language_model.get_input_embeddings(), language_model.get_output_embeddings()):
            table.weight[old:] = table.weight[:old].mean(0)
    bridge.language_model = language_model
    bridge.config.image_token_index = image_id
    bridge.config.text_config = language_model.config
    return bridge.eval()


@pytest.mark.parametrize("layout", ["ziya", "blip2 in shards", "blip2 pickled"])
@pytest.mark.parametrize("kind", ["opt", "llama", "qwen2"])
def test_bridge_and_language_model_in_one(tmp_path: Path, layout: str, kind: str) -> None:
    if layout == "ziya":
        stock = tiny.ziya_folder(tmp_path / "bridge")
    else:
        stock = tiny.blip2_folder(tmp_path / "bridge", "opt", max_shard_size="50KB")
        assert len(list((tmp_path / "bridge").glob("model-*.safetensors"))) > 3
    if layout == "blip2 pickled":
        for file in (tmp_path / "bridge").glob("model*.safetensors*"):
            file.unlink()
        tiny.pickled(tmp_path / "bridge", stock.state_dict(), 3)
    language_model = tiny.llm_folder(tmp_path / "lm", kind)
    said = init(
        bridge=tmp_path / "bridge", llm=tmp_path / "lm", out=tmp_path / "out", seed=5, shard_bytes=60_000
    )
    assert said["projection"] == "[48, 32] taken over"
    files = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(files) > 2
    assert all(file.stat().st_size < 70_000 for file in files), "a shard at a time"

    model, alignment, processor = load_checkpoint(tmp_path / "out")
    assert alignment is not None
    reference = with_language_model(stock, language_model, model.image_id)
    pixels, ids = processor.pixels([tiny.picture()]), asked(processor)
    expected = reference(pixel_values=pixels, input_ids=ids).logits
    close(model(pixel_values=pixels, input_ids=ids).logits, expected)
    opened, info = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    close(opened(pixel_values=pixels, input_ids=ids).logits, expected)
    said = open_model(tmp_path / "out").chat(tiny.picture(), tiny.QUESTION, max_new_tokens=NEW)
    assert said == answer(reference, processor, ids, pixel_values=pixels)
    assert processor.tokenizer.chat_template is not None
    ends = read_json(tmp_path / "out" / "generation_config.json")["eos_token_id"]
    assert processor.chat.eos_id in (ends if isinstance(ends, list) else [ends])


def test_another_width_gets_a_new_projection_and_dtypes_are_kept(tmp_path: Path) -> None:
    tiny.ziya_folder(tmp_path / "bridge")
    tiny.llm_folder(tmp_path / "lm", width=64, dtype=torch.bfloat16)
    parts = {"bridge": tmp_path / "bridge", "llm": tmp_path / "lm"}
    assert init(**parts, out=tmp_path / "out")["projection"] == "[64, 32] new"
    init(**parts, out=tmp_path / "same")
    init(**parts, out=tmp_path / "other", seed=1)
    one, same, other = (open_weights(tmp_path / name) for name in ("out", "same", "other"))
    key = "language_projection.weight"
    assert torch.equal(one[key].read(), same[key].read())
    assert not torch.equal(one[key].read(), other[key].read())
    for key, entry in one.items():
        kept = torch.bfloat16 if key.startswith("language_model.") else torch.float32
        assert entry.dtype == kept, key
    model, alignment, _ = load_checkpoint(tmp_path / "out")
    assert model.dtype == torch.bfloat16, "it opens in the language model's dtype, as stock opens it"
    assert alignment.text_projection.weight.dtype == torch.bfloat16
    engine = open_model(tmp_path / "out")
    engine.chat(tiny.picture(), "ring?", max_new_tokens=3)
    assert engine.embed_texts(["红", "ring"]).shape == (2, 256)
    assert engine.embed_images([tiny.picture()]).shape == (1, tiny.QUERIES, 256)


def read_two(reader: Any) -> tuple[torch.Tensor, torch.Tensor]:
    read = reader([tiny.QUESTION, "ring"], padding=True, return_tensors="pt")
    return read["input_ids"], read["attention_mask"]


def test_instructblips_text_side_becomes_the_alignment_and_goes_back(tmp_path: Path) -> None:
    stock = tiny.instructblip_folder(tmp_path / "bridge")
    tiny.llm_folder(tmp_path / "lm", "qwen2")
    parts = {"bridge": tmp_path / "bridge", "llm": tmp_path / "lm"}
    init(**parts, out=tmp_path / "apart")
    model, alignment, processor = load_checkpoint(tmp_path / "apart")
    ids, mask = read_two(alignment.qformer_tokenizer)
    pixels = processor.pixels([tiny.picture(), tiny.picture(1)])
    embeds = stock.vision_model(pixel_values=pixels).last_hidden_state
    count = tiny.QUERIES
    sees = torch.cat([mask.new_ones(2, count), mask], 1)
    expected = stock.qformer(
        input_ids=ids,
        attention_mask=sees,
        query_embeds=stock.query_tokens.expand(2, -1, -1),
        encoder_hidden_states=embeds,
    ).last_hidden_state
    states = torch.cat([model.query_tokens.expand(2, -1, -1), alignment.embeddings(ids)], 1)
    read = alignment._run_layers(model, states, count, sees[:, None, None, :], embeds)
    seen = sees.bool()
    close(read[seen], expected[seen])

    # From our own checkpoint the text side goes back inside the Q-Former.
    init(bridge=tmp_path / "apart", llm=tmp_path / "lm", out=tmp_path / "inside", instruction_aware=True)
    inside, info = InstructBlipForConditionalGeneration.from_pretrained(
        tmp_path / "inside", output_loading_info=True
    )
    assert not info["missing_keys"] | info["unexpected_keys"]
    again = inside.qformer(
        input_ids=ids,
        attention_mask=sees,
        query_embeds=inside.query_tokens.expand(2, -1, -1),
        encoder_hidden_states=embeds,
    ).last_hidden_state
    close(again[seen], expected[seen])
    first, second = (
        open_model(tmp_path / "inside").chat(tiny.picture(), question, max_new_tokens=NEW)
        for question in (tiny.QUESTION, "ring")
    )
    assert first != second


def test_retrieval_gives_its_text_side_with_equal_scores(tmp_path: Path) -> None:
    stock = tiny.retrieval_folder(tmp_path / "bridge")
    tiny.llm_folder(tmp_path / "lm")
    init(bridge=tmp_path / "bridge", llm=tmp_path / "lm", out=tmp_path / "out")
    model, alignment, processor = load_checkpoint(tmp_path / "out")
    pixels = processor.pixels([tiny.picture(), tiny.picture(1)])
    ids, mask = read_two(alignment.qformer_tokenizer)
    embeds = model.encode_images(pixels)
    given = {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask}
    matching = stock(**given, use_image_text_matching_head=True).logits_per_image
    close(alignment.matching_logits(model, embeds, ids, mask), matching)
    similar = stock(**given, use_image_text_matching_head=False).logits_per_image
    features = alignment.image_features(model.query_images(embeds))
    texts = alignment.text_features(model, ids, mask)
    found = torch.einsum("iqd,td->itq", features, texts).amax(-1)
    assert (found - similar).abs().max() <= 1e-5


def test_a_bilingual_text_side_keeps_the_rows_of_tokens_that_both_know(tmp_path: Path) -> None:
    tiny.retrieval_folder(tmp_path / "bridge")
    tiny.llm_folder(tmp_path / "lm")
    new = tiny.bert_tokenizer("绿色三角形")
    new.save_pretrained(tmp_path / "words")
    init(
        bridge=tmp_path / "bridge",
        llm=tmp_path / "lm",
        out=tmp_path / "out",
        qformer_tokenizer=tmp_path / "words",
    )
    _, alignment, processor = load_checkpoint(tmp_path / "out")
    assert alignment.qformer_tokenizer.get_vocab() == new.get_vocab()
    assert (tmp_path / "out" / "qformer_tokenizer" / "tokenizer.json").is_file()
    old = tiny.bert_tokenizer().get_vocab()
    before = open_weights(tmp_path / "bridge")["embeddings.word_embeddings.weight"].read()
    after = alignment.embeddings.word_embeddings.weight
    assert after.shape[0] == len(new) > len(old)
    moved = 0
    for token, number in new.get_vocab().items():
        if token in old:
            assert torch.equal(after[number], before[old[token]]), token
            moved += number != old[token]
    assert moved > 0, "some tokens have another number in the new vocabulary"
    ids, _ = text_batch(["绿色三角形", "红[SEP]"], limit=8, chat=processor.chat, own=new)
    assert ids[0, :7].tolist() == new("绿色三角形")["input_ids"]
    assert 3 not in ids[1][:3].tolist(), "what is written in a text is never a special token"
    read = open_model(tmp_path / "out").embed_texts(["绿色三角形", "红色"])
    assert abs(read[0] @ read[1]) < 0.999


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_checkpoint_of_ours_is_a_bridge_with_all_that_retrieval_needs(tmp_path: Path, kind: str) -> None:
    tiny.ziya_folder(tmp_path / "bridge")
    tiny.llm_folder(tmp_path / "lm")
    tiny.llm_folder(tmp_path / "other", kind, width=64)
    init(bridge=tmp_path / "bridge", llm=tmp_path / "lm", out=tmp_path / "one")
    init(bridge=tmp_path / "one", llm=tmp_path / "other", out=tmp_path / "two", seed=9)
    one, two = (open_model(tmp_path / name) for name in ("one", "two"))
    texts = ["red ring", "红色的圆环"]
    assert abs(one.embed_texts(texts) - two.embed_texts(texts)).max() <= 1e-5
    assert abs(one.embed_images([tiny.picture()]) - two.embed_images([tiny.picture()])).max() <= 1e-5
    # transformers gives Qwen2's tokenizer one token more: the Q-Former keeps the one that it knows.
    assert (tmp_path / "two" / "qformer_tokenizer").exists() == (kind == "qwen2")


def test_from_nothing_pretrained(tmp_path: Path) -> None:
    tiny.llm_folder(tmp_path / "lm")
    vision = {key: value for key, value in tiny.VISION.items() if key != "initializer_range"}
    write_json(tmp_path / "vision.json", vision)
    settings = {**tiny.QFORMER, "num_query_tokens": 6, "image_text_hidden_size": 24}
    write_json(tmp_path / "qformer.json", settings)
    configs = {"vision_config": tmp_path / "vision.json", "qformer_config": tmp_path / "qformer.json"}
    init(llm=tmp_path / "lm", out=tmp_path / "out", **configs, seed=3)
    model, alignment, processor = load_checkpoint(tmp_path / "out")
    assert processor.num_query_tokens == 6
    assert alignment.vision_projection.weight.shape == (24, 32)
    assert model.vision_model.encoder.layers[0].mlp.fc1.weight.std() > 0.01, "not BLIP-2's 1e-10"
    assert model.query_tokens.std() > 0.01
    assert read_json(tmp_path / "out" / "config.json")["num_query_tokens"] == 6

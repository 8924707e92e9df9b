"""The shipped parts are small, made from the present data, and translate what they never read."""

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig

from ziya_visual.core.errors import CheckpointError
from ziya_visual.core.records import Message
from ziya_visual.infer.decoder import generate
from ziya_visual.infer.text_model import Dialogue, TextModel
from ziya_visual.scenes import lessons
from ziya_visual.scenes.parsing import parse
from ziya_visual.train.pretrain import SHIPPED, data_hash, pretrain_parts, read_card

LIMIT_BYTES = 12_000_000


def test_the_shipped_parts_are_small_and_made_from_the_present_data() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*.safetensors")) <= LIMIT_BYTES
    assert read_card(SHIPPED)["data"] == data_hash(), (
        "they are drawn otherwise now: ziya-visual pretrain-parts"
    )


def test_the_shipped_lm_translates_sentences_of_the_forges_side() -> None:
    model = TextModel.from_pretrained(SHIPPED / "lm")
    rng = np.random.default_rng(5)
    pairs = [lessons.sentence_pair(rng, for_forge=True) for _ in range(60)]
    asked = [(Message("user", lessons.TRANSLATE + source),) for source, _ in pairs]
    prompts = model.prompts([Dialogue(turns, (), 96) for turns in asked])
    answers = generate(model.language_model, prompts, eos_id=model.format.eos_id)
    read = [parse(model.decode(tokens), "zh") for tokens in answers]
    right = sum(parse(target, "zh") == found for (_, target), found in zip(pairs, read, strict=True))
    assert right >= 0.75 * len(pairs), f"{right} of {len(pairs)}"


def test_a_folder_without_parts_says_how_to_make_them() -> None:
    with pytest.raises(CheckpointError, match="pretrain-parts"):
        read_card(SHIPPED / "absent")


@pytest.mark.slow
def test_a_few_steps_make_parts_that_open(tmp_path: Path) -> None:
    card = pretrain_parts(tmp_path / "parts", vit_steps=1, lm_steps=5)
    assert card["steps"] == {"vit": 1, "lm": 5}
    assert read_card(tmp_path / "parts") == card
    for part in ("vit", "lm"):
        config = AutoConfig.from_pretrained(tmp_path / "parts" / part)
        assert config.model_type == AutoConfig.from_pretrained(SHIPPED / part).model_type
        assert (tmp_path / "parts" / part / "model.safetensors").is_file()

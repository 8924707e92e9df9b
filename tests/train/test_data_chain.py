"""COCO's captions as people have them -> records -> packed rows -> ten steps of training."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import QUERIES, tiny, write_base_and_pictures

from ziya_visual.core.files import read_examples, read_json
from ziya_visual.core.recipe import load_recipe
from ziya_visual.data.packing import IGNORE
from ziya_visual.data.tools.check import check_dataset
from ziya_visual.data.tools.importing import import_dataset
from ziya_visual.train.batches import Batches, group_by_image
from ziya_visual.train.run import run_recipe

CAPTIONS = Path(__file__).parents[3] / "shared" / "data" / "caption_en" / "annotations.json"
RECIPE = """
name: chain
out: {folder}/run
precision: fp32
save_every: 1
model: {{checkpoint: {folder}/base, lora: {{rank: 4, alpha: 8}}}}
data: {{path: ["{folder}/records/records.jsonl"]}}
stages:
  - {{name: base, steps: 10, images_per_step: 4, texts_per_image: 5, tasks: {{caption: 1.0}},
      learning_rate: 0.01, trains: [qformer, projection, lora], objectives: {{language_model: 1.0}}}}
"""


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """The records of the first forty pictures, which the test paints; a caption without one is a reject."""
    if not CAPTIONS.is_file():
        pytest.skip("../shared/data is absent: no captions to import")
    rng = np.random.default_rng(0)
    for entry in read_json(CAPTIONS)["images"][:40]:
        color = tuple(map(int, rng.integers(0, 256, 3)))
        Image.new("RGB", (32, 24), color).save(tmp_path / entry["file_name"])
    made = import_dataset("coco", CAPTIONS, images=tmp_path, out=tmp_path / "records", form="jsonl")
    assert made["records"] + made["rejects"] == 1227
    assert 200 <= made["records"] <= 210, "five captions a picture, a few six"
    return tmp_path


def test_captions_become_packed_rows_and_are_learnt_from(imported: Path) -> None:
    assert not check_dataset(imported / "records", out=imported / "check").rejects
    examples = read_examples(imported / "records" / "records.jsonl")
    texts = group_by_image(examples)
    assert len(texts.examples) == 40
    _, _, processor = tiny()
    batches = Batches(
        texts, processor.chat, tasks={"caption": 1.0}, images_per_step=4, texts_per_image=5,
        num_image_tokens=QUERIES, seed=0, max_caption_tokens=32,
    )  # fmt: skip
    batch = batches[0]
    assert batch.texts is not None
    assert [len(row) for row in batch.texts.lengths] == [6, 6, 6, 6], "a prefix and five captions each"
    learnt = processor.tokenizer.decode(batch.texts.labels[batch.texts.labels != IGNORE])
    said = [one.messages[0].content for row in batch.images for one in texts.examples[row]]
    assert sum(text in learnt for text in said) == 20

    write_base_and_pictures(imported, ())
    path = imported / "recipe.yaml"
    path.write_text(RECIPE.format(folder=imported))
    folder = run_recipe(load_recipe(path))
    assert (folder / "model.safetensors").is_file()
    curve = read_json(imported / "run" / "curve.json")
    losses = [row["value"] for row in curve if row["name"] == "language_model/en"]
    assert {row["step"] for row in curve} <= set(range(11))
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0], losses

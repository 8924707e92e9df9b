"""A training step's forward and backward: our packed rows against stock BLIP-2 on one row a text.

    python benchmarks/packed.py

Both see the same pictures, texts and weights (random, of the quickstart's sizes) and give the same loss. They
run in turns; the table shows the median of the ratios and their spread, absolute times only for orientation.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Blip2VisionModel, LlamaForCausalLM

from ziya_visual.core.files import write_json
from ziya_visual.core.recipe import load_recipe
from ziya_visual.data.packing import IGNORE, Branch, Row, pack, pad
from ziya_visual.model.build.compose import compose
from ziya_visual.model.packed.attention import PLAIN
from ziya_visual.model.packed.forward import mean_loss
from ziya_visual.model.processor import ZiyaProcessor
from ziya_visual.scenes import lessons
from ziya_visual.scenes.drawing import SIDE, render, sample_scene
from ziya_visual.train.pretrain.language_model import corpus_texts, lm_config, train_tokenizer
from ziya_visual.train.pretrain.vision import vision_config

IMAGES, TEXTS, ROUNDS = 16, 10, 7


def build() -> tuple[Any, ZiyaProcessor]:
    tokenizer = train_tokenizer(corpus_texts(np.random.default_rng(0), 300))
    bridge = load_recipe(Path("recipes/quickstart.yaml")).model.bridge.model_dump()
    queries, projection = bridge.pop("num_query_tokens"), bridge.pop("projection_size")
    model, _ = compose(
        vision=Blip2VisionModel(vision_config()),
        language_model=LlamaForCausalLM(lm_config(len(tokenizer))),
        tokenizer=tokenizer,
        qformer={**bridge, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        num_query_tokens=queries,
        projection_size=projection,
        seed=0,
    )
    model.set_attn_implementation(PLAIN)
    model.vision_model.requires_grad_(False)
    return model.eval(), ZiyaProcessor(tokenizer, image_size=SIDE, num_query_tokens=queries)


def main() -> None:
    rng = np.random.default_rng(0)
    model, processor = build()
    scenes = [sample_scene(rng, held_out=False) for _ in range(IMAGES)]
    pixels = processor.pixels([Image.fromarray(render(scene)) for scene in scenes])
    prefix = processor.chat.prefix_ids(processor.num_query_tokens)
    rows = [
        Row(
            prefix,
            [
                Branch(
                    processor.chat.branch(lessons.ask_briefly(rng, lessons.any_question(rng, scene), lang))
                )
                for lang in ("en", "zh")
                for _ in range(TEXTS // 2)
            ],
        )
        for scene in scenes
    ]
    packed = pack(rows)
    texts = [(row.prefix, branch.encoded) for row in rows for branch in row.branches]
    ids, real = map(
        torch.from_numpy, pad([[*prefix, *text.ids] for prefix, text in texts], processor.chat.pad_id)
    )
    learnt, _ = pad([[False] * len(prefix) + text.supervised for prefix, text in texts], False)
    labels = ids.masked_fill(~torch.from_numpy(learnt.astype(bool)), IGNORE)
    repeated = pixels.repeat_interleave(TEXTS, 0)

    def ours() -> torch.Tensor:
        return mean_loss(model.packed_loss(model.query_images(model.encode_images(pixels)), packed))

    def stock() -> torch.Tensor:
        return model(pixel_values=repeated, input_ids=ids, attention_mask=real, labels=labels).loss

    def seconds(step: Any) -> tuple[float, float]:
        model.zero_grad()
        start = time.perf_counter()
        loss = step()
        loss.backward()
        return time.perf_counter() - start, loss.item()

    times = [(seconds(ours), seconds(stock)) for _ in range(ROUNDS + 1)][1:]
    ratios = [b[0] / a[0] for a, b in times]
    result = {
        "images": IMAGES,
        "texts_per_image": TEXTS,
        "loss": {"packed": times[0][0][1], "stock": times[0][1][1]},
        "speedup": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
        "seconds": {
            "packed": statistics.median(a[0] for a, _ in times),
            "stock": statistics.median(b[0] for _, b in times),
        },
    }  # fmt: skip
    write_json(Path("runs/bench/packed.json"), result)
    print(result)


if __name__ == "__main__":
    main()

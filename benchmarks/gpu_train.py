"""Training steps at the 14 B shape on one GPU: ours, and stock with one row a text; MFU and their ratio.

    python benchmarks/gpu_train.py [--tiny] [--device cuda] [--out benchmarks/results/gpu_train.json]

Random weights, no network; of packages only torch, transformers, peft and accelerate. A ViT-g (224 px), the
32 queries of BLIP-2's Q-Former and a LLaMA of 13 B, kept in bfloat16 and frozen under LoRA; 8 texts a picture
as in ``train_setting.py``. Stock is the same network through ``Blip2ForConditionalGeneration.forward`` with
SDPA, at the micro-batch that a trial finds fastest. FLOPs are 4 for each parameter and token of what is
frozen and crossed by gradients, 6 of what learns, 2 of the ViT; computing twice is not counted. ``--tiny``
tries the script itself.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from train_setting import IMAGE_ID, QUERIES, ImageTexts, Packed, Single, collate, draw_image_texts
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    LlamaConfig,
)

from ziya_visual.data.packing import IGNORE, some_rows
from ziya_visual.model.network import ZiyaVisualModel
from ziya_visual.model.packed.attention import PLAIN
from ziya_visual.train.speed import StepCost, peak_flops

IMAGES, TEXTS, ROUNDS = 48, 8, 5
AT_ONCE = (8, 16, 24, 48)  # pictures whose texts are in memory together
ROWS = (32, 64, 128)  # stock's texts
BUDGET = 480  # seconds


def config(tiny: bool) -> Blip2Config:
    """Return the config of ViT-g, Q-Former and LLaMA 13B without dropout, or of a tiny model."""
    layers, width, heads, inner = (2, 64, 4, 128) if tiny else (40, 5120, 40, 13824)
    eyes = (2, 32, 4, 64) if tiny else (39, 1408, 16, 6144)
    reader = (2, 32, 4, 64) if tiny else (12, 768, 12, 3072)
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return Blip2Config(
        vision_config=Blip2VisionConfig(
            **dict(zip(names, eyes, strict=True)), image_size=224, patch_size=56 if tiny else 14
        ),
        qformer_config=Blip2QFormerConfig(
            **dict(zip(names, reader, strict=True)), **still, encoder_hidden_size=eyes[1]
        ),
        text_config=LlamaConfig(
            vocab_size=32_000, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
            num_attention_heads=heads, pad_token_id=0, bos_token_id=1,
        ),
        num_query_tokens=QUERIES,
        image_token_index=IMAGE_ID,
    )  # fmt: skip


def build(settings: Blip2Config, device: str) -> Any:
    """Build the model: LM and ViT frozen in bfloat16, LoRA and everything else in float32."""
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = ZiyaVisualModel(settings)
        finally:
            torch.set_default_dtype(torch.float32)
    model.vision_model.requires_grad_(False)
    model.qformer.float()
    model.language_projection.float()
    model.query_tokens.data = model.query_tokens.data.float()
    lora = LoraConfig(r=64, lora_alpha=128, target_modules="all-linear")
    model.language_model = get_peft_model(model.language_model, lora)
    return model.to(device)


class Bench:
    """The steps of both sides over the same pictures and texts."""

    def __init__(self, model: Any, data: ImageTexts, device: str) -> None:
        self.model, self.data, self.device = model, data, device
        self.pixels = data.pixels.to(device)
        self.batch = Packed(data, len(data))[0]
        self.learning = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learning, lr=1e-5, fused=True)

    def ours(self, at_once: int) -> float:
        """Run one step with the texts of ``at_once`` pictures at a time, and return its mean loss."""
        self.model.set_attn_implementation(PLAIN)
        total = 0.0
        for start in range(0, len(self.data), at_once):
            end = min(start + at_once, len(self.data))
            texts = some_rows(self.batch.texts, start, end)
            with torch.autocast(self.device, torch.bfloat16):
                queries = self.model.query_images(self.model.encode_images(self.pixels[start:end]))
                sums = self.model.packed_loss(queries, texts)
            loss = torch.stack([part.total for part in sums.values()]).sum() / self.batch.supervised
            total += self._learnt(loss)
        self._update()
        return total

    def stock(self, rows: int) -> float:
        """Run the same step with one row per text, sorted by length, ``rows`` at a time."""
        self.model.set_attn_implementation("sdpa")
        records = Single(self.data)
        records = sorted(
            (records[i] for i in range(len(records))), key=lambda record: len(record["input_ids"])
        )
        total = 0.0
        for start in range(0, len(records), rows):
            inputs = {name: x.to(self.device) for name, x in collate(records[start : start + rows]).items()}
            learnt = int((inputs["labels"][:, 1:] != IGNORE).sum())
            with torch.autocast(self.device, torch.bfloat16):
                loss = Blip2ForConditionalGeneration.forward(self.model, **inputs).loss
            total += self._learnt(loss * (learnt / self.batch.supervised))
        self._update()
        return total

    @staticmethod
    def _learnt(loss: torch.Tensor) -> float:
        if torch.is_grad_enabled():
            loss.backward()
        return loss.item()

    def _update(self) -> None:
        if not torch.is_grad_enabled():
            return
        torch.nn.utils.clip_grad_norm_(self.learning, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def seconds(self, step: Callable[[int], float], size: int) -> float | None:
        """Return the seconds of a step, or None if memory runs out."""
        try:
            begun = time.perf_counter()
            step(size)
            if self.device != "cpu":
                torch.cuda.synchronize()
            return time.perf_counter() - begun
        except torch.OutOfMemoryError:
            self.optimizer.zero_grad()
            torch.cuda.empty_cache()
            return None


def fastest(
    bench: Bench, step: Callable[[int], float], sizes: tuple[int, ...]
) -> tuple[int, dict[int, float]]:
    """Return the size with the shortest second step."""
    seconds = {}
    for size in sizes:
        if bench.seconds(step, size) is not None:
            again = bench.seconds(step, size)
            assert again is not None, "the same step fitted before"
            seconds[size] = again
    return min(seconds, key=seconds.__getitem__), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu_train.json"))
    chosen = parser.parse_args()
    begun = time.monotonic()
    images = 4 if chosen.tiny else IMAGES
    model = build(config(chosen.tiny), chosen.device)
    bench = Bench(model, draw_image_texts(images, TEXTS), chosen.device)
    flops = StepCost.of(model).flops(bench.batch)
    with torch.no_grad():
        losses = {"ours": bench.ours(min(AT_ONCE)), "stock": bench.stock(min(ROWS))}
    at_once, tried = fastest(bench, bench.ours, tuple(n for n in AT_ONCE if n <= images) or (images,))
    rows, stock_tried = fastest(bench, bench.stock, ROWS)
    print(json.dumps({"at_once": tried, "rows": stock_tried}), flush=True)
    times = []
    for number in range(ROUNDS):
        pair = bench.seconds(bench.ours, at_once), bench.seconds(bench.stock, rows)
        times.append(pair)
        print(number, *pair, flush=True)
        if time.monotonic() - begun > BUDGET:
            break
    ratios = sorted(stock / ours for ours, stock in times)
    ours = statistics.median(ours for ours, _ in times)
    peak = peak_flops(torch.device(chosen.device))
    result = {
        "device": torch.cuda.get_device_name() if chosen.device != "cpu" else "cpu",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "ratio": {"median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]},
        "mfu": None if peak is None else 100 * flops / ours / peak,
        "tokens_per_second": len(bench.batch.texts.input_ids) / ours,
        "images_per_second": images / ours,
        "seconds": times,
        "flops": flops,
        "at_once": at_once,
        "rows": rows,
        "losses": losses,
        "gigabytes": None if chosen.device == "cpu" else torch.cuda.max_memory_allocated() / 1e9,
    }
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

"""Training steps: ours against stock BLIP-2 under ``Trainer``, on the same pictures and texts.

    python benchmarks/train.py [--rounds 5]        writes runs/bench/train.json

The setting is in ``train_setting.py``. Stock trains one row a text, grouped by length, with the micro-batch
and attention that a trial finds fastest, in bfloat16 autocast as ours; the optimizer is the same (AdamW), and
neither keeps gradients of what is frozen. Both go over the same pictures in turns, round after round; a ratio
is stock's seconds by ours in one round. Stock's time is that between ``on_step_begin`` and ``on_step_end``,
without its loading of data; ours is all of the loop, with it. FLOPs are counted by torch on a step of each.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from spread import spread
from torch.utils.flop_counter import FlopCounterMode
from train_setting import LANGS, ImageTexts, Packed, Single, collate, draw_image_texts, models
from transformers import Trainer, TrainerCallback, TrainingArguments

from ziya_visual.core.files import write_json
from ziya_visual.model.packed.attention import round_up
from ziya_visual.train.batches import prefetch
from ziya_visual.train.objectives import Batch, ImageFeatures, LossWeights, compute_losses
from ziya_visual.train.optimizer import Optimizer

IMAGES_PER_STEP, STEPS = 8, 2  # of a round
GROWTH = (1, 2, 4, 8, 16)
MEASURED = (8, 16)  # in every round; the others once
TRIALS = [("sdpa", 16), ("sdpa", 32), ("eager", 16), ("eager", 32), ("eager", 64)]
LEARNING_RATE = 1e-4
WEIGHTS = LossWeights()
CURVE_STEPS, CURVE_IMAGES, CURVE_TEXTS = 50, 2, 4


class Ours:
    """The steps of our loop; with ``cached`` it reads the ViT's features from a cache, as the loop does."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.optimizer = Optimizer(model.named_parameters(), weight_decay=0.0, matrices="adamw")

    def loss(self, batch: Batch, pixels: torch.Tensor, features: torch.Tensor | None = None) -> torch.Tensor:
        rows = batch.images
        embeds = self.model.encode_images(pixels[rows]) if features is None else features[rows]
        image_features = ImageFeatures(embeds, self.model.query_images(embeds))
        none: Any = None  # no alignment: the language model's loss alone
        langs = list(LANGS)
        return compute_losses(self.model, none, batch, image_features, weights=WEIGHTS, langs=langs, step=0)[
            0
        ]

    def epoch(self, data: ImageTexts, batches: Iterator[Batch], *, cached: bool) -> tuple[float, float]:
        """Return the seconds of ``STEPS`` steps, and the part spent waiting for a batch."""
        features = self._features(data) if cached else None
        started, waited = time.perf_counter(), 0.0
        for _ in range(STEPS):
            begun = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - begun
            with torch.autocast("cpu", torch.bfloat16):
                loss = self.loss(batch, data.pixels, features)
            assert self.optimizer.step(loss, lr=LEARNING_RATE)
        return time.perf_counter() - started, waited

    @torch.no_grad()
    def _features(self, data: ImageTexts) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return torch.cat([self.model.encode_images(pixels) for pixels in data.pixels.split(8)])


class Clock(TrainerCallback):
    """The seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begun = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._begun = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self._begun)


class Stock:
    """``Trainer`` with micro-batches of ``rows`` texts."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.optimizer = Optimizer(model.named_parameters(), weight_decay=0.0, matrices="adamw")

    def epoch(self, data: ImageTexts, *, attention: str, rows: int, steps: int = STEPS) -> float:
        """Return the seconds of ``steps`` steps over the texts of as many pictures as ours."""
        self.model.set_attn_implementation(attention)
        texts = len(data) * len(data.texts[0]) // STEPS
        rows = min(rows, texts)
        adam = torch.optim.AdamW(self.optimizer.parameters, lr=LEARNING_RATE, betas=(0.9, 0.98), fused=True)
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder, max_steps=steps, per_device_train_batch_size=rows, max_grad_norm=1.0, bf16=True,
                gradient_accumulation_steps=texts // rows, train_sampling_strategy="group_by_length",
                use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
                remove_unused_columns=False,
            )  # fmt: skip
            Trainer(
                self.model, arguments, data_collator=collate, train_dataset=Single(data),
                optimizers=(adam, torch.optim.lr_scheduler.ConstantLR(adam, 1.0)), callbacks=[clock],
            ).train()  # fmt: skip
        return sum(clock.seconds)


def flops(step: Any) -> int:
    """Count the FLOPs of the matrix products in a forward and a backward pass."""
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
        step().backward()
    return counter.get_total_flops()


def stock_loss(model: Any, data: ImageTexts) -> torch.Tensor:
    """Return the mean loss over all tokens of all texts, one row per text."""
    return model(**collate(list(Single(data)))).loss


def compare_numbers(ours: Ours, stock: Stock) -> dict[str, float]:
    """Compare in float32 the first loss and gradients, and the losses of ``CURVE_STEPS`` steps."""
    stock.model.set_attn_implementation("sdpa")
    checks = {"curve_diff": 0.0}
    for step in range(CURVE_STEPS):
        data = draw_image_texts(CURVE_IMAGES, CURVE_TEXTS, seed=100 + step)
        losses = ours.loss(Packed(data, CURVE_IMAGES)[0], data.pixels), stock_loss(stock.model, data)
        apart = abs(losses[0].item() - losses[1].item())
        checks["curve_diff"] = max(checks["curve_diff"], apart)
        if step == 0:
            grads = [
                torch.autograd.grad(loss, side.optimizer.parameters, retain_graph=True)
                for loss, side in zip(losses, (ours, stock), strict=True)
            ]
            checks |= {"loss_diff": apart, "grad_rel_diff": _relative(*grads)}
        for loss, side in zip(losses, (ours, stock), strict=True):
            assert side.optimizer.step(loss, lr=LEARNING_RATE)
    return checks


def _relative(ones: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> float:
    """Return the largest difference of a parameter's gradient, relative to its norm.

    Key biases do not change attention: their gradients are pure rounding, and are left out by size.
    """
    least = 1e-6 * max(float(reference.norm()) for reference in others)
    return max(
        float((own - reference).norm() / reference.norm())
        for own, reference in zip(ones, others, strict=True)
        if reference.norm() > least
    )


def ratio(times: list[tuple[float, float]]) -> dict[str, float]:
    return spread([stock / ours for ours, stock in times])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    ours, stock = map(lambda side, model: side(model), (Ours, Stock), models())
    checks = compare_numbers(ours, stock)
    print(json.dumps(checks), flush=True)
    data = {texts: draw_image_texts(IMAGES_PER_STEP * STEPS, texts) for texts in GROWTH}
    counted = {texts: count(ours, stock, texts) for texts in GROWTH}
    for trials in (TRIALS[:1], TRIALS):  # the first warms up
        seconds = {(a, r): stock.epoch(data[8], attention=a, rows=r, steps=1) for a, r in trials}
    attention, rows = min(seconds, key=seconds.__getitem__)
    tried = {f"{a}, {r} rows": duration for (a, r), duration in seconds.items()}
    print(tried, flush=True)
    # One loader each for all rounds, as the loop has one a stage: a fork makes the next writes slow.
    loaders = {
        texts: iter(prefetch(Packed(image_texts, IMAGES_PER_STEP), range(2 * STEPS * (rounds + 1))))
        for texts, image_texts in data.items()
    }
    times: dict[str, list[tuple[float, float]]] = {}
    waits = []
    for number in range(rounds + 1):  # the first warms up
        for texts in GROWTH if number < 2 else MEASURED:
            online, waited = ours.epoch(data[texts], loaders[texts], cached=False)
            cached, _ = ours.epoch(data[texts], loaders[texts], cached=True)
            theirs = stock.epoch(data[texts], attention=attention, rows=rows)
            if number:
                times.setdefault(f"uncached_k{texts}", []).append((online, theirs))
                times.setdefault(f"cached_k{texts}", []).append((cached, theirs))
                waits.append(waited / online)
            print(texts, round(online, 2), round(cached, 2), round(theirs, 2), flush=True)
    ratios = {name: ratio(pairs) for name, pairs in times.items()}
    predicted = {name: flops_of["stock"] / flops_of["ours"] for name, flops_of in _named(counted).items()}
    packed = Packed(data[8], IMAGES_PER_STEP)[0].texts
    checks |= {
        "of_flop_floor": ratios["uncached_k8"]["median"] / predicted["uncached_k8"],
        "padding_fraction": 1 - len(packed.input_ids) / round_up(len(packed.input_ids)),
        "loader_wait_fraction": statistics.median(waits),
    }
    names = ("ziya-visual", "torch", "transformers", "accelerate")
    result = {
        "ratios": ratios,
        "checks": checks,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "predicted": predicted,
        "flops": counted,
        "seconds": times,
        "stock": {"attention": attention, "rows": rows, "trials": tried},
    }
    write_json(Path("runs/bench/train.json"), result)
    print(json.dumps({key: result[key] for key in ("ratios", "predicted", "checks")}, indent=1))


def count(ours: Ours, stock: Stock, texts: int) -> dict[str, int]:
    """Count the FLOPs of a step per picture: ours, ours with cached features, stock without padding."""
    data = draw_image_texts(1, texts)
    batch = Packed(data, 1)[0]
    features = ours._features(data)
    apart = [ImageTexts(data.pixels, [[text]]) for text in data.texts[0]]  # no row is padded
    stock.model.set_attn_implementation("eager")  # torch counts no FLOPs of the CPU's fused attention
    return {
        "ours": flops(lambda: ours.loss(batch, data.pixels)),
        "ours_cached": flops(lambda: ours.loss(batch, data.pixels, features)),
        "stock": sum(flops(lambda text=text: stock_loss(stock.model, text)) for text in apart),
    }


def _named(counted: dict[int, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Key values by the names of the ratios."""
    return {
        f"{kind}_k{texts}": {"ours": flops_of[name], "stock": flops_of["stock"]}
        for texts, flops_of in counted.items()
        for kind, name in (("uncached", "ours"), ("cached", "ours_cached"))
    }


if __name__ == "__main__":
    main()

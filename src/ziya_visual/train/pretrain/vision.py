"""The tiny ViT: a stock ``Blip2VisionModel`` taught to label the patches of drawn scenes.

It takes the place of the image encoder that a real user downloads. It never sees a text or a held-out
shape-colour pair.

Legend: B images, S side in pixels, P patches (N a side), D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import Blip2VisionConfig, Blip2VisionModel

from ziya_visual.core import log
from ziya_visual.model.processor import normalise
from ziya_visual.scenes.drawing import SIDE, Scene, render_with_labels, sample_scene
from ziya_visual.scenes.language import COLORS, HELD_OUT, SHAPES, SIZES
from ziya_visual.train.optimizer import Optimizer, cosine

PATCH = 8
SIDE_PATCHES = SIDE // PATCH
VIT_STEPS = 1000
BATCH_SIZE = 48


def vision_config() -> Blip2VisionConfig:
    """Configure 1.5 M parameters: 4 layers of width 192 over 64 patches of 8 x 8 pixels."""
    return Blip2VisionConfig(
        hidden_size=192,
        intermediate_size=576,
        num_hidden_layers=4,
        num_attention_heads=6,
        image_size=SIDE,
        patch_size=PATCH,
        initializer_range=0.06,
        attn_implementation="eager",
    )


@dataclass(frozen=True, slots=True)
class PatchLabels:
    """The object in each patch: class indices int64[B, P] (-100: background), centres float32[B, P, 2].

    ``pixels`` float32[B, P, 64] is 1 where a pixel belongs to an object: the ViT learns outlines first, and
    shapes from them (docs/log.md).
    """

    shown: Tensor
    shape: Tensor
    color: Tensor
    size: Tensor
    centre: Tensor
    count: Tensor
    pixels: Tensor


def label_patches(scenes: list[Scene], owners: np.ndarray) -> PatchLabels:
    """Label each patch with the object that covers most of it, if it covers an eighth or more.

    ``owners`` is int64[B, S, S], the object of each pixel, -1 for the background.
    """
    n, p = SIDE_PATCHES, PATCH
    patches = owners.reshape(-1, n, p, n, p).transpose(0, 1, 3, 2, 4).reshape(-1, n * n, p * p)
    cover = np.stack([(patches == index).sum(-1) for index in range(4)], -1)
    owner = np.where(cover.max(-1) >= p * p // 8, cover.argmax(-1), -1)
    table = np.full((len(scenes), 5, 5), -100.0, np.float32)
    for row, scene in enumerate(scenes):
        for index, thing in enumerate(scene.things):
            what = thing.what
            assert what.shape and what.color and what.size
            classes = (SHAPES.index(what.shape), COLORS.index(what.color), SIZES.index(what.size))
            table[row, index] = (*classes, thing.x, thing.y)
    picked = torch.from_numpy(table[np.arange(len(scenes))[:, None], owner])
    shape, color, size = (picked[..., i].long() for i in range(3))
    count = torch.tensor([len(scene.things) - 1 for scene in scenes])
    shown, pixels = (torch.from_numpy(array >= 0).float() for array in (owner, patches))
    return PatchLabels(shown, shape, color, size, picked[..., 3:], count, pixels)


def _accuracy(logits: Tensor, target: Tensor) -> float:
    """Return the accuracy in percent where there is a target."""
    known = target >= 0
    return (logits.argmax(-1)[known] == target[known]).float().mean().item() * 100


class PatchTeacher(nn.Module):
    """The ViT with linear heads that are discarded after training."""

    def __init__(self, config: Blip2VisionConfig) -> None:
        super().__init__()
        self.vit = Blip2VisionModel(config)
        self.head = nn.Linear(config.hidden_size, 1 + len(SHAPES) + len(COLORS) + len(SIZES) + 2)
        self.pixels_head = nn.Linear(config.hidden_size, PATCH * PATCH)
        self.count = nn.Linear(config.hidden_size, 4)

    def forward(self, pixel_values: Tensor, labels: PatchLabels) -> tuple[Tensor, dict[str, float]]:
        """Return the loss, and the accuracies in percent on patches with an object."""
        states = self.vit(pixel_values=pixel_values).last_hidden_state
        shown, shape, color, size, centre = self.head(states[:, 1:]).float().split([1, 10, 8, 2, 2], -1)
        thing = labels.shown > 0
        offered = shape.masked_fill(never_shown(labels.color), -torch.inf) if self.training else shape
        losses = [
            F.binary_cross_entropy_with_logits(shown.squeeze(-1), labels.shown),
            *(F.cross_entropy(logits[thing], target[thing]) for logits, target in
              ((offered, labels.shape), (color, labels.color), (size, labels.size))),
            10 * F.smooth_l1_loss(centre[thing], labels.centre[thing]),
            0.5 * F.cross_entropy(self.count(states[:, 0]).float(), labels.count),
            3 * F.binary_cross_entropy_with_logits(self.pixels_head(states[:, 1:]).float(), labels.pixels),
        ]  # fmt: skip
        with torch.no_grad():
            scores = {
                "shape": _accuracy(shape[thing], labels.shape[thing]),
                "color": _accuracy(color[thing], labels.color[thing]),
                "size": _accuracy(size[thing], labels.size[thing]),
                "count": _accuracy(self.count(states[:, 0]), labels.count),
                "centre_error": (centre[thing] - labels.centre[thing]).abs().mean().item() * 100,
            }
            if not self.training:
                held = thing & never_shown(labels.color).gather(-1, labels.shape.clamp(0)[..., None])[..., 0]
                scores["held_out_shape"] = _accuracy(shape[held], labels.shape[held])
        return torch.stack(losses).sum(), scores


def never_shown(color: Tensor) -> Tensor:
    """Mark the shapes that no training image shows in a patch's colour: int64[B, P] -> bool[B, P, 10].

    They are left out of the softmax of that patch, so that the absence of a pair does not teach that it
    cannot exist. Otherwise the ViT recognized 95 % of the shapes in seen pairs and 73 % in the others.
    """
    table = torch.zeros(len(COLORS) + 1, len(SHAPES), dtype=torch.bool)
    for shape, held_out_color in HELD_OUT:
        table[COLORS.index(held_out_color), SHAPES.index(shape)] = True
    return table[torch.where(color < 0, len(COLORS), color)]


def draw_batch(
    rng: np.random.Generator, size: int, *, held_out: bool = False, odd: float = 0.0
) -> tuple[Tensor, PatchLabels]:
    """Draw scenes: pixel values float32[B, 3, S, S] and their patch labels.

    A share ``odd`` of the images has colours without a name, which are not learnt: what a shape looks like
    must not depend on the colours in which it was seen.
    """
    scenes = [sample_scene(rng, held_out=held_out) for _ in range(size)]
    has_odd_colors = rng.random(size) < odd
    rendered = [
        render_with_labels(s, odd_colors=bool(o)) for s, o in zip(scenes, has_odd_colors, strict=True)
    ]
    pixels, owners = map(np.stack, zip(*rendered, strict=True))
    labels = label_patches(scenes, owners)
    labels.color[torch.from_numpy(has_odd_colors)] = -100
    return normalise(pixels), labels


def pretrain_vit(*, seed: int, steps: int) -> tuple[Blip2VisionModel, dict[str, float]]:
    """Train from scratch; return the ViT and its scores in percent on 512 scenes with a held-out pair."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    teacher = PatchTeacher(vision_config())
    optimizer = Optimizer(teacher.named_parameters())
    with log.progress("pre-train the ViT", steps) as bar:
        for step in range(steps):
            pixel_values, labels = draw_batch(rng, BATCH_SIZE, odd=0.5)
            with torch.autocast("cpu", torch.bfloat16):
                loss, scores = teacher(pixel_values, labels)
            optimizer.step(loss, lr=3e-3 * cosine(step, steps=steps, warmup=100))
            if step % 100 == 0:
                text = " ".join(f"{name} {value:.0f}" for name, value in scores.items())
                log.logger.info("vit step %d loss %.3f %s", step, loss.item(), text)
            bar.advance()
    teacher.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        _, scores = teacher(*draw_batch(np.random.default_rng(10_000 + seed), 512, held_out=True))
    return teacher.vit, scores

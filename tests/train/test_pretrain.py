"""What the tiny ViT is taught, and what it is not."""

import numpy as np
import torch

from ziya_visual.scenes.grammar import COLORS, HELD_OUT, SHAPES
from ziya_visual.train.pretrain_vit import PatchTeacher, draw_batch, never_shown, vision_config


def test_an_absent_pair_teaches_nothing() -> None:
    """No gradient reaches a shape's logit on patches of a colour that it is never shown in."""
    torch.manual_seed(0)
    teacher = PatchTeacher(vision_config())
    pixels, labels = draw_batch(np.random.default_rng(0), 24)
    states: list[torch.Tensor] = []
    teacher.head.register_forward_hook(lambda _m, _i, out: (out.retain_grad(), states.append(out))[0])
    loss, _ = teacher(pixels, labels)
    loss.backward()
    gradients = states[0].grad
    assert gradients is not None
    shapes = gradients[..., 1 : 1 + len(SHAPES)]
    absent = never_shown(labels.color) & (labels.shown > 0)[..., None]
    assert absent.any()
    assert torch.all(shapes[absent] == 0)
    assert torch.any(shapes[~absent] != 0)
    blue = torch.tensor([[COLORS.index("blue"), -100]])
    assert {SHAPES[i] for i in never_shown(blue)[0, 0].nonzero().flatten().tolist()} == {
        shape for shape, color in HELD_OUT if color == "blue"
    }
    assert not never_shown(blue)[0, 1].any()

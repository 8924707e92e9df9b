"""The suite ``scenes``: the drawn world of the quickstart, asked about in English and Chinese or others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ziya_visual.data.templates import instruct
from ziya_visual.eval.suites import Pool, Section, Suite
from ziya_visual.scenes import dataset
from ziya_visual.scenes.drawing import render
from ziya_visual.scenes.parsing import keywords

if TYPE_CHECKING:
    from PIL.Image import Image


def build_suite(seed: int, langs: Sequence[str] = dataset.LANGS) -> Suite:
    """New scenes and held-out pairs, in all languages, in phrasings that were never trained on.

    Raises:
        DataError: a language that the scenes do not speak, or that has no instruction templates.
    """
    from PIL import Image as Pillow

    sections: dict[tuple[str, str], Section] = {}
    images: dict[str, Image] = {}
    for split, held_out in (("new", False), ("unseen", True)):
        drawn = dataset.evaluation(seed=seed, held_out=held_out, langs=langs)
        images |= {name: Pillow.fromarray(render(scene)) for name, scene in drawn.scenes.items()}
        for lang in langs:
            pools = [
                Pool(tuple(pool), tuple(drawn.ranked[lang][name] for name in pool)) for pool in drawn.pools
            ]
            sections[split, lang] = Section(
                vqa=[instruct(example, seed=seed, split="eval") for example in drawn.vqa[lang]],
                caption=[instruct(example, seed=seed, split="eval") for example in drawn.caption[lang]],
                pools=pools,
            )
    return Suite(name="scenes", sections=sections, images=images, keywords=keywords)

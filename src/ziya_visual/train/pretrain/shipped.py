"""The pre-trained parts of the miniature: made here, shipped with the package, opened by the quickstart.

They stand for what a real user downloads. The ViT has seen labelled patches and no text, the LM text and no
picture.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM

from ziya_visual.core import log
from ziya_visual.core.errors import CheckpointError
from ziya_visual.core.files import atomic_dir, hash_bytes, hash_json, read_json, write_json
from ziya_visual.core.records import Message
from ziya_visual.data.chat.chat_format import ChatFormat
from ziya_visual.data.packing import IGNORE, Branch, segments
from ziya_visual.model.packed.forward import packed_hidden_states
from ziya_visual.scenes import drawing, lessons, questions
from ziya_visual.scenes.drawing import sample_scene
from ziya_visual.scenes.language import EVAL_PHRASINGS, QUESTION_TYPES, Language, Meaning
from ziya_visual.train.pretrain.language_model import LM_STEPS, list_batch, list_prefix, pretrain_lm
from ziya_visual.train.pretrain.vision import VIT_STEPS, pretrain_vit

SHIPPED = Path(__file__).parents[2] / "shipped"
_SCORED_LISTS, _SCORED_TEXTS = 200, 200
_HASHED = 60  # readings a lesson


def pretrain_parts(
    out: Path, *, seed: int = 0, vit_steps: int = VIT_STEPS, lm_steps: int = LM_STEPS
) -> dict[str, Any]:
    """Train the tiny ViT and LM and write ``out/vit``, ``out/lm`` (float16) and ``out/card.json``.

    Each has a process and one thread, so that the number of cores changes the time and not the result.

    Returns:
        The card: seed, command, steps, hash of the data's sources, scores in percent, seconds.
    """
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=_alone) as pool:
        of_lm = pool.submit(_timed, pretrain_lm, seed, lm_steps)
        of_vit = pool.submit(_timed, pretrain_vit, seed, vit_steps, yields=True)
        (vit, vit_scores), vit_seconds = of_vit.result()
        (model, tokenizer), lm_seconds = of_lm.result()
    card = {
        "command": f"ziya-visual pretrain-parts --seed {seed}",
        "seed": seed,
        "steps": {"vit": vit_steps, "lm": lm_steps},
        "data": data_hash(),
        "scores": {"vit": vit_scores, "lm": lm_scores(model, ChatFormat(tokenizer), seed=seed)},
        "seconds": {"vit": round(vit_seconds), "lm": round(lm_seconds)},
        "torch": torch.__version__,
    }
    with atomic_dir(out) as aside:
        vit.half().save_pretrained(aside / "vit")
        model.half().save_pretrained(aside / "lm")
        tokenizer.save_pretrained(aside / "lm")
        write_json(aside / "card.json", card)
    log.logger.info("parts: %s", card["scores"])
    return card


def _alone() -> None:
    """One thread and no bar: two trainings share the machine and the terminal."""
    torch.set_num_threads(1)
    log.setup(bars=False)


def _timed(train: Callable[..., Any], seed: int, steps: int, *, yields: bool = False) -> tuple[Any, float]:
    """Result and seconds; with ``yields`` it leaves the processor to the training that takes longer."""
    if yields and hasattr(os, "nice"):
        os.nice(10)
    started = time.monotonic()
    return train(seed=seed, steps=steps), time.monotonic() - started


def read_card(folder: Path) -> dict[str, Any]:
    """The card beside the parts.

    Raises:
        CheckpointError: the folder has no parts.
    """
    if not (folder / "card.json").is_file():
        raise CheckpointError(
            f"{folder}: no parts there; make them: ziya-visual pretrain-parts --out {folder}"
        )
    return dict(read_json(folder / "card.json"))


def data_hash() -> str:
    """A hash of what the parts are made from: texts as the LM reads them, and the code that draws pictures.

    Of the texts a sample as it is drawn, so that nothing counts which changes none: not how the code is
    written, nor a language that the LM never reads. Pixels may differ by one between processors.
    """
    rng = np.random.default_rng(23)
    texts = [
        [lessons.reading(rng, lesson), lessons.translation(rng), lessons.sentence_pair(rng, for_forge=True)]
        for lesson in lessons.LESSONS
        for _ in range(_HASHED)
    ]
    return hash_json(
        {"texts": hash_bytes(repr(texts).encode()), "draw": hash_bytes(Path(drawing.__file__).read_bytes())}
    )


def lm_scores(model: LlamaForCausalLM, chat: ChatFormat, *, seed: int) -> dict[str, float]:
    """Percent of texts whose every token is predicted right: answers from lists by type, and translations.

    Questions are in the phrasings kept for evaluation, sentences are of the forge's side: none was trained
    on.
    """
    rng = np.random.default_rng((seed, 17))
    lists, keys = [], []
    for lang in lessons.LANGS:
        for _ in range(_SCORED_LISTS):
            scene = sample_scene(rng, held_out=False)
            branches = []
            for kind in QUESTION_TYPES:
                meaning = questions.ask(rng, scene, kind)
                if meaning is not None:
                    branches.append(_question(rng, chat, meaning, lang))
                    keys.append(f"{kind}/{lang}")
            branches.append(Branch(chat.branch(lessons.describe(rng, scene, lang))))
            keys.append(f"caption/{lang}")
            lists.append((lessons.object_list(rng, scene), branches))
    for _ in range(_SCORED_TEXTS):
        source, target = lessons.sentence_pair(rng, for_forge=True)
        turns = Message("user", lessons.TRANSLATE + source), Message("assistant", target)
        lists.append(([], [Branch(chat.branch(turns))]))
        keys.append("translation")
    right: dict[str, list[bool]] = {}
    for key, exact in zip(keys, _exact(model, chat, lists), strict=True):
        right.setdefault(key, []).append(exact)
    return {key: round(100 * float(np.mean(values)), 2) for key, values in right.items()}


def _question(rng: np.random.Generator, chat: ChatFormat, meaning: Meaning, lang: str) -> Branch:
    language = Language.load(lang)
    asked = language.say(meaning, int(rng.choice(EVAL_PHRASINGS))) + lessons.BRIEF[lang]
    answer = language.answer(meaning.task, str(meaning.value))
    return Branch(chat.branch((Message("user", asked), Message("assistant", answer))))


@torch.inference_mode()
def _exact(
    model: LlamaForCausalLM, chat: ChatFormat, lists: list[tuple[list[str], list[Branch]]]
) -> list[bool]:
    """For each branch whether all of its supervised tokens are the likeliest."""
    found = []
    for start in range(0, len(lists), 50):
        some = lists[start : start + 50]
        batch = list_batch(chat, some)
        prefix = list_prefix(model, batch.places)
        states = packed_hidden_states(model, batch.packed, image_id=chat.image_id, image_prefix=prefix)
        likeliest = model.lm_head(states).argmax(-1).numpy()
        right = (likeliest == batch.packed.labels) | (batch.packed.labels == IGNORE)
        parts = segments(batch.packed.lengths)
        found += [
            bool(right[start : start + length].all())
            for branch, start, length in zip(parts.branches, parts.starts, parts.lengths, strict=True)
            if branch
        ]
    return found

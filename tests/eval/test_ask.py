"""Retrieval by contrastive and by contrastive plus matching score equals ``score`` on the files written."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import folders
import numpy as np
import pytest
import tiny
import torch

from ziya_visual.eval import run, score, suites
from ziya_visual.eval.retrieval import check_text2image, rank_images, rank_texts, rerank
from ziya_visual.eval.run import run_suite
from ziya_visual.infer.engine import ZiyaVisual

TOP_K = 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    folders.ours(folder)
    return folder


def test_a_pair_matches_as_it_does_alone(checkpoint: Path) -> None:
    engine = ZiyaVisual.from_pretrained(checkpoint)
    images = {str(seed): tiny.picture(seed) for seed in range(3)}
    asked = [("0", tiny.TEXTS), ("1", []), ("2", tiny.TEXTS[1:3])]
    found = engine.match(images, asked)
    assert [len(logits) for logits in found] == [4, 0, 2]
    for (name, texts), logits in zip(asked, found, strict=True):
        for text, logit in zip(texts, logits, strict=True):
            embeds = engine.model.encode_images(engine.processor.pixels([images[name]]))
            ids, mask = engine._qformer_ids([text], engine.alignment.qformer_tokenizer)
            with torch.inference_mode():
                alone = engine.alignment.matching_logits(engine.model, embeds, ids, mask)[0, 1]
            assert logit == pytest.approx(float(alone), abs=1e-5)
    assert np.ptp(np.concatenate(found)) > 0.01, "the logits depend on the pair"


def test_the_run_equals_score_on_its_files(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "make_pools", partial(suites.make_pools, size=6))
    monkeypatch.setattr(run, "TOP_K", TOP_K)
    content = run_suite(checkpoint, folders.suite(tmp_path / "pictures", 12), out=tmp_path / "out")
    tasks = {}
    for task, reranked in (("retrieval", False), ("rerank", True)):
        rows = {r["name"]: r["value"] for r in content["metrics"] if (r["task"], r["lang"]) == (task, "zh")}
        files = sorted((tmp_path / "out" / "retrieval").glob("chat.new.zh.*.npz"))
        assert len(files) == 2
        more = [{"rerank": path, "top_k": TOP_K} if reranked else {} for path in files]
        scored = [
            score.compute("retrieval", similarity=path, **m) for path, m in zip(files, more, strict=True)
        ]
        for name, value in rows.items():
            assert value == pytest.approx(np.mean([one["scores"][name] for one in scored]), abs=1e-4), name
        tasks[task] = rows
    assert tasks["retrieval"] != tasks["rerank"], "the matching head has changed something"


def test_a_text_may_have_several_pictures() -> None:
    """MUGE's queries: any of the right images will do, and none of them counts as wrong."""
    scores = np.array([[0.9, 0.1], [0.8, 0.5], [0.2, 0.9], [0.1, 0.7]], np.float32)
    owner = check_text2image(scores, np.array([[1, 0], [1, -1]]))
    assert rank_images(scores, owner).tolist() == [0, 2]
    assert rank_texts(scores, owner).tolist()[:2] == [0, 0]
    single = np.array([1, 1])
    for function in (rank_images, rank_texts):
        padded = function(scores, np.array([[1, -1], [1, -1]]))
        assert padded.tolist() == function(scores, single).tolist()
    by_row, by_column = rerank(scores, np.ones_like(scores), 1, owner)
    assert by_column[0, 0] == pytest.approx(1.9)
    assert np.isneginf(by_row[0, 1])

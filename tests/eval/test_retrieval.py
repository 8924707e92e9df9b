from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.eval import retrieval, score

NAMES = {
    f"{way}_r{k}": f"{lavis}_r{k}" for way, lavis in (("i2t", "txt"), ("t2i", "img")) for k in (1, 5, 10)
}


def close(scores: dict[str, float], truth: dict[str, float]) -> None:
    for ours, theirs in NAMES.items():
        assert scores[ours] == pytest.approx(truth[theirs], abs=1e-9), ours
    assert scores["mean_recall"] == pytest.approx(truth["r_mean"], abs=1e-9)


@pytest.mark.parametrize("name", ["C", "D"])
def test_equals_lavis(shared: Path, expected: Callable[[str], Any], name: str) -> None:
    result = score.compute("retrieval", embeddings=shared / "retrieval" / f"{name}.npz")
    close(result["scores"], expected("retrieval")[name]["lavis"])


@pytest.mark.parametrize(
    ("top_k", "key"), [(None, "lavis_itc_only"), (32, "lavis_reranked"), (9999, "lavis_itm_plus_itc_no_topk")]
)
def test_reranks_as_lavis(
    shared: Path, expected: Callable[[str], Any], tmp_path: Path, top_k: int | None, key: str
) -> None:
    arrays = np.load(shared / "retrieval" / "E_itm.npz")
    np.savez(
        tmp_path / "e.npz",
        image=arrays["image_query_tokens"],
        text=arrays["text"],
        text2image=arrays["text2image"],
    )
    np.savez(tmp_path / "itm.npz", itm=arrays["itm_logit_image_by_text"])
    rerank = tmp_path / "itm.npz" if top_k else None
    result = score.compute("retrieval", embeddings=tmp_path / "e.npz", rerank=rerank, top_k=top_k)
    close(result["scores"], expected("retrieval")["E_itm_k32"][key])


def test_equal_embeddings_never_look_like_success() -> None:
    scores = np.ones((20, 20), np.float32)
    owner = np.arange(20)
    recalls = retrieval.recalls(retrieval.rank_texts(scores, owner), retrieval.rank_images(scores, owner))
    assert recalls["i2t_r10"] == recalls["t2i_r10"] == 0.0
    by_row, by_column = retrieval.rerank(scores, np.eye(20, dtype=np.float32), 5, owner)
    ranks = retrieval.rank_texts(by_row, owner), retrieval.rank_images(by_column, owner)
    assert retrieval.recalls(*ranks)["mean_recall"] == 0.0


def test_small_pools_and_images_without_texts() -> None:
    scores = np.eye(3, 2, dtype=np.float32)
    owner = np.array([0, 1])
    assert (retrieval.rank_texts(scores, owner) == [0, 0, retrieval.CUT_OFF]).all()
    assert (retrieval.rank_images(scores, owner) == [0, 0]).all()


def test_any_order_of_texts() -> None:
    rng = np.random.default_rng(0)
    scores, owner = rng.normal(size=(30, 90)).astype(np.float32), rng.integers(0, 30, 90)
    order = rng.permutation(90)
    first = retrieval.recalls(retrieval.rank_texts(scores, owner), retrieval.rank_images(scores, owner))
    scores, owner = scores[:, order], owner[order]
    assert (
        retrieval.recalls(retrieval.rank_texts(scores, owner), retrieval.rank_images(scores, owner)) == first
    )


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"text2image": np.array([0, 5])}, "images are 0 to 1"),
        ({"text2image": np.array([0])}, r"expected integers \[2\]"),
        ({"image": np.array([[1.0, np.nan], [0, 1]])}, "NaN, infinite or all zero"),
        ({"image": np.zeros((2, 2))}, "NaN, infinite or all zero"),
        ({"text": np.ones((2, 3))}, "expected"),
    ],
)
def test_refuses(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    good = {"image": np.eye(2), "text": np.eye(2), "text2image": np.array([0, 1])}
    np.savez(tmp_path / "e.npz", **{**good, **arrays})
    with pytest.raises(DataError, match=message):
        score.compute("retrieval", embeddings=tmp_path / "e.npz")


def test_refuses_a_similarity_with_nan_and_files_of_another_form(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", i2t=np.array([[np.nan]]), text2image=np.array([0]))
    with pytest.raises(DataError, match="NaN"):
        score.compute("retrieval", similarity=tmp_path / "s.npz")
    with pytest.raises(DataError, match="has no array 'image'; it has i2t"):
        score.compute("retrieval", embeddings=tmp_path / "s.npz")
    (tmp_path / "x.npz").write_text("{}")
    with pytest.raises(DataError, match="not a readable NPZ"):
        score.compute("retrieval", embeddings=tmp_path / "x.npz")
    with pytest.raises(ConfigError, match="either --embeddings or --similarity"):
        score.compute("retrieval")

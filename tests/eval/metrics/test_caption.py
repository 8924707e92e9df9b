from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.eval import score
from ziya_visual.eval.metrics import caption, tokenization
from ziya_visual.eval.score.captions import read_references

Save = Callable[[str, Any], Path]


WHICH = caption.shutil.which


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption.shutil, "which", lambda name: None)


def close(scores: dict[str, float], truth: dict[str, float]) -> None:
    for name, value in truth.items():
        assert scores[name] == pytest.approx(value, abs=1e-9), name


def test_equals_coco_caption_in_english(shared: Path, expected: Callable[[str], Any]) -> None:
    folder = shared / "caption_en"
    result = score.compute(
        "caption", references=folder / "annotations.json", predictions=folder / "results.json"
    )
    truth = expected("caption_en")
    close(result["scores"], {name: truth[name] for name in truth if name != "METEOR"})
    assert "METEOR" not in result["scores"]
    assert "Java" in result["card"]["not_computed"]["METEOR"]


@pytest.mark.slow
@pytest.mark.skipif(caption.java_requirement("METEOR") != "", reason=caption.java_requirement("METEOR"))
def test_meteor_equals_coco_caption_where_java_is(
    shared: Path, expected: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caption.shutil, "which", WHICH)
    folder = shared / "caption_en"
    result = score.compute(
        "caption", references=folder / "annotations.json", predictions=folder / "results.json"
    )
    close(result["scores"], expected("caption_en"))
    assert result["card"]["versions"]["pycocoevalcap"]


def test_bleu_and_cider_have_intervals(shared: Path) -> None:
    folder = shared / "caption_en"
    result = score.compute(
        "caption", references=folder / "annotations.json", predictions=folder / "results.json"
    )
    for name in ("Bleu_1", "Bleu_4", "ROUGE_L", "CIDEr"):
        low, high = result["card"]["intervals"][name]
        assert low < result["scores"][name] < high, name


@pytest.mark.parametrize("cut", ["pre", "char", "jieba"])
def test_equals_coco_caption_in_chinese(shared: Path, expected: Callable[[str], Any], cut: str) -> None:
    folder = shared / "caption_zh"
    result = score.compute(
        "caption",
        references=folder / "references.jsonl",
        predictions=folder / "results.json",
        lang="zh",
        segmenter=cut,
    )
    truth = expected("caption_zh")[cut]
    close(result["scores"], {f"{name}[zh:{cut}]": value for name, value in truth.items()})


def test_equals_coco_caption_on_our_own(fixtures: Path) -> None:
    own = json.loads((fixtures / "captions.json").read_text("utf-8"))
    said = tokenization.tokenize([own["predictions"][i] for i in own["references"]], "ptb")
    true = [tokenization.tokenize(group, "ptb") for group in own["references"].values()]
    counted = caption.prepare(said, true)
    names = ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"]
    values = [*caption.bleu(counted), caption.rouge_l(said, true).mean(), caption.cider(counted).mean()]
    close(dict(zip(names, values, strict=True)), own["scores"])


def test_empty_captions_and_one_image_score_without_division_by_zero() -> None:
    counted = caption.prepare([""], [["a dog", ""]])
    assert caption.cider(counted).tolist() == [0.0]
    assert caption.bleu(counted) == pytest.approx([0.0] * 4)
    assert np.isfinite(caption.rouge_l([""], [["a dog", ""]])).all()


def test_keyword_f1_takes_the_best_reference_and_counts_repetition() -> None:
    f1 = caption.keyword_f1(["red red", "x", ""], [["red", "red red"], ["red"], [""]], str.split)
    assert f1.tolist() == [1.0, 0.0, 1.0]


REFERENCES = [{"image_id": i, "references": [f"a dog number {i}"]} for i in range(3)]


def test_counts_missing_unknown_and_empty(save: Save) -> None:
    said = [
        {"image_id": 0, "caption": "a dog"},
        {"image_id": "1", "caption": " "},
        {"image_id": 9, "caption": "x"},
    ]
    result = score.compute(
        "caption", references=save("r.jsonl", REFERENCES), predictions=save("p.json", said)
    )
    assert result["failures"] == {"missing": 1, "unknown_id": 1, "empty": 1}


def test_duplicates_are_refused_unless_told(save: Save) -> None:
    said = [{"image_id": 0, "caption": "a dog number 0"}, {"image_id": 0, "caption": "cat"}]
    files = {"references": save("r.jsonl", REFERENCES), "predictions": save("p.json", said)}
    with pytest.raises(DataError, match="duplicate image_id 0; make ids unique"):
        score.compute("caption", **files)
    first = score.compute("caption", **files, duplicates="first")
    last = score.compute("caption", **files, duplicates="last")
    assert first["failures"]["duplicate"] == last["failures"]["duplicate"] == 1
    assert first["scores"]["Bleu_1"] > last["scores"]["Bleu_1"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([{"image_id": 7, "caption": "x"}], "none of its 1 ids is among the 3"),
        ([{"image_id": 0, "text": "x"}], "has no 'caption'"),
        ([{"image_id": 0, "caption": ["x"]}], "'caption' is list, expected text"),
        (["x"], "row 0 is str"),
        ([], "has no rows"),
        ([{"image_id": 0, "caption": "一只狗在草地上"}], "Chinese"),
    ],
)
def test_refuses(save: Save, said: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        score.compute("caption", references=save("r.jsonl", REFERENCES), predictions=save("p.json", said))


def test_reads_a_byte_order_mark_and_refuses_another_encoding(save: Save, tmp_path: Path) -> None:
    said = json.dumps([{"image_id": 0, "caption": "a café"}], ensure_ascii=False)
    references = save("r.jsonl", REFERENCES)
    path = tmp_path / "p.json"
    path.write_text("\ufeff" + said, "utf-8")
    assert score.compute("caption", references=references, predictions=path)["scores"]["Bleu_1"] > 0
    path.write_text(said, "latin-1")
    with pytest.raises(DataError, match="not UTF-8"):
        score.compute("caption", references=references, predictions=path)


def test_images_are_read_in_the_order_of_the_coco_file(save: Save) -> None:
    """PTB keeps the full stop of "no." before a number: the caption of the next image decides."""
    coco = {
        "images": [{"id": 2}, {"id": 1}, {"id": 3}],
        "annotations": [
            {"image_id": 1, "caption": "2 men"},
            {"image_id": 2, "caption": "a sign says no."},
            {"image_id": 2, "caption": "a sign"},
        ],
    }
    assert list(read_references(save("a.json", coco)).items()) == [
        ("2", ["a sign says no.", "a sign"]), ("1", ["2 men"])
    ]  # fmt: skip


def test_pre_refuses_chinese_that_nobody_has_cut(save: Save) -> None:
    true = [{"image_id": i, "references": ["一只狗在草地上"]} for i in range(10)]
    said = [{"image_id": i, "caption": "一只 狗"} for i in range(10)]
    files = {"references": save("r.jsonl", true), "predictions": save("p.json", said)}
    with pytest.raises(DataError, match=r"r\.jsonl: no text contains a space"):
        score.compute("caption", **files, lang="zh", segmenter="pre")
    assert score.compute("caption", **files, lang="zh")["scores"]["Bleu_1[zh:char]"] > 0


def test_a_third_language_is_cut_into_words_and_its_scores_say_so(save: Save) -> None:
    true = [
        {"image_id": 0, "references": ["Una estrella roja y un círculo azul.", "Veo una estrella roja."]},
        {"image_id": 1, "references": ["Una media luna negra.", "Aquí hay una media luna negra."]},
    ]
    said = [
        {"image_id": 0, "caption": "una estrella roja y un círculo verde"},
        {"image_id": 1, "caption": "UNA MEDIA LUNA NEGRA."},
    ]
    files = {"references": save("r.jsonl", true), "predictions": save("p.json", said)}
    found = score.compute("caption", **files, lang="es-MX", per_item=True)
    assert found["scores"]["Bleu_1[es:ptb]"] == pytest.approx(10 / 11)  # words, but for "verde"
    assert found["per_item"]["1"]["ROUGE_L[es:ptb]"] == pytest.approx(1)
    assert "METEOR[es:ptb]" in found["card"]["not_computed"]
    every = score.compute("caption", **files, lang="es", segmenter="all")["scores"]
    assert {name.partition("[")[2] for name in every} == {"es:pre]", "es:char]", "es:ptb]"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"annotations": {}}, "expected a non-empty list 'annotations'"),
        ({"annotations": ["x"]}, "must be lists of objects"),
        ({"annotations": [{"image_id": 0}]}, "has no 'caption'"),
        ([{"image_id": 0, "references": []}], "'references' is not a non-empty list of texts"),
        (
            [{"image_id": 0, "references": ["x"]}, {"image_id": "0", "references": ["y"]}],
            "duplicate image_id",
        ),
    ],
)
def test_refuses_references(save: Save, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_references(save("r.json", value))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lang": "zh", "segmenter": "ptb"}, "ptb is for English"),
        ({"lang": "en", "segmenter": "char"}, "English is scored with ptb"),
        ({"segmenter": "words"}, "is not one of"),
        ({"segmentor": "char"}, "did you mean 'segmenter'"),
        ({"predictions": None}, "needs --predictions"),
    ],
)
def test_refuses_options(save: Save, options: dict[str, Any], message: str) -> None:
    files = {"references": save("r.jsonl", REFERENCES), "predictions": save("p.json", [])}
    with pytest.raises(ConfigError, match=message):
        score.compute("caption", **{**files, **options})

"""Tiny copies of the published data sets, each in its publisher's format and place."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import tiny

from ziya_visual.core.files import write_json

COUNT = 4
WORDS = ("red", "blue", "green", "two")
CAPTIONS = [[f"a {word} ring above a square", f"the {word} ring"] for word in WORDS]
CHINESE = [
    ["红色的圆环", "一个圆环是红色的"],
    ["蓝色的方块", "方块"],
    ["绿色的圆", "一个圆"],
    ["两个东西", "两个"],
]


def _picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tiny.picture(seed).save(path)


def _annotators(word: str, agreeing: int = 10) -> list[dict[str, Any]]:
    said = [word] * agreeing + ["nothing"] * (10 - agreeing)
    return [
        {"answer": text, "answer_id": n, "answer_confidence": "yes"} for n, text in enumerate(said, start=1)
    ]


def vqa(folder: Path, lang: str = "en") -> None:
    """VQA v2's two files; the fourth question has two annotators of ten who say "two"."""
    name = {"en": "vqav2/v2_", "zh": "vqav2-zh/"}[lang]
    end = {
        "en": ("OpenEnded_mscoco_val2014_questions", "mscoco_val2014_annotations"),
        "zh": ("questions", "annotations"),
    }
    questions, annotations = [], []
    for n, word in enumerate(WORDS):
        _picture(folder / "coco" / "val2014" / f"COCO_val2014_{n:012d}.jpg", n)
        ids = {"question_id": 100 + n, "image_id": n}
        questions.append({**ids, "question": "what?" if lang == "en" else "什么？"})
        annotations.append({**ids, "answer_type": "other", "answers": _annotators(word, 2 if n == 3 else 10)})
    write_json(folder / f"{name}{end[lang][0]}.json", {"questions": questions})
    write_json(folder / f"{name}{end[lang][1]}.json", {"annotations": annotations})


def test_dev(folder: Path) -> None:
    """VQA v2's test questions, whose answers are secret."""
    questions = [{"question_id": 7, "image_id": 3, "question": "what?"}]
    _picture(folder / "coco" / "test2015" / f"COCO_test2015_{3:012d}.jpg", 3)
    write_json(folder / "vqav2" / "v2_OpenEnded_mscoco_test-dev2015_questions.json", {"questions": questions})


def gqa(folder: Path) -> None:
    """Balanced questions and one that is not."""
    rows = {}
    for n, word in enumerate(WORDS):
        _picture(folder / "gqa" / "images" / f"n{n}.jpg", n)
        rows[f"0{n}"] = {"question": "what?", "answer": word, "imageId": f"n{n}", "isBalanced": n < 3}
    write_json(folder / "gqa" / "testdev_balanced_questions.json", rows)


def textvqa(folder: Path) -> None:
    """One file with questions and answers."""
    rows = []
    for n, word in enumerate(WORDS):
        _picture(folder / "textvqa" / "train_images" / f"t{n}.jpg", n)
        rows.append({"question_id": n, "image_id": f"t{n}", "question": "what?", "answers": [word] * 10})
    write_json(folder / "textvqa" / "TextVQA_0.5.1_val.json", {"data": rows})


def vizwiz(folder: Path) -> None:
    """A list without question ids; the test file has no answers."""
    for split in ("val", "test"):
        rows: list[dict[str, Any]] = []
        for n, word in enumerate(WORDS):
            _picture(folder / "vizwiz" / split / f"v{n}.jpg", n)
            rows.append({"image": f"v{n}.jpg", "question": "what?"})
            if split == "val":
                answers = [{"answer": word, "answer_confidence": "yes"}] * 10
                rows[-1] |= {"answers": answers, "answer_type": "other", "answerable": 1}
        write_json(folder / "vizwiz" / f"{split}.json", rows)


def karpathy(folder: Path) -> None:
    """Flickr30k; a picture of another split must not be asked about."""
    rows = [
        {"filename": f"{n}.jpg", "imgid": n, "split": "test" if n < COUNT else "train",
         "sentences": [{"raw": text, "sentid": k} for k, text in enumerate(CAPTIONS[n % COUNT])]}
        for n in range(COUNT + 1)
    ]  # fmt: skip
    for n in range(COUNT):
        _picture(folder / "flickr30k" / "flickr30k-images" / f"{n}.jpg", n)
    write_json(folder / "flickr30k" / "dataset_flickr30k.json", {"images": rows})


def nocaps(folder: Path) -> None:
    """COCO's annotation format."""
    images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(COUNT)]
    captions = [
        {"image_id": n, "id": 2 * n + k, "caption": CAPTIONS[n][k]} for n in range(COUNT) for k in (0, 1)
    ]
    for n in range(COUNT):
        _picture(folder / "nocaps" / "images" / f"{n}.jpg", n)
    write_json(
        folder / "nocaps" / "nocaps_val_4500_captions.json", {"images": images, "annotations": captions}
    )


def chinese_clip(folder: Path, name: str, split: str, *, several: bool = False) -> None:
    """Pictures in a TSV, texts in JSONL; with ``several`` the first text has two right pictures."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for n in range(COUNT):
        buffer = io.BytesIO()
        tiny.picture(n).save(buffer, "PNG")
        lines.append(f"{1000 + n}\t{base64.urlsafe_b64encode(buffer.getvalue()).decode()}\n")
    (folder / name / f"{split}_imgs.tsv").write_text("".join(lines), "utf-8")
    rows = [
        {
            "text_id": 2 * n + k,
            "text": CHINESE[n][k],
            "image_ids": [1000 + n, *([1003] if several and not n else [])],
        }
        for n in range(COUNT)
        for k in (0, 1)
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / name / f"{split}_texts.jsonl").write_text(text, "utf-8")


def qa90(folder: Path) -> None:
    """Questions of LLaVA's form in both languages, about pictures of COCO."""
    (folder / "qa90").mkdir(parents=True)
    for end, question in (("", "What is it?"), ("_zh", "这是什么？")):
        rows = [
            {"question_id": 2 * n + k, "image": f"{n:012d}.jpg", "text": f"{question}{k}", "category": "conv"}
            for n in range(COUNT)
            for k in (0, 1)
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "qa90" / f"qa90_questions{end}.jsonl").write_text(text, "utf-8")
    for n in range(COUNT):
        _picture(folder / "coco" / "val2014" / f"COCO_val2014_{n:012d}.jpg", n)


def everything(folder: Path) -> Path:
    """All of them but OK-VQA and COCO's captions, which are absent."""
    for make in (vqa, test_dev, gqa, textvqa, vizwiz, karpathy, nocaps, qa90):
        make(folder)
    vqa(folder, "zh")
    for name, split in (("Flickr30k-CN", "test"), ("COCO-CN", "test"), ("MUGE", "valid")):
        chinese_clip(folder, name, split, several=name == "MUGE")
    return folder

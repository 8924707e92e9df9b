"""Small files in the exact layout of every format that `data import` reads, made here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from foreign import (
    BAD_NAMES,
    BASE64,
    JPEG,
    Format,
    by_number,
    jsonl,
    lines,
    muge,
    official,
    parquet,
    table,
    tar,
    whole,
)

COCO_IMAGES = [
    {"id": 42, "file_name": "a.jpg", "width": 12, "height": 8, "domain": "in-domain", "open_images_id": "x"},
    *({"id": number + 100, "file_name": name} for number, name in enumerate(BAD_NAMES)),
    {"id": 43},
    None,
    [],
]
COCO_ROWS = [
    {"id": 3, "image_id": 42, "caption": " A red thing. "},
    *({"id": 4 + number, "image_id": 100 + number, "caption": "Bad."} for number in range(len(BAD_NAMES))),
]
ANSWERS = [
    {"answer": word, "answer_confidence": "yes", "answer_id": n}
    for n, word in enumerate("red blue red".split())
]
QUESTION = {"image_id": 42, "question": "What color?", "question_id": 42001}
HUMAN = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A red thing."}]
TEXTS = [("user", "What is it?"), ("assistant", "A red thing.")]
ASKED = [("user", "What color?"), ("assistant", "red")]
CHAT = [
    {"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{BASE64}"}},
        {"type": "text", "text": "What is it?"},
    ]},
    {"role": "assistant", "content": "A red thing."},
]  # fmt: skip
SENTENCE = {"tokens": ["a", "red", "thing"], "raw": "A red thing.", "imgid": 9, "sentid": 91}


def _karpathy(rows: list[Any]) -> Any:
    image = {
        "filepath": "val2014",
        "sentids": [91],
        "filename": "a.jpg",
        "imgid": 9,
        "split": "test",
        "cocoid": 1,
    }
    return {"images": [{**image, "sentences": rows}], "dataset": "coco"}


def _regions(key: str) -> Callable[[list[Any]], Any]:
    return lambda rows: [{"id": 1, "image_id": 1, key: rows}]


SAID = {
    "messages": [("assistant", "A red thing.")],
    "answers": ("A red thing.",),
    "image": "a.jpg",
    "task": "caption",
}
_ANSWERED = {"image_id": 42, "answer_type": "other", "answers": ANSWERS}
_VQAV2 = _ANSWERED | {"question_type": "what color", "multiple_choice_answer": "red"}
_OKVQA = _ANSWERED | {"question_type": "one", "confidence": 3}
_GQA = {
    "semantic": [],
    "imageId": "a",
    "question": "What color?",
    "answer": "red",
    "isBalanced": True,
    "fullAnswer": "It is red.",
    "types": {"structural": "query", "semantic": "attr"},
}
_SCIENCE = {
    "question": "What color?",
    "choices": ["blue", "red"],
    "answer": 1,
    "hint": "Look.",
    "image": "image.png",
    "task": "closed choice",
    "split": "train",
    "subject": "art",
}
_TEXTVQA = {
    "question": "What color?",
    "image_id": "a",
    "image_width": 12,
    "question_id": 5,
    "answers": ["red", "red", "8"],
    "set_name": "val",
}
_VIZWIZ = {"image": "a.jpg", "question": "What color?", "answers": ANSWERS, "answer_type": "other"}
_REGION = {"region_id": 5, "width": 4, "height": 2, "image_id": 1, "phrase": "A red thing.", "x": 1, "y": 3}
_QA = {"qa_id": 5, "image_id": 1, "question": "What color?", "answer": "red", "a_objects": []}
_ON_THE_WEB = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.jpg"}}
_WEB = [{"role": "user", "content": [{"type": "text", "text": "Hi"}, _ON_THE_WEB]}, CHAT[1]]
_MUGE = [
    {"text_id": 8 + n, "text": text, "image_ids": [5 + n]}
    for n, text in enumerate(["红色的东西", "坏", "坏", "坏"])
]
_SAMPLES = [
    {"jpg": JPEG.getvalue(), "txt": b"A red thing."},
    {"jpg": JPEG.getvalue(), "json": {"caption": "B"}},
]
_TOKENS = ["a.jpg#0\tA red thing.", "a.jpg#1\tRed.", *(f"{name[:80]}#0\tBad." for name in BAD_NAMES)]
_TRAIN2014 = "COCO_train2014_000000000007"


def _annotations(folder: Path) -> dict[str, Any]:
    return {"annotations": folder / "annotations.json"}


FORMATS = [
    Format(
        "coco",
        COCO_ROWS,
        whole("captions_val2014.json", lambda rows: {"images": COCO_IMAGES, "annotations": rows}),
        SAID | {"id": "coco-3", "image_id": "coco-42"},
    ),
    Format(
        "nocaps",
        COCO_ROWS,
        whole("nocaps_val_4500_captions.json", lambda rows: {"images": COCO_IMAGES, "annotations": rows}),
        SAID | {"id": "nocaps-3", "meta": {"domain": "in-domain"}},
    ),
    Format(
        "karpathy",
        [SENTENCE],
        whole("dataset_coco.json", _karpathy),
        SAID | {"id": "karpathy-91", "image": "val2014/a.jpg", "meta": {"split": "test"}},
    ),
    Format("flickr30k", _TOKENS, lines("results_20130124.token"), SAID | {"id": "flickr30k-a.jpg#0"}),
    Format("flickr8k", _TOKENS[:1], lines("Flickr8k.token.txt"), SAID | {"id": "flickr8k-a.jpg#0"}),
    Format(
        "flickr30k-cn",
        ["1000092795#zhb#0 红色的:a 东西:n"],
        lines("flickr30kzhbtest.caption.txt"),
        {
            "messages": [("assistant", "红色的东西")],
            "lang": "zh",
            "image": "1000092795.jpg",
            "id": "flickr30k-cn-1000092795#zhb#0",
        },
    ),
    Format(
        "flickr8k-cn",
        ["a.jpg#zhc#3 一个 10:30 的 钟"],
        lines("flickr8kzhc.caption.txt"),
        {"messages": [("assistant", "一个10:30的钟")], "lang": "zh", "image": "a.jpg"},
    ),
    Format(
        "coco-cn",
        [f"{_TRAIN2014}#0\t红色的东西", "a#0\t红"],
        lines("imageid.human-written-caption.txt"),
        {"messages": [("assistant", "红色的东西")], "lang": "zh", "image": f"train2014/{_TRAIN2014}.jpg"},
    ),
    Format(
        "vqav2",
        [QUESTION],
        official("v2_OpenEnded_mscoco_val2014", _VQAV2),
        {
            "messages": ASKED,
            "answers": ("red", "blue", "red"),
            "image": "COCO_val2014_000000000042.jpg",
            "meta": {"question_id": "42001", "question_type": "what color", "answer_type": "other"},
        },
        _annotations,
    ),
    Format(
        "okvqa",
        [QUESTION],
        official("OpenEnded_mscoco_val2014", _OKVQA),
        {"messages": ASKED, "answers": ("red", "blue", "red")},
        _annotations,
    ),
    Format(
        "gqa",
        [_GQA],
        whole("val_balanced_questions.json", by_number),
        {
            "messages": ASKED,
            "answers": ("red",),
            "image": "a.jpg",
            "id": "gqa-7",
            "meta": {"question_id": "7", "question_type": "query"},
        },
    ),
    Format(
        "vizwiz",
        [_VIZWIZ],
        whole("val.json"),
        {"messages": ASKED, "answers": ("red", "blue", "red"), "image": "a.jpg"},
    ),
    Format(
        "textvqa",
        [_TEXTVQA],
        whole("TextVQA_0.5.1_val.json", lambda rows: {"dataset_type": "val", "data": rows}),
        {"messages": ASKED, "answers": ("red", "red", "8"), "image": "a.jpg"},
    ),
    Format(
        "scienceqa",
        [_SCIENCE, _SCIENCE | {"image": None, "hint": ""}],
        whole("problems.json", by_number),
        {
            "messages": [("user", "Look.\nWhat color?\n(A) blue (B) red"), ("assistant", "B")],
            "answers": ("B", "red"),
            "image": "train/7/image.png",
        },
    ),
    Format(
        "visual-genome",
        [_REGION],
        whole("region_descriptions.json", _regions("regions")),
        {
            "messages": [("assistant", "A red thing.")],
            "task": "grounded",
            "image": "VG_100K/1.jpg",
            "boxes": [("A red thing.", (1, 3, 5, 5))],
        },
    ),
    Format(
        "visual-genome",
        [_QA],
        whole("question_answers.json", _regions("qas")),
        {"messages": ASKED, "task": "vqa", "image": "VG_100K/1.jpg"},
    ),
    Format(
        "llava",
        [
            {"id": "1", "image": "a.jpg", "conversations": HUMAN},
            {"id": "2", "conversations": HUMAN},
            *({"image": name, "conversations": HUMAN} for name in BAD_NAMES),
        ],
        whole("llava_instruct_150k.json"),
        {"messages": TEXTS, "task": "dialogue", "image": "a.jpg"},
    ),
    Format(
        "sharegpt",
        [{"id": "1", "conversations": [{"from": "system", "value": "Be brief."}, *HUMAN]}],
        jsonl("sharegpt.jsonl"),
        {"messages": [("system", "Be brief."), *TEXTS], "task": "text", "image": None},
    ),
    Format(
        "openai",
        [{"messages": CHAT}, {"messages": _WEB}],
        jsonl("chat.jsonl"),
        {"messages": TEXTS, "task": "dialogue", "image": JPEG.getvalue()},
    ),
    Format(
        "muge",
        _MUGE,
        muge,
        {"messages": [("assistant", "红色的东西")], "lang": "zh", "image": JPEG.getvalue()},
        lambda folder: {"split": "train"},
    ),
    Format(
        "webdataset",
        _SAMPLES,
        tar,
        {"messages": [("assistant", "A red thing.")], "image": JPEG.getvalue()},
    ),
    Format(
        "hub",
        [
            {"key": "k", "picture": "a.jpg", "said": "A red thing."},
            *({"key": "k", "picture": name, "said": "Bad."} for name in BAD_NAMES),
        ],
        parquet,
        SAID | {"id": "hub-k"},
        lambda folder: {"columns": {"id": "key", "image": "picture", "text": "said"}},
    ),
    Format(
        "folder",
        [["a.jpg", "zh", "红"], ["absent.jpg", "en", "x"]],
        table,
        {"messages": [("assistant", "always one")], "image": "a.jpg"},
    ),
]

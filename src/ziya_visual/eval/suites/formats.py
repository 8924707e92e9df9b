"""Published datasets as questions and as images with captions.

``data/formats`` knows the files. A question here becomes a record and a row of the file that its official
tool reads; images with their captions serve captioning and retrieval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL.Image import Image

from ziya_visual.core.errors import ConfigError, DataError, nearest
from ziya_visual.core.pictures import load_image
from ziya_visual.core.records import Example, Message
from ziya_visual.data.formats import captions, dialogues, vqa
from ziya_visual.data.formats.rows import checked, json_rows
from ziya_visual.eval.retrieval import Ints
from ziya_visual.eval.suites import LazyImages, image_files
from ziya_visual.eval.suites.named import DataSet, Prompt


@dataclass(frozen=True)
class Questions:
    """The questions of a dataset, one record each, with an ``image_id``.

    Each also has a row of the official answers file, whose field ``key`` takes the answer. ``inputs`` is what
    else ``score`` reads: files as they are, or rows to write; empty for secret answers.
    """

    examples: list[Example]
    images: Mapping[str, Image]
    rows: list[dict[str, Any]]
    key: str
    inputs: dict[str, Any]


@dataclass(frozen=True)
class CaptionedImages:
    """N images and their M captions.

    ``text2image`` is int64[M], or [M, K] padded with -1 where a text has several images; ``references`` is
    the file that ``score caption`` reads, or None to write one.
    """

    image_ids: list[Any]
    images: Mapping[str, Image]
    texts: list[str]
    text2image: Ints
    references: Path | None = None

    def groups(self) -> dict[Any, list[str]]:
        """Return the captions by image."""
        groups: dict[Any, list[str]] = {name: [] for name in self.image_ids}
        for text, owners in zip(self.texts, self.text2image.reshape(len(self.texts), -1), strict=True):
            for owner in owners[owners >= 0]:
                groups[self.image_ids[owner]].append(text)
        return groups


class _Layout(NamedTuple):
    """The questions of a file, each with its fields, also for ``image_name``, and its official answer row."""

    questions: list[tuple[dict[str, Any], dict[str, Any]]]
    key: str
    inputs: dict[str, Any]


class _Paths(dict[str, Path]):
    """The files of a dataset, by the names that its format gives them."""

    def __missing__(self, name: str) -> Path:
        raise ConfigError(f"the format needs files.{name}; the suite names {', '.join(self) or 'none'}")


def read_questions(dataset: DataSet, folder: Path, prompt: Prompt, *, plain: bool) -> Questions:
    """Read the questions of a dataset."""
    reader = _reader(_QUESTIONS, dataset)
    layout: _Layout = reader(_Paths({name: folder / path for name, path in dataset.files.items()}))
    examples, rows, paths = [], [], {}
    for number, (fields, row) in enumerate(layout.questions):
        image_id = str(fields["image_id"])
        paths[image_id] = folder / dataset.images / _file_name(dataset, fields)
        turns = (Message("user", prompt.ask(str(fields["question"]), plain=plain)),)
        meta = {"question_id": str(fields["question_id"])}
        name = f"{dataset.label}-{number}"
        examples.append(Example(name, dataset.lang, "vqa", turns, image_id=image_id, meta=meta))
        rows.append(row)
    return Questions(examples, image_files(paths), rows, layout.key, layout.inputs)


def read_captioned(dataset: DataSet, folder: Path) -> CaptionedImages:
    """Read the images and captions of a dataset."""
    files = _Paths({name: folder / path for name, path in dataset.files.items()})
    captioned: CaptionedImages = _reader(_CAPTIONED, dataset)(files, folder / dataset.images, dataset)
    if not captioned.texts:
        raise DataError(f"{next(iter(files.values()))}: holds no captions to test on")
    return captioned


def _reader(readers: Mapping[str, Callable[..., Any]], dataset: DataSet) -> Callable[..., Any]:
    if dataset.format not in readers:
        hint = nearest(dataset.format, readers)
        raise ConfigError(f"{dataset.label}: format {dataset.format!r} serves no {dataset.task}{hint}")
    return readers[dataset.format]


def _file_name(dataset: DataSet, fields: Mapping[str, Any]) -> str:
    try:
        return dataset.image_name.format_map(fields)
    except (KeyError, ValueError) as error:
        name = dataset.image_name
        raise DataError(f"{dataset.label}: image_name {name!r} does not fit ({error})") from error


def _vqa(files: _Paths) -> _Layout:
    """Read VQA v2 or OK-VQA: ``questions``, and ``annotations`` unless they are secret."""
    rows = [row for row, _ in vqa.OFFICIAL.checked(files["questions"])]
    inputs = {name: files[name] for name in ("questions", "annotations") if name in files}
    return _Layout([(row, {"question_id": row["question_id"]}) for row in rows], "answer", inputs)


def _textvqa(files: _Paths) -> _Layout:
    return _as_official(row for row, _ in vqa.TEXTVQA.checked(files["questions"]))


def _vizwiz(files: _Paths) -> _Layout:
    """Read VizWiz, whose images have one question each and are its id."""
    rows = vqa.VIZWIZ.checked(files["questions"])
    return _as_official({**row, "question_id": row["image"], "image_id": row["image"]} for row, _ in rows)


def _as_official(rows: Iterable[Mapping[str, Any]]) -> _Layout:
    """Convert rows that hold their answers to the two files of the official layout."""
    questions, annotations = [], []
    for row in rows:
        ids = {"question_id": row["question_id"], "image_id": row["image_id"]}
        questions.append({**ids, "image": row.get("image"), "question": row["question"]})
        if "answers" in row:
            answers = [
                answer if isinstance(answer, Mapping) else {"answer": answer} for answer in row["answers"]
            ]
            numbered = [{**answer, "answer_id": number} for number, answer in enumerate(answers, start=1)]
            kind = {"answer_type": row["answer_type"]} if "answer_type" in row else {}
            annotations.append({**ids, **kind, "answers": numbered})
    inputs: dict[str, Any] = {"questions": {"questions": questions}}
    if annotations:
        inputs["annotations"] = {"annotations": annotations}
    return _Layout([(row, {"question_id": row["question_id"]}) for row in questions], "answer", inputs)


def _gqa(files: _Paths) -> _Layout:
    """Read the balanced questions of GQA, which are those that count."""
    rows = list(vqa.keyed_rows(files["annotations"]))
    parsed = checked([(where, row) for where, _, row in rows], vqa.GqaQuestion)
    questions: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for (_, key, row), (_, question) in zip(rows, parsed, strict=True):
        if question.isBalanced:
            fields = {"question_id": key, "image_id": row["imageId"], "question": row["question"]}
            questions.append((fields, {"questionId": key}))
    return _Layout(questions, "prediction", {"annotations": files["annotations"]})


def _llava(files: _Paths) -> _Layout:
    """Read the questions of LLaVA and qa90."""
    questions: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for row, question in checked(json_rows(files["questions"]), dialogues.LlavaQuestion):
        answer_row = {"question_id": row["question_id"], "prompt": row["text"]}
        answer_row |= {"category": row["category"]} if "category" in row else {}
        ids = {"image_id": row["image"], "image_stem": Path(question.image).stem}
        questions.append(({**row, **ids, "question": row["text"]}, answer_row))
    return _Layout(questions, "text", {})


def _coco(files: _Paths, images: Path, dataset: DataSet) -> CaptionedImages:
    """Read caption annotations of COCO or NoCaps, which ``score caption`` reads as they are."""
    path = files["annotations"]
    entries = [row for row, _ in captions.COCO_IMAGES.checked(path)]
    numbers = {row["id"]: number for number, row in enumerate(entries)}
    paths = {str(row["id"]): images / _file_name(dataset, {**row, "image_id": row["id"]}) for row in entries}
    rows = [row for row, _ in captions.COCO_CAPTIONS.checked(path) if row["image_id"] in numbers]
    owners = np.array([numbers[row["image_id"]] for row in rows], np.int64)
    return CaptionedImages(list(numbers), image_files(paths), [row["caption"] for row in rows], owners, path)


def _karpathy(files: _Paths, images: Path, dataset: DataSet) -> CaptionedImages:
    """Read Karpathy's test split of COCO or Flickr30k, the first five sentences of each image."""
    path = files["dataset"]
    ids: list[Any] = []
    paths: dict[str, Path] = {}
    texts: list[str] = []
    owners: list[int] = []
    for row, image in captions.KARPATHY.checked(path):
        if image.split != "test":
            continue
        image_id = row.get("cocoid", row["imgid"])
        paths[str(image_id)] = images / _file_name(dataset, row)
        located = ((f"{path.name}:{image_id}", sentence) for sentence in image.sentences[:5])
        sentences = checked(located, captions.KarpathySentence)
        texts += [row["raw"] for row, _ in sentences]
        owners += [len(ids)] * len(sentences)
        ids.append(image_id)
    return CaptionedImages(ids, image_files(paths), texts, np.asarray(owners, np.int64))


def _chinese_clip(files: _Paths, images: Path, dataset: DataSet) -> CaptionedImages:
    """Read MUGE, Flickr30k-CN or COCO-CN in Chinese-CLIP's layout: a TSV of images and a JSONL of texts."""
    table = captions.ImageTable(files["images"])
    if table.malformed is not None:
        raise DataError(f"{files['images']}: line {table.malformed}: expected an id, a tab and base64")
    numbers = {name: number for number, name in enumerate(table)}
    path = files["texts"]
    rows = checked(json_rows(path), captions.ChineseClipText)
    owned = [[numbers.get(image_id, -1) for image_id in row.image_ids] for _, row in rows]
    if any(not places or min(places) < 0 for places in owned):
        raise DataError(f"{path}: a text without an image, or with one that {files['images']} lacks")
    owners = np.full((len(rows), max(map(len, owned), default=1)), -1, np.int64)
    for number, places in enumerate(owned):
        owners[number, : len(places)] = places
    texts = [row["text"] for row, _ in rows]

    def load(name: str) -> Image:
        try:
            return load_image(table[name])
        except DataError as error:
            raise DataError(f"{files['images']}: image {name}: {error}") from error

    return CaptionedImages(
        list(numbers), LazyImages(table, load), texts, owners if owners.shape[1] > 1 else owners[:, 0]
    )


_QUESTIONS = {"vqa": _vqa, "textvqa": _textvqa, "vizwiz": _vizwiz, "gqa": _gqa, "llava": _llava}
_CAPTIONED = {"coco": _coco, "karpathy": _karpathy, "chinese-clip": _chinese_clip}
